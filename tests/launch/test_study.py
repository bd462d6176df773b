"""From a config to one page: each part done once, skipped when done, checked before the first."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import study as study_config
from dpfinjax import (
    data,
    entropy,
    experiment,
    memory,
    pretraining,
    report,
    sealed,
    sweeps,
    workdir,
)
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.report import collect
from launch import attack, audit, dpsgd, pate
from launch import study as launcher
from tests.fuzz import launchers
from tests.launch.test_app import CLONE, assert_refused
from tests.test_resumable import Killed

pytestmark = pytest.mark.usefixtures("empty_pictures")

PAGES = ("report.html", "results.csv", "results.tex")
LIKE_OURS = {
    # The published recipe's noise with our network and batches, whose program is compiled already.
    "published.model.variant": "gaf_series",
    "published.batch_size": None,
    "published.learning_rate": None,
    "published.momentum": 0.0,
    "published.ema_decay": 0.98,
}
TINY = LIKE_OURS | {
    "parts": ("dpsgd,published", "pate", "attack", "audit"),
    "attacked": ("dpsgd,published",),
    "data.sim_bars": 120_000,
    "dpsgd.epochs": 3.0,
    "dpsgd.augment.copies": 0,
    "dpsgd.microbatch": 512,  # one piece, which compiles faster
    "dpsgd.accountant": "rdp",
    "dpsgd.cells": ({"target_epsilon": 4.0}, {"target_epsilon": 8.0}),
    "dpsgd.baseline.epochs": 3.0,
    "dpsgd.baseline.augment.copies": 0,
    "published.epochs": 3.0,
    "published.microbatch": 512,
    "published.accountant": "rdp",
    "published.cells": ({"noise_multiplier": 1.0},),
    "pate.teachers": 3,
    "pate.answers": 30,
    "pate.semi_supervised": False,
    "pate.teacher.epochs": 1.0,
    "pate.teacher.microbatch": 512,
    "pate.student.microbatch": 512,
    "pate.student.epochs": 1.0,
    "attack.models": 4,
    "attack.steps": 50,
    "audit.canaries": 40,
    "audit.runs": 50,
    "audit.network_runs": 4,
}


def make_config(cache, **changes):
    config = study_config.get_config("quick")
    config.seeds = 2
    config.update_from_flattened_dict(TINY | {"data.cache_dir": cache} | changes)
    return config


@pytest.fixture(autouse=True)
def roomy(monkeypatch):
    """Memory for any number of models, without compiling a program to find out; the same noise."""
    monkeypatch.setattr(memory, "models_that_fit", lambda *_: 99)
    monkeypatch.setattr(entropy.secrets, "randbits", lambda _: 7408)


@pytest.fixture(scope="module")
def done(tmp_path_factory, cache, empty_pictures):
    """A finished study's folder, and what was found."""
    folder = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "models_that_fit", lambda *_: 99)
        patch.setattr(entropy.secrets, "randbits", lambda _: 7408)
        return folder, launcher.study(make_config(cache), folder)


@pytest.fixture
def copied(done, tmp_path):
    """A copy of the finished study under the same name of its last folder."""
    return shutil.copytree(done[0], tmp_path / "run")


def seal_again(folder):
    """Makes changed files of a finished part pass for what its launcher wrote."""
    sealed.write(folder, json.loads((folder / sealed.SEAL).read_text()))


def no_work(patch, *but):
    """Makes every launcher fail, and the loading of data too, except for those that are named."""

    def refuse(*_):
        raise AssertionError("a step that is done was done again")

    jobs = {
        "data": (launcher.images, "build_and_draw"),
        "dpsgd": (dpsgd, "train_and_evaluate"),
        "pate": (pate, "train_and_vote"),
        "attack": (attack, "attack_all"),
        "audit": (audit, "audit_and_draw"),
        "load": (data, "load"),
    }
    for name in set(jobs) - set(but):
        patch.setattr(*jobs[name], refuse)


def pages_of(folder):
    return {name: (folder / name).read_bytes() for name in PAGES}


