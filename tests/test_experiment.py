"""Sweeps: many models in few programs, each the model that it would be alone."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import dpsgd as dpsgd_config
from dpfinjax import data, experiment, memory, recipes, resumable
from dpfinjax.errors import InputError
from tests.launch.test_app import CLONE

CELLS = ({"noise_multiplier": 0.5}, {"noise_multiplier": 2.0}, {"learning_rate": 0.1})
pytestmark = pytest.mark.usefixtures("empty_pictures")


def make_config(cache, **changes):
    config = dpsgd_config.get_config()
    config.target_epsilon, config.noise_multiplier = None, 1.0
    config.data.update(sim_bars=120_000, cache_dir=cache)
    config.model.hidden = (8,)
    config.augment.copies = 0
    config.update(seed=0, batch_size=64, epochs=3.0, accountant="rdp", cells=CELLS)
    config.microbatch = 512  # one piece, which compiles faster
    config.update(changes)
    return config


def make_runs(config):
    return experiment.runs_of(config, data.describe(config))


def train(config, folder, models_at_once=16):
    """The outcomes by name, in chunks."""
    chunks = experiment.train_all(make_runs(config), data.load(config), folder, models_at_once)
    return [{outcome.name: outcome for outcome in chunk} for chunk in chunks]


def assert_same_models(first, second):
    assert set(first) == set(second)
    for name, outcome in first.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            outcome.params,
            second[name].params,
        )
        assert outcome.statement == second[name].statement


def test_a_model_of_a_sweep_is_the_model_trained_alone(tmp_path, cache):
    config = make_config(cache)
    (together,) = train(config, tmp_path / "together")
    alone = {}
    for run in make_runs(config):
        folder = tmp_path / run.name
        ((outcome,),) = experiment.train_all([run], data.load(config), folder, 1)
        alone[run.name] = outcome
    assert_same_models(together, alone)
    lines = [
        (tmp_path / p / "metrics.jsonl").read_text().splitlines()
        for p in ("together/noise_multiplier=2.0", "noise_multiplier=2.0")
    ]
    for first, second in zip(*(map(json.loads, part) for part in lines), strict=True):
        assert first["step"] == second["step"]
        np.testing.assert_allclose(first["values"]["loss"], second["values"]["loss"], rtol=1e-3)


def test_models_of_one_spec_share_a_program_and_others_do_not(tmp_path, cache):
    cells = (*CELLS, {"batch_size": 32}, {"batch_size": 32, "noise_multiplier": 3.0})
    before = resumable.train_epoch._cache_size()
    chunks = train(make_config(cache, cells=cells), tmp_path)
    assert [len(chunk) for chunk in chunks] == [3, 2]
    assert resumable.train_epoch._cache_size() <= before + 2


@pytest.mark.long
def test_chunks_do_not_change_the_models(tmp_path, cache):
    config = make_config(cache, seeds=2)
    whole = train(config, tmp_path / "a")
    parts = train(config, tmp_path / "b", models_at_once=4)
    assert [len(chunk) for chunk in parts] == [4, 2]
    assert_same_models(whole[0], parts[0] | parts[1])


def test_an_interrupted_sweep_keeps_what_is_finished_and_ends_the_same(
    tmp_path, cache, monkeypatch
):
    config = make_config(cache, seeds=2)
    expected = train(config, tmp_path / "a", models_at_once=2)
    chunks = experiment.train_all(make_runs(config), data.load(config), tmp_path / "b", 2)
    next(chunks)
    write, epochs = experiment._Progress.write, []

    def write_and_die(self, epoch, history, answers):
        write(self, epoch, history, answers)
        epochs.append(epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(experiment._Progress, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        next(chunks)
    trained = []
    monkeypatch.setattr(
        experiment._Progress,
        "write",
        lambda self, epoch, *rest: (trained.append(epoch), write(self, epoch, *rest)),
    )
    again = train(config, tmp_path / "b", models_at_once=2)
    assert trained == [2, 3, 1, 2, 3]  # the first chunk is not trained again, the second goes on
    for first, second in zip(expected, again, strict=True):
        for name, outcome in first.items():
            jax.tree.map(np.testing.assert_array_equal, outcome.params, second[name].params)
    assert not any((tmp_path / "b" / "unfinished").iterdir())


def from_disk(config, folder):
    splits = experiment.splits_of(config, data.describe(config))
    assert isinstance(splits, data.StoredSplits)
    ((*outcomes,),) = experiment.train_all(make_runs(config), splits, folder, 16)
    return {outcome.name: outcome for outcome in outcomes}


def test_a_sweep_from_disk_is_the_one_in_memory_also_after_a_kill(tmp_path, cache, monkeypatch):
    (expected,) = train(make_config(cache), tmp_path / "memory")
    config = make_config(cache)
    config.data.stream = "always"
    write = experiment._Progress.write

    def write_and_die(self, epoch, history, answers):
        write(self, epoch, history, answers)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment._Progress, "write", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            from_disk(config, tmp_path / "disk")
    outcomes = from_disk(config, tmp_path / "disk")
    for name, outcome in outcomes.items():
        jax.tree.map(np.testing.assert_array_equal, outcome.params, expected[name].params)
        assert outcome.statement == expected[name].statement
        for part in ("train", "validation", "test"):
            accuracy = f"{part}_accuracy"
            values = (getattr(x.row, accuracy) for x in (outcome, expected[name]))
            assert next(values) == pytest.approx(next(values), rel=1e-6)
        tables = (tmp_path / place / name / "confusion_matrix.csv" for place in ("memory", "disk"))
        assert next(tables).read_text() == next(tables).read_text()


@pytest.mark.parametrize(
    ("stream", "fits", "kind"),
    [
        ("auto", True, data.Splits),
        ("auto", False, data.StoredSplits),
        ("never", False, data.Splits),
        ("always", True, data.StoredSplits),
    ],
)
def test_examples_stay_on_disk_where_they_do_not_fit(cache, monkeypatch, stream, fits, kind):
    monkeypatch.setattr(memory, "images_fit", lambda *_: fits)
    config = make_config(cache)
    config.data.stream = stream
    assert isinstance(experiment.splits_of(config, data.describe(config)), kind)


def test_units_of_several_windows_are_refused_from_disk(cache):
    config = make_config(cache)
    facts = data.describe(config)
    config.data.stream, config.privacy.unit = "always", "day"
    with pytest.raises(InputError, match="reads its examples from disk works window by window"):
        experiment.splits_of(config, facts)


def test_one_model_that_diverges_does_not_stop_the_others(tmp_path, cache):
    cells = (*CELLS, {"learning_rate": 1e38})
    (outcomes,) = train(make_config(cache, cells=cells, noise_multiplier=1e3), tmp_path)
    accuracies = [outcome.row.test_accuracy for outcome in outcomes.values()]
    assert np.isfinite(accuracies[:3]).all()
    assert np.isnan(accuracies[3])


@pytest.mark.long
def test_the_number_of_devices_does_not_change_the_models(tmp_path, cache):
    """Three models on four simulated devices: the axis is filled up, and divided."""
    script = (
        "import sys, numpy as np, jax; from tests.test_experiment import *;"
        "assert len(jax.devices()) == 4;"
        "(outcomes,) = train(make_config(sys.argv[1]), sys.argv[2]);"
        "[np.savez(f'{sys.argv[2]}/{i}.npz', *jax.tree.leaves(o.params))"
        " for i, o in enumerate(outcomes.values())]"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", script, cache, str(tmp_path / "four")]
    subprocess.run(command, cwd=CLONE, env=environment, check=True)
    (expected,) = train(make_config(cache), tmp_path / "one")
    for row, outcome in enumerate(expected.values()):
        saved = np.load(tmp_path / "four" / f"{row}.npz")
        for leaf, name in zip(jax.tree.leaves(outcome.params), saved.files, strict=True):
            np.testing.assert_allclose(saved[name], leaf, rtol=1e-3, atol=1e-4)


def test_two_models_of_a_sweep_never_share_their_noise(tmp_path, cache):
    """With shared noise, twice the one less the other would be the step without any."""
    cells = ({"noise_multiplier": 1.0}, {"noise_multiplier": 2.0})
    config = make_config(cache, cells=cells, epochs=None, steps=1, learning_rate=1.0)
    first, second = (outcome.params for outcome in train(config, tmp_path)[0].values())
    noise = 64**-1 * config.clip_norm
    for name in ("Dense_0", "Dense_1"):
        cancelled = 2 * first[name]["bias"] - second[name]["bias"]
        assert np.std(cancelled) > noise


def test_no_two_runs_that_differ_share_a_key(cache):
    """Not even runs of one seed in two folders: who has both models would subtract the noise."""
    facts = data.describe(make_config(cache))
    other = facts._replace(folder=facts.folder.replace("candlestick_gaf/", "candlestick_gaf/x"))
    keys = [
        np.asarray(jax.random.key_data(experiment.key_of(run)))
        for config, found in (
            (make_config(cache), facts),
            (make_config(cache, batch_size=32), facts),
            (make_config(cache, epochs=4.0), facts),
            (make_config(cache), other),
        )
        for run in experiment.runs_of(config, found)
    ]
    assert len({key.tobytes() for key in keys}) == len(keys) == 12
    first = make_runs(make_config(cache))[0]
    np.testing.assert_array_equal(jax.random.key_data(experiment.key_of(first)), keys[0])


def test_where_the_data_lie_changes_no_key(cache):
    """What they are does, see above: so a command gives the same bits wherever it is run."""
    facts = data.describe(make_config(cache))
    keys = []
    for places in ({}, {"cache_dir": "elsewhere"}, {"source": "moved/bars.csv"}):
        config = make_config(cache)
        config.data.update(places)
        keys.append([experiment.key_of(run) for run in experiment.runs_of(config, facts)])
    for others in keys[1:]:
        for key, other in zip(keys[0], others, strict=True):
            np.testing.assert_array_equal(*map(jax.random.key_data, (key, other)))


def test_another_rule_makes_another_run(cache, monkeypatch):
    """A number that the config leaves open may change with the code: noise must not stay."""
    config = make_config(cache, learning_rate=None, momentum=0.0, cells=())
    (first,), facts = make_runs(config), data.describe(config)
    monkeypatch.setattr(recipes, "_WANDER", recipes._WANDER / 10)
    (second,) = make_runs(config)
    keys = [jax.random.key_data(experiment.key_of(run)) for run in (first, second)]
    assert not np.array_equal(*keys)
    assert experiment.bound([first], facts) != experiment.bound([second], facts)


def test_a_run_is_bound_to_its_data_and_numbers(cache):
    runs, facts = make_runs(make_config(cache)), data.describe(make_config(cache))
    bound = experiment.bound(runs, facts)
    other = make_config(cache, batch_size=32)
    assert bound["data"] in facts.folder
    assert bound == experiment.bound(make_runs(make_config(cache)), facts)
    assert bound != experiment.bound(make_runs(other), facts)
