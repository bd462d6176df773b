"""From a config to a table of what attacks find, and the recognition rate drawn from it."""

import csv
import json
import shutil

import numpy as np
import pytest

from configs import attack as attack_config
from configs import data as data_config
from configs import recognition as recognition_config
from dpfinjax import memory, workdir
from dpfinjax.attacks import metrics, report, shadow_models
from dpfinjax.errors import InputError
from launch import attack, recognition
from launch import data as data_launcher
from tests.launch.test_app import assert_refused, launch
from tests.test_resumable import Killed

pytestmark = pytest.mark.long

SMALL = {
    "data.sim_bars": 120_000,
    "batch_size": 32,
    "microbatch": 128,  # one piece, which compiles faster
    "epochs": 4.0,
    "accountant": "rdp",
}
NETWORK = {"model.variant": "gaf_cnn", "model.widths": (8, 8), "model.hidden": (32,)}
PRIVATE = "noise_multiplier=2.0"


@pytest.fixture(autouse=True)
def roomy(monkeypatch):
    """Memory for any number of models, without compiling a program to find out."""
    monkeypatch.setattr(memory, "models_that_fit", lambda *_: 99)


def make_config(cache, **changes):
    config = attack_config.get_config("quick")
    config.cells = ({"noise_multiplier": 2.0},)
    config.baseline.model.variant = "gaf_cnn"
    # It overfits.
    config.baseline.update(batch_size=32, epochs=60.0, learning_rate=5e-3, weight_decay=0.0)
    small = SMALL | NETWORK | {"data.cache_dir": cache, "attack.models": 8, "attack.steps": 200}
    small |= {"models_at_once": 4, "checkpoint_epochs": 20}
    config.update_from_flattened_dict(small | changes)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A finished attack on a non-private model that overfits and on a private one."""
    folder = tmp_path_factory.mktemp("attack") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "models_that_fit", lambda *_: 99)
        attack.attack_all(make_config(cache), folder)
    return folder


def rows_of(folder):
    with open(folder / "results.csv") as file:
        return {(row["model"], row["attack"]): row for row in csv.DictReader(file)}


def arrays_of(folder):
    return {str(p.relative_to(folder)): np.load(p) for p in sorted(folder.rglob("*.npy"))}


def test_an_attack_leaves_everything_it_promises(run):
    found = {str(path.relative_to(run)) for path in run.rglob("*")}
    for model in ("baseline", PRIVATE):
        assert found >= {
            f"{model}/member_probs.npy",
            f"{model}/nonmember_probs.npy",
            f"{model}/recognition.json",
            f"{model}/leakage_per_pattern.csv",
            f"{model}/shadow_models/membership.npy",
            f"{model}/shadow_models/logits.npy",
            f"plots/privacy_risk_{model}.png",
            f"plots/roc_{model}.png",
            f"plots/exposed_windows_{model}.png",
        }
    assert set(rows_of(run)) == {
        (model, name) for model in ("baseline", PRIVATE) for name in report.ATTACKS
    }
    assert json.loads((run / "privacy.json").read_text())["baseline"]["epsilon"] == "inf"


def test_a_model_that_overfits_is_attacked_above_chance_by_every_attack(run):
    rows = rows_of(run)
    assert float(rows["baseline", "lira"]["train_accuracy"]) > 0.99
    for name in report.ATTACKS:
        assert float(rows["baseline", name]["auc_low"]) > 0.5, name
    assert float(rows["baseline", "lira"]["auc"]) > 0.6


def test_the_private_model_is_within_what_is_proven_and_told_so(run):
    for name in report.ATTACKS:
        row = rows_of(run)[PRIVATE, name]
        assert row["within_1pct"] == row["within_0_1pct"] == "True"
        epsilon, delta = float(row["epsilon"]), float(row["delta"])
        expected = min(np.exp(epsilon) * 0.001 + delta, 1.0)
        np.testing.assert_allclose(float(row["bound_0_1pct"]), expected, rtol=1e-6)


def test_the_paper_s_numbers_are_means_of_the_saved_probabilities(run):
    for model in ("baseline", PRIVATE):
        members = np.load(run / model / "member_probs.npy")
        others = np.load(run / model / "nonmember_probs.npy")
        said = json.loads((run / model / "recognition.json").read_text())
        assert said["recognition_rate"] == pytest.approx(members.mean())
        assert said["population_rate"] == pytest.approx(others.mean())
        row = rows_of(run)[model, "shadow"]
        assert (len(members), len(others)) == (int(row["members"]), int(row["nonmembers"]))
        scores = np.concatenate([members, others])
        curve = metrics.roc(scores, np.arange(len(scores)) < len(members))
        assert float(row["auc"]) == pytest.approx(curve.auc)


def test_patterns_are_told_apart(run):
    with open(run / "baseline" / "leakage_per_pattern.csv") as file:
        lines = [line for line in csv.DictReader(file) if line["attack"] == "lira"]
    areas = [float(line["auc"]) for line in lines]
    assert areas == sorted(areas, reverse=True)
    members = sum(int(line["members"]) for line in lines)
    assert members == int(rows_of(run)["baseline", "lira"]["members"])


def test_a_killed_attack_on_given_models_started_again_finds_the_same(
    run, tmp_path, cache, monkeypatch
):
    config = make_config(cache, targets=str(run / "targets"))
    add, chunks = shadow_models._Progress.add, []

    def die(self, answers):
        chunks.append(answers)
        if len(chunks) == 4:  # the second chunk of the second model
            raise Killed
        add(self, answers)

    monkeypatch.setattr(shadow_models._Progress, "add", die)
    with pytest.raises(Killed):
        attack.attack_all(config, tmp_path / "run")
    assert len(rows_of(tmp_path / "run")) == len(report.ATTACKS)
    assert not (tmp_path / "run" / PRIVATE / "shadow_models" / "logits.npy").exists()
    attack.attack_all(config, tmp_path / "run")
    assert len(chunks) == 5  # only what was not kept
    first, second = arrays_of(run), arrays_of(tmp_path / "run")
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    for key, row in rows_of(run).items():
        again = rows_of(tmp_path / "run")[key]
        assert row | {"seconds": 0} == again | {"seconds": 0}


def test_models_trained_again_by_another_config_are_refused(run, tmp_path, cache):
    """The shadow models would no longer be trained as their targets."""
    targets = tmp_path / "targets"
    shutil.copytree(run / "targets", targets)
    config = make_config(cache, targets=str(targets))
    facts = attack.data.describe(config)
    chosen = attack.targets.trained([targets], facts)
    workdir.claim(tmp_path / "run", config, attack.targets.bound(chosen, facts))
    stored = json.loads((targets / "config.json").read_text())
    stored["config"]["ema_decay"] = 0.5
    (targets / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"ema_decay is 0\.0 there and 0\.5 here"):
        attack.attack_all(config, tmp_path / "run")
    stored["config"]["batch_size"] = 31  # and these are no longer the numbers of the training
    (targets / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="on other data or code"):
        attack.attack_all(config, tmp_path / "other")


def test_folders_without_a_trained_model_are_refused(run, tmp_path, cache):
    def refuse(folder, words):
        with pytest.raises(InputError, match=words):
            attack.attack_all(make_config(cache, targets=str(folder)), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    refuse(tmp_path / "nothing", "no readable config.json")
    refuse(run, "of another job")
    config = data_config.get_config()
    config.data.update(sim_bars=120_000, cache_dir=cache)
    data_launcher.build_and_draw(config, tmp_path / "data")
    refuse(tmp_path / "data", "of another job")
    shutil.copytree(run / "targets", tmp_path / "targets")
    shutil.rmtree(tmp_path / "targets" / PRIVATE / "checkpoints")
    refuse(tmp_path / "targets", r"holds no trained model \(0 of 4 epochs are done\)")
    refuse(f"{run / 'targets'},{run / 'targets'}", "has the model targets,baseline 2 times")


def test_models_of_other_data_are_refused(run, tmp_path, cache):
    targets = tmp_path / "targets"
    shutil.copytree(run / "targets", targets)
    stored = json.loads((targets / "config.json").read_text())
    stored["bound"]["data"] = "data of other bars"
    (targets / "config.json").write_text(json.dumps(stored))
    both = make_config(cache, targets=f"{run / 'targets'},{targets}")
    with pytest.raises(InputError, match="on other data or code"):
        attack.attack_all(both, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attack.models": 1}, "config.attack.models is 1; it must be even and at least 4"),
        ({"attack.models": 5}, "config.attack.models is 5"),
        ({"attack.variance": "none"}, "config.attack.variance is 'none'"),
        ({"attack.gamma": 0.5}, "config.attack.gamma is 0.5"),
        ({"attack.steps": 0}, "config.attack.steps is 0"),
        ({"models_at_once": 0}, "config.models_at_once is 0"),
        ({"learning_rate": -1.0}, "config.learning_rate is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, cache, change, words):
    with pytest.raises(InputError, match=words):
        attack.attack_all(make_config(cache, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_mistake_ends_with_exit_code_2(tmp_path):
    workdir = f"--workdir={tmp_path}/run"
    assert_refused(launch("--config.targets=/no/such", workdir, job="attack"), "/no/such")


def test_recognition_is_drawn_from_a_finished_attack(run, tmp_path, capsys):
    config = recognition_config.get_config()
    config.attack_workdir = str(run)
    found = recognition.draw(config, tmp_path / "run")
    assert [each.model for each in found] == ["baseline", PRIVATE]
    assert found[0].recognition_rate > found[0].population_rate
    for each in found:
        assert each.recognition_rate_low <= each.recognition_rate <= each.recognition_rate_high
        assert each.recognition_rate <= each.recognition_rate_bound
        assert f"{each.recognition_rate:.3f}" in capsys.readouterr().out or each is not found[0]
    pictures = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert pictures == {"recognition_rate.png", "recognition_against_epsilon.png"}
    (tmp_path / "empty").mkdir()
    config.attack_workdir = str(tmp_path / "empty")
    with pytest.raises(InputError, match="no attack's results can be read"):
        recognition.draw(config, tmp_path / "other")
