"""Units of privacy through the launchers: trained, stated and audited as wholes, or refused."""

import csv
import json

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from configs import attack as attack_config
from configs import audit as audit_config
from configs import dpsgd as dpsgd_config
from configs import pate as pate_config
from dpfinjax import data, experiment
from dpfinjax.data import units
from dpfinjax.errors import InputError
from launch import attack, audit, dpsgd, pate
from tests.fuzz import launchers
from tests.launch.test_app import assert_refused
from tests.test_release import STATED

SMALL = {
    "data.sim_bars": 120_000,
    "data.fractions": (0.6, 0.1, 0.1, 0.1, 0.1),
    "model.hidden": (),
    "privacy.unit": "day",
    "privacy.windows_per_unit": 8,
    "batch_size": 20,
    "learning_rate": 0.5,
    "clip_norm": 1.0,
}


def make_config(module, cache, **changes):
    config = module.get_config()
    config.update_from_flattened_dict(SMALL | {"data.cache_dir": cache} | changes)
    return config


def test_a_run_by_day_states_what_dp_accounting_says_of_its_days(tmp_path, cache, capsys):
    config = make_config(dpsgd_config, cache, target_epsilon=3.0, epochs=4.0, accountant="pld")
    private = dpsgd.train_and_evaluate(config, tmp_path / "run")[0]
    stated = json.loads((tmp_path / "run" / "privacy.json").read_text())
    train = data.load(config).train
    days = train.time.astype("datetime64[D]")
    counts = np.unique(days, return_counts=True)[1]
    assert stated["examples"] == counts.size
    assert stated["sample_rate"] == pytest.approx(stated["batch_size"] / counts.size)
    assert stated["windows_used"] == np.minimum(counts, 8).sum()
    assert stated["windows_left_out"] == np.maximum(counts - 8, 0).sum() > 0
    uncovered = f"Of {stated['windows_used'] + stated['windows_left_out']} training windows"
    assert stated["assumptions"][-1].startswith(uncovered)
    released = json.loads((tmp_path / "run" / "release" / "privacy.json").read_text())
    assert set(released) == STATED | {"windows_per_unit"}
    assert not any(uncovered in sentence for sentence in released["assumptions"])
    assert stated["unit"] == "one day (UTC) with all of its windows of 10 bars"
    event = dp_accounting.PoissonSampledDpEvent(
        stated["sample_rate"], dp_accounting.GaussianDpEvent(stated["noise_multiplier"])
    )
    expected = PLDAccountant().compose(event, stated["steps"]).get_epsilon(stated["delta"])
    np.testing.assert_allclose(stated["epsilon"], expected, rtol=1e-4)
    assert private.row.test_accuracy > 0
    assert "adding or removing one day (UTC)" in capsys.readouterr().out


def test_private_models_are_given_units_and_the_baseline_all_windows(cache):
    config = make_config(dpsgd_config, cache)
    splits, facts = data.load(config), data.describe(config)
    private = experiment.runs_of(config, facts)[0]
    config.update(clip_method="none", target_epsilon=None, learning_rate=1.0)
    plain = experiment.training_data(experiment.runs_of(config, facts)[0], splits.train)
    assert plain.units is None
    assert len(plain.targets) == len(splits.train.label)
    given = experiment.training_data(private, splits.train)
    np.testing.assert_array_equal(given.units, units.table(splits.train.unit, 8))


@pytest.mark.long
def test_an_audit_by_day_has_days_as_canaries_and_holds(tmp_path, cache, monkeypatch):
    planted, sound = [], audit.canaries.planted

    def plant(*arguments):
        planted.append(sound(*arguments))
        return planted[-1]

    monkeypatch.setattr(audit.canaries, "planted", plant)
    config = make_config(audit_config, cache, target_epsilon=4.0, epochs=None, steps=5)
    config.clip_method = "vmap"
    config.audit.update(canaries=20, runs=300, network_runs=5)
    assert audit.audit_and_draw(config, tmp_path / "run") == []
    train = data.load(config).train
    table = units.table(train.unit, 8)
    np.testing.assert_array_equal(planted[0].data.units, table)
    changed = np.flatnonzero(np.asarray(planted[0].data.targets) != train.label)
    members = table[planted[0].rows]
    np.testing.assert_array_equal(changed, np.sort(members[members >= 0]))
    with open(tmp_path / "run" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all(float(row["lower"]) <= float(row["upper"]) for row in rows)
    config.audit.canaries = len(table)
    with pytest.raises(InputError, match="below the number of training units"):
        audit.audit_and_draw(config, tmp_path / "other")


@pytest.mark.parametrize(
    ("job", "module"), [(attack.attack_all, attack_config), (pate.train_and_vote, pate_config)]
)
def test_jobs_that_work_by_window_refuse_another_unit(tmp_path, cache, job, module):
    config = module.get_config()
    config.data.update(sim_bars=120_000, cache_dir=cache)
    config.privacy.unit = "day"
    with pytest.raises(InputError, match=r"config\.privacy\.unit is 'day', but launch\.\w+ works"):
        job(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bars_without_the_unit_s_column_end_with_exit_code_2_and_one_sentence(tmp_path):
    (tmp_path / "bars.csv").write_text("time,open,high,low,close\n2020-01-01,1,2,1,2\n")
    flags = ["--config.privacy.unit=client", f"--config.data.source={tmp_path}/bars.csv"]
    flags += [f"--config.data.cache_dir={tmp_path}/cache", f"--workdir={tmp_path}/run"]
    done = launchers.ended("dpsgd", *flags)
    assert_refused(done, f"{tmp_path}/bars.csv has no column 'client' but")
    assert not (tmp_path / "run").exists()
