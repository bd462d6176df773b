"""Training from disk is training in memory: the same samples, and so the same parameters."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from dpfinjax import data, resumable, sampling, streaming, training
from dpfinjax.augmentation import Augmentation
from dpfinjax.errors import InputError
from dpfinjax.training import Data, HParams, Membership, Spec
from tests import processes, together
from tests.launch.test_app import CLONE
from tests.test_hosts import SWEEP

EPOCH_STEPS, STEPS, BATCH_SIZE = 5, 13, 24.0
CHUNK_STEPS = 2  # the last chunk of an epoch, and the last epoch, go beyond their steps


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
        return nn.Dense(8)(x)


class Noting:
    """A set on disk that notes what is read of it."""

    def __init__(self, examples):
        self.examples, self.image_shape, self.read = examples, examples.image_shape, []

    def __len__(self):
        return len(self.examples)

    def images(self, rows):
        self.read.extend(rows.tolist())
        return self.examples.images(rows)


def data_of(cache):
    """The config of a small simulated market."""
    config = data.default_config()
    config.update(sim_bars=120_000, cache_dir=str(cache))
    return config


@pytest.fixture(scope="module")
def splits(cache):
    config = ConfigDict({"data": data_of(cache)})
    return data.load(config), data.stored(config)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(streaming, "chunk_steps", lambda *_: CHUNK_STEPS)
    monkeypatch.setattr(streaming, "_EVALUATION_CHUNK", 64)


def make_spec(**changes):
    settings = {"module": Network(), "steps": STEPS, "epoch_steps": EPOCH_STEPS, "capacity": 64}
    return Spec(**(settings | {"microbatch": 64} | changes))


def make_hparams(examples):
    rate = BATCH_SIZE / examples
    return HParams(*map(jnp.float32, (0.1, 0.5, 0.8, rate, BATCH_SIZE)))


def keys_of(models):
    return jax.random.key(7) if models is None else jax.random.split(jax.random.key(7), models)


def hparams_of(models, examples):
    hparams = make_hparams(examples)
    if models is None:
        return hparams
    hparams = jax.tree.map(lambda x: jnp.broadcast_to(x, models), hparams)
    return hparams._replace(noise_multiplier=jnp.linspace(0.5, 1.5, models))


def trained(epoch_of, membership, held, spec, models, examples):
    """The parameters after all epochs, and what each epoch saw."""
    key, hparams = keys_of(models), hparams_of(models, examples)
    state = resumable.init(key, held, spec)
    key, hparams, membership, held, state = resumable.spread(key, hparams, membership, held, state)
    seen = []
    for epoch in range(spec.epochs):
        state, history = epoch_of(
            key, state, jnp.int32(epoch), hparams, membership, held, spec=spec
        )
        seen.append(history)
    return state.params, jax.tree.map(lambda *x: jnp.stack(x), *seen)


@pytest.mark.parametrize(
    ("method", "models", "copies"),
    [
        ("ghost", None, 0),
        ("none", None, 2),
        pytest.param("none", 3, 0, marks=pytest.mark.long),
    ],
)
def test_training_from_disk_gives_the_bits_of_training_in_memory(splits, method, models, copies):
    whole, stored = splits
    spec = make_spec(clip_method=method, augmentation=Augmentation(copies, 0.01, 0.1))
    examples = len(stored.train)
    held = Data(jnp.asarray(whole.train.image), jnp.asarray(whole.train.label))
    in_memory = trained(
        resumable.train_epoch, training.everything(held), held, spec, models, examples
    )
    stream = streaming.Stream(stored.train)
    from_disk = trained(
        stream.train_epoch,
        streaming.everything(stored.train),
        streaming.shapes(stored.train),
        spec,
        models,
        examples,
    )
    jax.tree.map(np.testing.assert_array_equal, from_disk[0], in_memory[0])
    for name, seen, expected in zip(in_memory[1]._fields, from_disk[1], in_memory[1], strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-6, err_msg=name)
    assert np.all(np.asarray(from_disk[1].batch_size) > 0)


def test_the_sample_of_a_step_is_each_models_own_poisson_sample_over_the_whole_set():
    """Each of n coins, from the step's own key: no part of the set has a sample of its own."""
    units, capacity, steps = 1000, 64, np.arange(40, 43)
    keys, rates = jax.random.split(jax.random.key(0), 3), jnp.array([0.04, 0.04, 0.01])
    rows, mask = streaming.draw(keys, jnp.asarray(steps), rates, units, capacity)
    for model, (key, rate) in enumerate(zip(keys, rates, strict=True)):
        for place, step in enumerate(steps):
            own = jax.random.split(jax.random.fold_in(key, step), 3)[0]
            expected = sampling.poisson(own, units, rate, capacity)
            np.testing.assert_array_equal(rows[model, place], expected[0])
            np.testing.assert_array_equal(mask[model, place], expected[1])
    assert not np.array_equal(rows[0], rows[1])
    assert mask[2].sum() < mask[1].sum()


