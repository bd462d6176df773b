"""Parameters from a simulated market: the same for everybody, and free of private bars."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import dpsgd as dpsgd_config
from dpfinjax import data, experiment, memory, pretraining, training
from dpfinjax.attacks import design, shadow_models, targets
from dpfinjax.errors import InputError
from tests.test_training import assert_trees_equal

pytestmark = pytest.mark.usefixtures("empty_pictures")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A cache folder of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(memory, "models_that_fit", lambda *_: 99)
        yield


def make_config(cache, **changes):
    config = dpsgd_config.get_config()
    config.target_epsilon, config.noise_multiplier = None, 1.0
    config.data.update(sim_bars=120_000, cache_dir=cache, fractions=(0.4, 0.05, 0.1, 0.05, 0.4))
    config.model.hidden = (4,)
    config.pretrain.update(sim_bars=60_000, epochs=1.0)
    config.update(seed=0, batch_size=64, epochs=None, steps=2, accountant="rdp", ema_decay=0.0)
    config.update_from_flattened_dict(changes)
    return config


def still(cache, **changes):
    """A training that does not move."""
    return make_config(cache, learning_rate=1e-30, **changes)


def train(config, folder):
    runs = experiment.runs_of(config, data.describe(config))
    (outcomes,) = experiment.train_all(runs, data.load(config), folder, 16)
    return outcomes


def refuse_to_train(*arguments):
    raise AssertionError(f"trained again: {arguments}")


def test_the_start_is_trained_once_and_is_the_same_for_everybody(cache, monkeypatch):
    first = pretraining.start(make_config(cache))
    path = path_of(make_config(cache))
    path.unlink()
    # Nothing that is private, chosen or random for one user has a say.
    other = make_config(cache, seed=5, clip_norm=2.0, **{"data.seed": 3, "data.source": "x.csv"})
    again = pretraining.start(other)
    assert_trees_equal(first, again)
    monkeypatch.setattr(pretraining, "_trained", refuse_to_train)
    assert_trees_equal(pretraining.start(make_config(cache)), first)
    random = training.init(
        jax.random.key(0),
        experiment._on_device(data.load(make_config(cache)).train),
        dataclasses.replace(plan_of(make_config(cache)).spec, start=""),
    )
    assert not np.allclose(first["Dense_0"]["kernel"], random.params["Dense_0"]["kernel"])


def path_of(config):
    return Path(config.data.cache_dir) / "pretrained" / f"{pretraining.name(config)}.sealed"


def test_a_damaged_start_is_trained_again(cache):
    config = make_config(cache, **{"pretrain.epochs": 0.5})
    first = pretraining.start(config)
    whole = path_of(config).read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 1  # a bit of a parameter: read as it is, another start
    for damaged in (whole[:100], flipped, b""):
        path_of(config).write_bytes(damaged)
        assert_trees_equal(pretraining.start(config), first)
        assert path_of(config).read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_named(cache, tmp_path, monkeypatch):
    config = make_config(cache)
    splits = data.load(config)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(pretraining.data, "load", lambda _: splits)
    config.data.cache_dir = str(tmp_path / "file")
    with pytest.raises(InputError, match=r"file/pretrained cannot be written .*cache_dir"):
        pretraining.start(config)


def plan_of(config):
    (run,) = experiment.runs_of(config, data.describe(config))
    return run.plan


def test_the_name_is_that_of_all_that_the_start_depends_on(cache, monkeypatch):
    name = pretraining.name(make_config(cache))
    assert plan_of(make_config(cache)).spec.start == name
    for change in (
        {"seed": 1},
        {"clip_norm": 2.0},
        {"noise_multiplier": 3.0},
        {"data.source": "bars.csv"},
        {"data.seed": 4},
        {"weight_decay": 0.1},
    ):
        assert pretraining.name(make_config(cache, **change)) == name
    others = [
        pretraining.name(make_config(cache, **change))
        for change in (
            {"model.hidden": (5,)},
            {"model.dense_activation": "relu"},
            {"model.variant": "gaf_cnn"},
            {"pretrain.sim_bars": 60_001},
            {"pretrain.epochs": 2.0},
        )
    ]
    monkeypatch.setattr(pretraining, "_LEARNING_RATE", 1e-3)
    others.append(pretraining.name(make_config(cache)))
    monkeypatch.setattr(data.candlestick_gaf, "_MAKERS", ())  # other code makes the market
    others.append(pretraining.name(make_config(cache)))
    assert len({name, *others}) == 8
    assert pretraining.name(make_config(cache, **{"pretrain.sim_bars": 0})) == ""


def test_a_private_training_begins_at_the_start(tmp_path, cache):
    start = pretraining.start(make_config(cache))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(start))  # biases too: it was trained
    cells = ({"clip_norm": 0.5}, {"clip_norm": 1.0})  # two models in one program
    for name, config in (("one", still(cache)), ("two", still(cache, cells=cells))):
        for outcome in train(config, tmp_path / name):
            assert_trees_equal(outcome.params, start)
            assert outcome.statement.epsilon < np.inf


def test_the_statement_of_a_pretrained_run_is_that_of_the_same_run_without(cache):
    for changes in ({}, {"learning_rate": 1.0}, {"augment.copies": 3}):
        pretrained = plan_of(make_config(cache, **changes))
        without = plan_of(make_config(cache, **changes, **{"pretrain.sim_bars": 0}))
        assert pretrained.statement == without.statement
        assert pretrained.spec == dataclasses.replace(without.spec, start=pretrained.spec.start)
    slower = plan_of(make_config(cache)).hparams.learning_rate
    faster = plan_of(make_config(cache, **{"pretrain.sim_bars": 0})).hparams.learning_rate
    assert slower < faster


def test_a_shadow_model_of_a_pretrained_target_begins_where_it_began(tmp_path, cache):
    config = still(cache)
    (run,) = experiment.runs_of(config, data.describe(config))
    pool = targets.pool(data.load(config), 0)
    membership = design.balanced(0, 4, len(pool.is_member))
    keys = shadow_models.keys_of(run, 4)
    on_device = experiment.with_start(run, pool.data)
    shadows = shadow_models.train(keys, run, membership, on_device, tmp_path / "s", 16)
    start = pretraining.start(config)
    expected = training.evaluate(start, pool.data, run.plan.spec.module).logits
    for logits in shadows.answers.logits:
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    with pytest.raises(ValueError, match="must go with it"):
        shadow_models.train(keys, run, membership, pool.data, tmp_path / "t", 16)


def test_bars_that_are_too_few_are_refused(cache):
    with pytest.raises(InputError, match=r"config\.pretrain\.sim_bars is 100"):
        pretraining.start(make_config(cache, **{"pretrain.sim_bars": 100}))


def test_the_public_market_is_not_the_one_that_is_to_be_protected(cache, monkeypatch):
    """Both are simulated by default; were they one market, the test split would be seen."""
    config = make_config(cache, **{"pretrain.sim_bars": 120_000})
    load, seen = data.load, []
    monkeypatch.setattr(data, "load", seen.append)
    with pytest.raises(TypeError):  # the recorder gives no splits to train on
        pretraining._trained(None, config)
    public = {image.tobytes() for part in load(seen[0]) for image in part.image}
    shared = [image.tobytes() in public for image in load(config).test.image]
    assert np.mean(shared) < 0.1
