"""The audit job: intervals for a sound training, exit code 1 for one that states too little."""

import csv
import json

import pytest

from configs import audit as audit_config
from dpfinjax.attacks import mutants
from dpfinjax.errors import InputError
from launch import audit
from tests.fuzz import launchers
from tests.launch.test_app import assert_refused

SMALL = {
    "data.sim_bars": 120_000,
    "batch_size": 64,
    "steps": 5,
    "epochs": None,
    "model.hidden": (),
    "clip_method": "vmap",
    "audit.canaries": 100,
    "audit.runs": 1000,
    "audit.network_runs": 20,
}


def make_config(cache, variant="", **changes):
    config = audit_config.get_config(variant)
    config.update_from_flattened_dict(SMALL | {"data.cache_dir": cache} | changes)
    return config


def rows_of(folder):
    with open(folder / "results.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_a_sound_training_has_an_interval_for_each_audit(tmp_path, cache, capsys):
    config = make_config(cache, cells=({"target_epsilon": 2.0}, {"target_epsilon": 6.0}))
    assert audit.audit_and_draw(config, tmp_path / "run") == []
    rows = rows_of(tmp_path / "run")
    assert [float(row["upper"]) for row in rows[::6]] == pytest.approx([2.0, 6.0], rel=1e-3)
    assert len(rows) == 12
    assert all(float(row["lower"]) <= float(row["upper"]) for row in rows)
    assert max(float(row["lower"]) for row in rows[6:]) > 2
    printed = capsys.readouterr().out
    assert printed.count("<= epsilon <=") == 12
    written = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert list(written) == ["target_epsilon=2.0", "target_epsilon=6.0"]
    assert (tmp_path / "run" / "plots" / "audit.png").stat().st_size > 10_000


def test_an_understated_epsilon_ends_with_exit_code_1(tmp_path, cache, capsys):
    config = make_config(cache, target_epsilon=8.0, stated_epsilon=0.5)
    with pytest.raises(SystemExit) as ended:
        audit.audit_or_fail(config, tmp_path / "run")
    assert ended.value.code == 1
    told = capsys.readouterr().err.splitlines()[-1]  # data that are prepared here come before
    assert told.startswith("FAILED: dpsgd: ")
    assert "but 0.5 is stated" in told
    assert "True" in {row["accused"] for row in rows_of(tmp_path / "run")}


def test_mutants_are_told_in_a_table(tmp_path, cache, monkeypatch, capsys):
    few = {name: mutants.MUTANTS[name] for name in ("noise halved", "PATE noise on class 0 only")}
    monkeypatch.setattr(mutants, "MUTANTS", few)
    config = make_config(cache, "mutants", mutant_runs=2000, mutant_seeds=2)
    audit.audit_or_fail(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert all(f"{name:<42}   2 of 2            0 of 2" in printed for name in few)
    assert [row["caught"] for row in rows_of(tmp_path / "run")] == ["True"] * 4
    assert (tmp_path / "run" / "plots" / "mutants.png").stat().st_size > 10_000


def test_a_mutant_that_escapes_ends_with_exit_code_1(tmp_path, cache, monkeypatch, capsys):
    sound = mutants.MUTANTS["noise halved"].unbroken
    monkeypatch.setattr(mutants, "MUTANTS", {"nothing broken": mutants.Mutant(sound, sound)})
    config = make_config(cache, "mutants", mutant_runs=2000, mutant_seeds=1)
    with pytest.raises(SystemExit) as ended:
        audit.audit_or_fail(config, tmp_path / "run")
    assert ended.value.code == 1
    assert "FAILED: nothing broken: caught with 0 of 1 seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audit.canaries", 0),
        ("audit.canaries", 10**6),
        ("audit.others", 10**6),
        ("audit.runs", 0),
        ("audit.confidence", 1.0),
        ("audit.alarm_confidence", 0.0),
        ("audit.kind", "loud"),
        ("audit.score", "luck"),
        ("stated_epsilon", -1.0),
        ("target_epsilon", -1.0),
        ("cells", ({"luck": 1},)),
    ],
)
def test_mistakes_are_named_and_leave_no_folder(tmp_path, cache, field, value):
    with pytest.raises(InputError, match=r"config\." + field):
        audit.audit_and_draw(make_config(cache, **{field: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mistakes_about_mutants_are_named(tmp_path, cache):
    for field in ("mutant_runs", "mutant_seeds"):
        with pytest.raises(InputError, match=field):
            audit.audit_and_draw(make_config(cache, "mutants", **{field: 0}), tmp_path / "run")


def test_bad_input_ends_with_exit_code_2_and_one_sentence():
    done = launchers.ended("audit", "--config.audit.kind=loud")
    assert_refused(done, "config.audit.kind is 'loud'; it must be one of mislabelled, random.")