def test_what_is_read_are_the_drawn_examples_and_nothing_else(splits):
    whole, stored = splits
    noting = Noting(stored.train)
    key, rate = jax.random.key(2), jnp.float32(BATCH_SIZE / len(stored.train))
    parts = streaming.parts_of(key, rate, 1, jax.local_devices())
    chunk = streaming.read(noting, parts, np.arange(3, dtype=np.int32), 64)
    drawn = streaming.draw(key[None], jnp.arange(3), rate[None], len(stored.train), capacity=64)
    np.testing.assert_array_equal(chunk.rows, drawn[0])
    np.testing.assert_array_equal(chunk.mask, drawn[1])
    assert noting.read == chunk.rows[chunk.mask].tolist()
    np.testing.assert_array_equal(chunk.images[chunk.mask], whole.train.image[noting.read])
    np.testing.assert_array_equal(chunk.labels[chunk.mask], whole.train.label[noting.read])
    assert not chunk.images[~chunk.mask].any()


@pytest.fixture(scope="module")
def on_four_devices(tmp_path_factory, cache, splits):
    """What a process with four simulated devices has found, of the same prepared data."""
    del splits
    file = tmp_path_factory.mktemp("devices") / "found.json"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-m", "tests.streaming_on_four_devices", str(file), cache]
    subprocess.run(command, cwd=CLONE, env=environment, check=True)
    return json.loads(file.read_text())


@pytest.mark.long
def test_batches_divided_over_devices_give_the_bits_of_such_batches_in_memory(on_four_devices):
    assert on_four_devices["distance"] == 0.0


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "owned"),
    [
        # Of five models on three devices the last one is there twice, and read once.
        ("by model", [["0 0", "1 0", "2 0", "3 0"], ["4 0"]]),
        ("by share", [["0 0", "0 1"], ["0 2", "0 3"]]),
        # The second row of devices has the third model.
        ("by both", [["0 0", "1 0", "2 0"], ["0 1", "1 1"], ["2 1"]]),
    ],
)
def test_a_process_reads_what_its_devices_work_on_and_nothing_else(on_four_devices, case, owned):
    parts, read = on_four_devices[case]["parts"], on_four_devices[case]["read"]
    assert sorted(itertools.chain(*owned)) == sorted(parts)
    for group, names in zip(read, owned, strict=True):
        expected = Counter(row for name in names for row in parts[name])
        assert Counter(group) == expected
        assert len(expected) > 5


@pytest.mark.long
def test_two_processes_with_a_disk_each_train_the_models_of_one(tmp_path, capsys):
    """The check asserts that each drawn row is read by one of the two, and parameters agree."""
    together.streamed(tmp_path)
    in_memory, models, batches = capsys.readouterr().out.splitlines()
    assert "the same bits" in in_memory
    assert "the same bits" in models
    assert "the same" in batches


