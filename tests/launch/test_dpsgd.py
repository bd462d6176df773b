"""The main job: from bars to a private model, killed or not."""

import csv
import json
import signal
import subprocess
import sys
import time

import dp_accounting
import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.csv
import pytest
from dp_accounting.pld import PLDAccountant

from configs import dpsgd as dpsgd_config
from dpfinjax import resumable
from dpfinjax.data import simulate
from dpfinjax.errors import InputError
from launch import dpsgd
from tests.launch.test_app import CLONE

SMALL = {
    "data.sim_bars": 120_000,
    "batch_size": 64,
    "epochs": 6.0,
    "model.widths": (8, 8),
    "model.hidden": (16,),
}


def make_config(cache, variant="", **changes):
    config = dpsgd_config.get_config(variant)
    config.update_from_flattened_dict(SMALL | {"data.cache_dir": cache} | changes)
    return config


def final_state(folder):
    """All that the last checkpoint holds, as it lies there."""
    path = (folder / resumable.CHECKPOINTS).resolve()
    with ocp.CheckpointManager(path) as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())


def test_a_run_states_the_epsilon_that_dp_accounting_gives(tmp_path, cache, capsys):
    outcomes = dpsgd.train_and_evaluate(make_config(cache, target_epsilon=3.0), tmp_path / "run")
    stated = json.loads((tmp_path / "run" / "privacy.json").read_text())
    event = dp_accounting.PoissonSampledDpEvent(
        stated["sample_rate"], dp_accounting.GaussianDpEvent(stated["noise_multiplier"])
    )
    expected = PLDAccountant().compose(event, stated["steps"]).get_epsilon(stated["delta"])
    np.testing.assert_allclose(stated["epsilon"], expected, rtol=1e-4)
    assert stated["epsilon"] <= 3.0
    assert stated["sample_rate"] == pytest.approx(64 / stated["examples"])
    printed = capsys.readouterr().out
    assert outcomes[0].statement.sentence() in printed
    assert "dpsgd" in printed


def test_a_run_leaves_everything_it_promises(tmp_path, cache):
    config = make_config(cache, with_baseline=True)
    dpsgd.train_and_evaluate(config, tmp_path / "run")
    run = tmp_path / "run"
    with open(run / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["baseline", "dpsgd"]
    assert rows[0]["epsilon"] == "inf"
    assert set(json.loads((run / "privacy.json").read_text())) == {"baseline", "dpsgd"}
    for name in ("baseline", "dpsgd"):
        found = {str(f.relative_to(run / name)) for f in (run / name).rglob("*")}
        assert found >= {
            "metrics.jsonl",
            "tensorboard",
            "checkpoints",
            "confusion_matrix.csv",
            "accuracy_per_pattern.csv",
            "plots/training_curves.png",
            "plots/confusion_matrix.png",
            "plots/accuracy_per_pattern.png",
        }
        with open(run / name / "confusion_matrix.csv") as file:
            counts = np.array([list(row.values())[1:] for row in csv.DictReader(file)], int)
        row = next(row for row in rows if row["model"] == name)
        accuracy = counts.diagonal().sum() / counts.sum()
        np.testing.assert_allclose(accuracy, float(row["test_accuracy"]), rtol=1e-5)


def test_the_same_folder_again_trains_nothing_and_says_the_same(tmp_path, cache):
    first = dpsgd.train_and_evaluate(make_config(cache), tmp_path / "run")[0]
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = dpsgd.train_and_evaluate(make_config(cache), tmp_path / "run")[0]
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    assert again.row._replace(seconds=0) == first.row._replace(seconds=0)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_another_config_in_the_same_folder_is_refused(tmp_path, cache):
    dpsgd.train_and_evaluate(make_config(cache), tmp_path / "run")
    with pytest.raises(InputError, match=r"config\.seed is 0 there and 1 here"):
        dpsgd.train_and_evaluate(make_config(cache, seed=1), tmp_path / "run")


def test_the_same_config_on_changed_bars_is_refused(tmp_path):
    source, other = tmp_path / "bars.csv", simulate.bars(130_000, 5)
    write_bars(source, simulate.bars(120_000, 4))
    config = make_config(str(tmp_path / "cache"), **{"data.source": str(source)})
    dpsgd.train_and_evaluate(config, tmp_path / "run")
    before = (tmp_path / "run" / "privacy.json").read_bytes()
    write_bars(source, other)
    with pytest.raises(InputError, match="on other data"):
        dpsgd.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "privacy.json").read_bytes() == before


def write_bars(path, bars):
    """A CSV of bars."""
    pyarrow.csv.write_csv(pa.table(bars._asdict()), path)


def test_mistakes_leave_no_folder(tmp_path, cache):
    with pytest.raises(InputError, match="batch_size"):
        dpsgd.train_and_evaluate(make_config(cache, batch_size=10**6), tmp_path / "run")
    with pytest.raises(InputError, match="bars"):
        dpsgd.train_and_evaluate(make_config(cache, **{"data.sim_bars": 100}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_paper_s_grid_has_the_published_epsilon_beside_the_true_one(tmp_path, cache):
    config = make_config(cache, "paper", epochs=1.0, accountant="rdp")
    outcomes = dpsgd.train_and_evaluate(config, tmp_path / "run")
    assert len(outcomes) == 10
    spent = {row.noise_multiplier: row for row in (outcome.row for outcome in outcomes)}
    # Batches of 30 and not of 100: less is spent than the formula prints.
    for noise in (np.float32(0.5), np.float32(0.7), 1.0):
        row = min(spent.values(), key=lambda row: abs(row.noise_multiplier - noise))
        assert row.epsilon < row.published_epsilon


def test_a_killed_run_started_again_ends_with_the_same_bits(tmp_path, cache):
    flags = [f"--config.{name}={value}" for name, value in SMALL.items()]
    flags += [f"--config.data.cache_dir={cache}", "--config.epochs=40", "--config.microbatch=16"]

    def start(folder):
        command = [sys.executable, "-m", "launch.dpsgd", *flags, f"--workdir={folder}"]
        return subprocess.Popen(
            command, cwd=CLONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    undisturbed = start(tmp_path / "a")
    assert undisturbed.wait(300) == 0, undisturbed.stderr.read()
    victim = start(tmp_path / "b")
    deadline = time.monotonic() + 300
    while not any((tmp_path / "b" / "checkpoints").glob("[0-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "b" / "results.csv").exists()
    again = start(tmp_path / "b")
    assert again.wait(300) == 0, again.stderr.read()
    jax.tree.map(
        np.testing.assert_array_equal, final_state(tmp_path / "a"), final_state(tmp_path / "b")
    )
    one, two = (
        [json.loads(line) for line in (tmp_path / f / "metrics.jsonl").read_text().splitlines()]
        for f in "ab"
    )
    for first, second in zip(one, two, strict=True):
        first["values"].pop("seconds", None), second["values"].pop("seconds", None)
        assert first == second


def test_real_minutes_are_read_and_trained_on(tmp_path, real_data):
    config = make_config(
        str(tmp_path / "cache"), **{"data.source": str(real_data / "ethusd_1m.csv.gz")}
    )
    outcome = dpsgd.train_and_evaluate(config, tmp_path / "run")[0]
    assert outcome.row.test_accuracy > 0.3
    assert outcome.row.epsilon <= 4