def test_every_model_has_its_accuracies_statement_and_command(done):
    folder, found = done
    assert [model.name for model in found.models] == [
        "dpsgd/baseline",
        "dpsgd/target_epsilon=4.0",
        "dpsgd/target_epsilon=8.0",
        "published/noise_multiplier=1.0",
        "pate/pate",
    ]
    assert [m.family for m in found.models] == ["baseline", "dpsgd", "dpsgd", "published", "pate"]
    assert [m.label for m in found.models] == [
        "Non-private",
        "DP-SGD, epsilon 4",
        "DP-SGD, epsilon 8",
        "Published recipe, noise 1",
        "PATE, epsilon 8",
    ]
    for model in found.models:
        part, _, cell = model.name.partition("/")
        with open(folder / part / "results.csv") as file:
            rows = [row for row in csv.DictReader(file) if row["model"].startswith(cell)]
        assert model.test == tuple(float(row["test_accuracy"]) for row in rows)
        assert model.validation == tuple(float(row["validation_accuracy"]) for row in rows)
        assert {model.epsilon} == {float(row["epsilon"]) for row in rows}
        assert len(rows) == 2
        assert "privacy.json" not in model.sentence
        assert model.command.startswith("python -m launch.")
        assert "--config.seed=" not in model.command
        assert (model.release == "") == (model.family == "baseline")
        if model.release:
            assert model.release == f"{model.name},seed=0/release"
            assert (folder / model.release / "MODEL_CARD.md").is_file()
    assert len({model.command.partition("--workdir=")[2] for model in found.models}) == 5
    assert found.counts["train"].keys() == set(PATTERNS)
    assert found.source == "a simulated market of 120,000 bars"


def test_per_pattern_accuracies_are_those_of_all_seeds_together(done):
    _, found = done
    tested = found.counts["test"]
    for model in found.models[:4]:
        right = sum(model.per_pattern[p] * n for p, n in tested.items() if n)
        assert right / sum(tested.values()) == pytest.approx(np.mean(model.test))
    assert found.models[-1].per_pattern == {}


def test_the_first_seed_of_each_training_is_attacked_and_no_other(done):
    folder, found = done
    attacked = {path.parent.name for path in (folder / "attack").glob("*/is_member.npy")}
    assert attacked == {
        "baseline,seed=0",
        "target_epsilon=4.0,seed=0",
        "target_epsilon=8.0,seed=0",
        "noise_multiplier=1.0,seed=0",
    }
    for model in found.models[:4]:
        name = f"{model.name.partition('/')[2]},seed=0"
        with open(folder / "attack" / "results.csv") as file:
            rows = {r["attack"]: r for r in csv.DictReader(file) if r["model"] == name}
        own = {attack.name: attack for attack in model.attacks}
        assert len(own) == len(rows) == 5
        for key, label in collect.ATTACKS.items():
            assert own[label].auc == float(rows[key]["auc"])
            assert own[label].tpr == float(rows[key]["tpr_0_1pct"])
        members = np.load(folder / "attack" / name / "member_probs.npy")
        assert model.members == tuple(np.sort(members).tolist())
        assert set(model.exposure) == set(PATTERNS)
    assert found.models[-1].attacks == ()
    assert any("Not attacked, and so not recommended: PATE." in r for r in found.remarks)


def test_what_is_audited_is_the_study_s_own_training(done, cache):
    folder, found = done
    config = make_config(cache)
    facts = data.describe(config)
    trained = {
        run.cell: run.plan
        for run in experiment.runs_of(launcher.config_of(config, "dpsgd"), facts)
        if run.config.seed == 0
    }
    audited = {
        run.cell: run.plan
        for step in launcher.steps_of(config, folder, facts)
        if step.name.startswith("audit/")
        for run in experiment.runs_of(step.config, facts)
    }
    assert audited == {name: trained[name] for name in audited}
    assert set(audited) == {"target_epsilon=4.0", "target_epsilon=8.0"}
    for model in found.models:
        assert bool(model.audits) == (model.family == "dpsgd")


def test_only_bounds_that_hold_whatever_else_are_reported(done):
    folder, found = done
    (model,) = (m for m in found.models if m.epsilon > 7.9 and m.family == "dpsgd")
    path = folder / "audit" / model.name / "audit.json"
    (lines,) = json.loads(path.read_text()).values()
    told = [line["alarm"] for line in lines if line["decides"]]
    assert [audit.lower for audit in model.audits] == told
    assert len(told) < len(lines)
    assert {audit.confidence for audit in model.audits} == {0.99}


def test_a_finished_study_is_not_worked_on_and_reported_with_the_same_bytes(
    done, cache, monkeypatch
):
    folder, _ = done
    before = pages_of(folder)
    no_work(monkeypatch)
    for name in PAGES:
        (folder / name).unlink()
    launcher.study(make_config(cache), folder)
    assert pages_of(folder) == before


