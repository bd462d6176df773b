"""Students of PATE under attack, beside another model."""

import csv
import json
import shutil

import numpy as np
import pytest

from configs import attack as attack_config
from configs import dpsgd as dpsgd_config
from configs import pate as pate_config
from configs import recognition as recognition_config
from dpfinjax import memory
from dpfinjax.attacks import report
from dpfinjax.errors import InputError
from launch import attack, dpsgd, pate, recognition

NOISY, QUIET = "scale=100000.0", "scale=0.01"
pytestmark = pytest.mark.long
FRACTIONS = (0.35, 0.05, 0.1, 0.15, 0.35)
NETWORK = {"variant": "gaf_cnn", "widths": (4, 4), "hidden": (8,)}
TRAINING = {"epochs": 1.0, "microbatch": 128, "batch_size": 32}


@pytest.fixture(autouse=True, scope="module")
def roomy():
    """Memory for any number of models, without compiling a program to find out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "models_that_fit", lambda *_: 99)
        yield


def attack_on(*folders):
    config = attack_config.get_config("quick")
    config.targets = ",".join(map(str, folders))
    config.attack.update(models=4, steps=50, variance="global")
    config.models_at_once = 2
    return config


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    """A workdir of two students, and one of a model of launch.dpsgd on the same data."""
    folder = tmp_path_factory.mktemp("trained")
    config = pate_config.get_config("quick")
    config.data.update(sim_bars=120_000, cache_dir=cache, fractions=FRACTIONS)
    config.update(teachers=2, mechanism="gaussian", target_epsilon=None, scale=1.0, answers=20)
    config.update(semi_supervised=False, cells=({"scale": 1e5}, {"scale": 1e-2}))
    for part in ("teacher", "student"):
        config[part].model.update(NETWORK)
        config[part].update(TRAINING)
    pate.train_and_vote(config, folder / "pate")
    other = dpsgd_config.get_config()
    other.data.update(sim_bars=120_000, cache_dir=cache, fractions=FRACTIONS)
    other.model.update(NETWORK)
    other.update(target_epsilon=None, clip_method="none", learning_rate=0.1, **TRAINING)
    dpsgd.train_and_evaluate(other, folder / "other")
    return folder


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked") / "run"
    attack.attack_all(attack_on(trained / "pate", trained / "other"), folder)
    return folder


def rows_of(folder):
    with open(folder / "results.csv") as file:
        return {(row["model"], row["attack"]): row for row in csv.DictReader(file)}


def test_each_student_has_its_rows_beside_other_models(trained, attacked):
    rows = rows_of(attacked)
    names = [NOISY, QUIET, "baseline"]
    assert list(rows) == [(model, name) for model in names for name in report.ATTACKS]
    with open(trained / "pate" / "results.csv") as file:
        for row in csv.DictReader(file):
            found = rows[row["model"], "lira"]
            for same in ("epsilon", "delta", "noise_multiplier", "clip_norm", "seed"):
                assert float(found[same]) == float(row[same])
            for split in ("train", "validation", "test"):
                assert found[f"{split}_accuracy"] == row[f"{split}_accuracy"]
    for model in names:
        shadows = np.load(attacked / model / "shadow_models" / "membership.npy")
        assert (shadows.sum(axis=0) == 2).all()
        assert (attacked / "plots" / f"roc_{model}.png").stat().st_size > 10_000


def test_statements_are_those_of_the_targets(trained, attacked):
    stated = json.loads((attacked / "privacy.json").read_text())
    theirs = json.loads((trained / "pate" / "privacy.json").read_text())
    theirs["baseline"] = json.loads((trained / "other" / "privacy.json").read_text())
    assert stated == theirs


def test_under_much_noise_every_attack_is_at_chance_and_within_the_bound(attacked):
    for name in report.ATTACKS:
        row = rows_of(attacked)[NOISY, name]
        epsilon, delta = float(row["epsilon"]), float(row["delta"])
        assert epsilon < 0.01
        # One split of some 200 members and as many others: patterns are never shared out evenly.
        standard_error = (float(row["auc_high"]) - float(row["auc_low"])) / (2 * 1.96)
        assert abs(float(row["auc"]) - 0.5) < 4 * standard_error
        np.testing.assert_allclose(
            float(row["bound_1pct"]), np.exp(epsilon) * 0.01 + delta, rtol=1e-6
        )
        assert row["within_1pct"] == row["within_0_1pct"] == "True"


def test_recognition_is_drawn_of_students_too(attacked, tmp_path):
    config = recognition_config.get_config()
    config.attack_workdir = str(attacked)
    found = recognition.draw(config, tmp_path / "run")
    assert [each.model for each in found] == [NOISY, QUIET, "baseline"]
    assert float(found[0].epsilon) == float(rows_of(attacked)[NOISY, "shadow"]["epsilon"])
    noisy = found[0]
    assert noisy.recognition_rate_bound == pytest.approx(noisy.population_rate, abs=0.01)
    assert (tmp_path / "run" / "plots" / "recognition_against_epsilon.png").exists()


def test_a_finished_attack_says_the_same_again(trained, attacked):
    before = rows_of(attacked)
    attack.attack_all(attack_on(trained / "pate", trained / "other"), attacked)
    assert rows_of(attacked) == before


def test_workdirs_of_unfinished_students_or_of_other_data_are_refused(trained, tmp_path):
    def refuse(words, break_it):
        folder = tmp_path / "copy"
        shutil.copytree(trained / "pate", folder)
        break_it(folder)
        with pytest.raises(InputError, match=words):
            attack.attack_all(attack_on(trained / "other", folder), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        shutil.rmtree(folder)

    def change(folder, part, **fields):
        stored = json.loads((folder / "config.json").read_text())
        stored[part] |= fields
        (folder / "config.json").write_text(json.dumps(stored))

    refuse("does not state the privacy of every student", lambda f: (f / "privacy.json").unlink())
    only = json.dumps({NOISY: {}})
    refuse("every student", lambda f: (f / "privacy.json").write_text(only))
    lost = r"holds no trained model \(0 of 1 epochs are done\)"
    refuse(lost, lambda f: shutil.rmtree(f / QUIET / "checkpoints"))
    refuse("on other data or code", lambda f: change(f, "bound", data="other bars"))
    refuse("on other data or code", lambda f: change(f, "config", teachers=3))
    refuse("of another job", lambda f: change(f, "config", attack={}))