@pytest.mark.long
@pytest.mark.parametrize("disk", ["without data", "with a damaged record"])
def test_what_one_process_misses_on_its_disk_ends_both_with_its_sentence(tmp_path, disk):
    """Without data nothing is written; what is damaged turns out while both train."""
    config, cache, own = tmp_path / "sweep.py", tmp_path / "cache", tmp_path / "disk"
    config.write_text(SWEEP.format(cache=str(cache)))
    if disk == "with a damaged record":
        data.describe(ConfigDict({"data": data_of(cache)}))
        shutil.copytree(cache, own)
        file = next(own.rglob("*-train.array_record-*"))
        content = bytearray(file.read_bytes())
        content[len(content) // 8 : len(content) // 4] = bytes(len(content) // 8)
        file.write_bytes(content)
    flags = [f"--config={config}", f"--workdir={tmp_path}/run", "--config.data.stream=always"]
    programs = [
        ["tests.on_own_disk", str(tmp_path / "rows"), str(cache), str(place), "launch.dpsgd"]
        for place in (cache, own)
    ]
    found = processes.ended(processes.start([flags] * 2, programs=programs))
    words = {"without data": "No prepared data can be read in", "with a damaged record": "damaged"}
    for code, _, errors in found:
        assert code == 2, errors
        told = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(told) == 1, errors
        assert told[0].startswith("error: Process 1: "), errors
        assert words[disk] in told[0]
        assert str(own) in told[0]
        assert "Traceback" not in errors
    assert (tmp_path / "run").exists() == (disk == "with a damaged record")
    assert not any(tmp_path.glob("run/**/checkpoints/[0-9]*"))


def test_chunks_are_bounded_whatever_the_set(monkeypatch):
    monkeypatch.undo()
    for models, capacity in ((1, 64), (1, 1300), (16, 400), (1, 100_000)):
        steps = streaming.chunk_steps(models, capacity, (10, 10, 4))
        one_step = 4 * 400 * models * capacity
        assert steps >= 1
        assert steps * one_step <= max(one_step, streaming.CHUNK_BYTES)


@pytest.mark.parametrize(
    "membership",
    [Membership(jnp.arange(3), jnp.int32(3)), Membership(jnp.zeros(0, jnp.int32), jnp.int32(3))],
)
def test_a_choice_of_the_examples_is_refused(splits, membership):
    train, spec = splits[1].train, make_spec()
    held, key = streaming.shapes(train), jax.random.key(0)
    state, hparams = resumable.init(key, held, spec), make_hparams(len(train))
    with pytest.raises(InputError, match="sees all examples"):
        streaming.Stream(train).train_epoch(
            key, state, jnp.int32(0), hparams, membership, held, spec
        )


def test_evaluation_in_chunks_is_evaluation_at_once(splits):
    whole, stored = splits
    module = Network()
    keys = jax.random.split(jax.random.key(0))
    held = Data(jnp.asarray(whole.train.image), jnp.asarray(whole.train.label))
    params = jax.vmap(lambda key: module.init(key, held.inputs[:1])["params"])(keys)
    several = streaming.evaluate_many(params, stored.train, module)
    assert len(stored.train) % 64
    for model in range(2):
        own = jax.tree.map(lambda x: x[model], params)  # noqa: B023
        expected = training.evaluate(own, held, module)
        counts = np.zeros((8, 8), int)
        np.add.at(counts, (whole.train.label, np.argmax(expected.logits, axis=-1)), 1)
        np.testing.assert_array_equal(several.counts[model], counts)
        np.testing.assert_allclose(several.loss[model], expected.loss, rtol=1e-5)
        np.testing.assert_allclose(several.accuracy[model], expected.accuracy, rtol=1e-6)
    alone = streaming.evaluate(jax.tree.map(lambda x: x[0], params), stored.train, module)
    np.testing.assert_array_equal(alone.counts, several.counts[0])