def test_a_study_that_was_stopped_goes_on_with_what_is_left(done, cache, tmp_path, monkeypatch):
    folder, audit_once, audited = tmp_path / "run", audit.audit_and_draw, []

    def die(config, place):
        audited.append(place)
        if len(audited) == 2:
            raise Killed
        return audit_once(config, place)

    monkeypatch.setattr(audit, "audit_and_draw", die)
    config = make_config(cache, parts=("dpsgd", "audit"))
    with pytest.raises(Killed):
        launcher.study(config, folder)
    assert not (folder / "report.html").exists()
    no_work(monkeypatch, "audit", "load")
    found = launcher.study(config, folder)
    assert [path.name for path in audited] == [
        "target_epsilon=4.0",
        "target_epsilon=8.0",
        "target_epsilon=8.0",
    ]
    for own, same in zip(found.models, done[1].models, strict=False):
        assert (own.name, own.test, own.audits) == (same.name, same.test, same.audits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": ()}, "config.parts is ''; it must name some of dpsgd"),
        ({"parts": ("dpsgd", "audits")}, "config.parts is 'dpsgd,audits'"),
        ({"parts": ("pate", "attack")}, "config.parts has attack without dpsgd"),
        ({"parts": ("published", "audit")}, "config.parts has audit without dpsgd"),
        ({"tolerance": -0.1}, "config.tolerance is -0.1"),
        ({"tolerance": float("nan")}, "config.tolerance is nan"),
        ({"seeds": 0}, "config.seeds is 0"),
        ({"delta": 2.0}, "config.delta is 2.0"),
        ({"models_at_once": 0}, "config.models_at_once is 0"),
        ({"privacy.unit": "day"}, "config.privacy.unit is 'day', but pate works window by window"),
        ({"data.source": "/no/bars.csv"}, "/no/bars.csv"),
        ({"parts": ("pretrained",), "data.seed": pretraining.MARKET}, "config.data.seed is 7408"),
        ({"attacked": ("dpsgd", "gan")}, "config.attacked is 'dpsgd,gan'"),
        ({"attacked": ("",)}, "config.attacked is ''"),
        ({"attacked": ("pretrained",)}, "config.parts has attack without pretrained"),
        ({"dpsgd.clip_norm": 0.0}, "config.dpsgd.clip_norm is 0.0"),
        ({"dpsgd.cells": ({"colour": 1},)}, "config.dpsgd.cells changes 'colour'"),
        ({"dpsgd.sweep.select": "private"}, "config.dpsgd.sweep.select is 'private'"),
        ({"published.batch_size": 10**6}, "config.published.batch_size is 1000000"),
        ({"published.model.variant": "huge"}, "huge"),
        ({"pate.teachers": 10**6}, "config.pate.teachers is 1000000"),
        ({"pate.mechanism": "loud"}, "config.pate.mechanism is 'loud'"),
        ({"pate.teacher.epochs": -1.0}, "config.pate.teacher.epochs is -1.0"),
        ({"pate.queries": 10**6}, "config.pate.queries is 1000000"),
        ({"attack.models": 3}, "config.attack.models is 3"),
        ({"attack.variance": "no"}, "config.attack.variance"),
        ({"audit.canaries": 10**6}, "config.audit.canaries is 1000000; it must be below"),
        ({"audit.score": "no"}, "config.audit.score is 'no'"),
    ],
)
def test_a_mistake_in_any_part_is_found_before_anything_is_done(cache, tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        launcher.study(make_config(cache, **changes), tmp_path / "run")
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_the_last_part_is_one_sentence(cache, tmp_path):
    data.describe(make_config(cache))  # prepared with a bar of its own
    done = launchers.ended(
        "study",
        "--config=configs/study.py:quick",
        "--config.data.sim_bars=120000",
        f"--config.data.cache_dir={cache}",
        "--config.audit.canaries=10000000",
        f"--workdir={tmp_path}/run",
    )
    assert_refused(done, "config.audit.canaries is 10000000")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", ["", "quick", "paper"])
def test_what_all_parts_share_stands_outside_of_them(variant):
    config = study_config.get_config(variant)
    for part in study_config.PARTS:
        assert not set(config[part]) & set(study_config.SHARED)


def test_a_folder_whose_name_would_be_divided_is_refused(cache, tmp_path):
    with pytest.raises(InputError, match="has a comma"):
        launcher.study(make_config(cache), tmp_path / "a,b")


def test_a_folder_of_another_study_is_refused(done, cache):
    with pytest.raises(InputError, match=r"config\.audit\.runs is 50 there and 51 here"):
        launcher.study(make_config(cache, **{"audit.runs": 51}), done[0])


def test_a_smaller_epsilon_in_a_finished_part_is_not_believed(done, copied, cache, monkeypatch):
    path = copied / "dpsgd" / "privacy.json"
    written = path.read_text()
    content = json.loads(written)
    for claim in content.values():
        claim["epsilon"] = 0.1
    path.write_text(json.dumps(content))
    no_work(monkeypatch, "dpsgd", "load")
    found = launcher.study(make_config(cache), copied)
    assert path.read_text() == written
    assert [m.epsilon for m in found.models] == [m.epsilon for m in done[1].models]
    (copied / "attack" / "results.csv").write_text("cut")
    no_work(monkeypatch, "dpsgd", "load")
    with pytest.raises(AssertionError, match="done again"):
        launcher.study(make_config(cache), copied)


def test_a_refuted_epsilon_is_in_the_report_and_ends_with_exit_code_1(
    copied, cache, capsys, monkeypatch
):
    path = copied / "audit" / "dpsgd" / "target_epsilon=4.0" / "audit.json"
    content = json.loads(path.read_text())
    content["target_epsilon=4.0"][0] |= {"accused": True, "alarm": 5.5}
    path.write_text(json.dumps(content))
    seal_again(path.parent)
    no_work(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        launcher.study_or_fail(make_config(cache), copied)
    assert caught.value.code == 1
    assert "FAILED: target_epsilon=4.0" in capsys.readouterr().err
    assert "proves an epsilon above 5.500, but 4 is stated" in (copied / "report.html").read_text()


def test_the_report_has_no_folder_and_nothing_that_must_not_be_published(
    copied, cache, monkeypatch
):
    path = copied / "pate" / "results.csv"
    with open(path) as file:
        rows = list(csv.DictReader(file))
    workdir.write_csv(path, [row | {"private_epsilon": 7182.818} for row in rows])
    seal_again(path.parent)
    no_work(monkeypatch)
    found = launcher.study(make_config(cache), copied)
    for secret in ("7182.8", "data-dependent"):
        assert secret not in repr(found._replace(pictures=()))
    for content in pages_of(copied).values():
        for folder in (cache, copied, CLONE):
            assert str(folder).encode() not in content


def test_pate_is_left_out_where_public_windows_lack_a_pattern_and_the_reader_is_told(
    copied, cache, monkeypatch
):
    config = make_config(cache)
    facts = data.describe(config)
    rare = PATTERNS[3]
    facts.examples["public"][rare] = 0
    steps = [step.name for step in launcher.steps_of(config, copied, facts)]
    assert "pate" not in steps
    assert {"dpsgd", "published", "attack"} < set(steps)

    monkeypatch.setattr(data, "describe", lambda _: facts)
    no_work(monkeypatch)
    shutil.rmtree(copied / "pate")
    workdir.write_json(copied / "data" / "facts.json", facts._asdict())
    seal_again(copied / "data")
    found = launcher.study(config, copied)
    assert [m for m in found.models if m.family == "pate"] == []
    assert any(f"has no window of {rare}" in remark for remark in found.remarks)


def test_a_model_s_command_gives_its_settings(monkeypatch):
    for variant in ("", "quick", "paper"):
        config = study_config.get_config(variant)
        for part in collect.TRAININGS:
            whole, name = launcher.config_of(config, part), "pate" if part == "pate" else None
            models = sweeps.models_of(whole, name)
            for model in {model.cell: model for model in models.values()}.values():
                family = "baseline" if model.cell == "baseline" else part
                command = launcher.command_of("a/b", family, entropy.as_given(model.config))
                assert "--config.seed=" not in command  # it draws its own
                given = parsed(command, monkeypatch)
                (alone,) = {
                    m.cell: m.config for m in sweeps.models_of(given, name).values()
                }.values()
                assert told(alone, seed=config.seed) == told(model.config, seed=config.seed)


def parsed(command, patch):
    """The config that a command gives to its launcher."""
    python, _, job, *words = shlex.split(command)
    assert python == "python"
    words = [word.replace("=configs/", f"={CLONE}/configs/") for word in words]
    patch.setattr("sys.argv", [job, *words])  # where the config's flags look for their names
    values = flags.FlagValues()
    found = config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    values([job, *words])
    sweeps.settle_pairs(found.value, config_flags.get_override_values(values["config"]))
    return found.value


def told(config, seed):
    """The settings that matter to a model, of the first seed."""
    left_out = ("cells", "with_baseline", "baseline", "sweep")
    json_like = workdir.as_json(config) | {"seed": seed}
    return {name: value for name, value in json_like.items() if name not in left_out}


def test_pretrained_models_are_trained_and_attacked_like_the_others(cache, tmp_path):
    changes = {"parts": ("dpsgd", "pretrained", "attack"), "attacked": ("pretrained", "dpsgd")}
    config = make_config(cache, **changes)
    facts = data.describe(config)
    steps = {step.name: step for step in launcher.steps_of(config, tmp_path, facts)}
    assert list(steps) == [
        "data",
        "dpsgd",
        "pretrained",
        "attack",
    ]
    assert steps["pretrained"].config.pretrain.sim_bars > 0
    assert steps["dpsgd"].config.pretrain.sim_bars == 0
    targets = [Path(name).name for name in steps["attack"].config.targets.split(",")]
    assert targets == ["dpsgd", "pretrained"]


def test_the_recommendation_is_told(done, cache, capsys, monkeypatch):
    no_work(monkeypatch)
    found = launcher.study(make_config(cache), done[0])
    out = capsys.readouterr().out
    assert report.recommend(found).sentence in out
    assert all(model.label in out for model in found.models)
    assert out.rstrip().endswith("report.html")
