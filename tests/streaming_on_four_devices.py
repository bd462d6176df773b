"""Streams to four simulated devices; writes how far models are from memory's, and what is read.

python -m tests.streaming_on_four_devices FILE CACHE, with
XLA_FLAGS=--xla_force_host_platform_device_count=4
"""

import json
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpfinjax import data, hosts, resumable, streaming, training
from dpfinjax.augmentation import Augmentation
from dpfinjax.training import Data, HParams
from tests.on_four_devices import apart
from tests.test_streaming import BATCH_SIZE, CHUNK_STEPS, Noting, data_of, make_spec

CAPACITY, MICROBATCH = 63, 10  # neither is a multiple of four


def splits_of(cache):
    """The training split in memory and on disk."""
    config = ConfigDict({"data": data_of(cache)})
    whole = data.load(config).train
    return Data(jnp.asarray(whole.image), jnp.asarray(whole.label)), data.stored(config).train


def settings(models, examples):
    """Keys and settings of models with sample rates of their own."""
    rate = BATCH_SIZE / examples
    one = HParams(*map(jnp.float32, (0.1, 0.5, 0.8, rate, BATCH_SIZE)))
    several = jax.tree.map(lambda x: jnp.broadcast_to(x, models), one)
    rates = jnp.linspace(rate, rate / 2, models)
    return jax.random.split(jax.random.key(7), models), several._replace(sample_rate=rates)


def trained(devices, models, spec, held, stored=None):
    """The last state of a training in memory, or from disk where `stored` is given."""
    hosts.set_devices_per_model(devices)
    key, hparams = settings(models, len(held.targets))
    everyone, epoch_of = training.everything(held), resumable.train_epoch
    if stored is not None:
        everyone, epoch_of = streaming.everything(stored), streaming.Stream(stored).train_epoch
        held = streaming.shapes(stored)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (key, hparams, everyone, held, spec, folder, lambda *_: None)
        return jax.tree.map(np.asarray, resumable.fit(*arguments, epoch_of=epoch_of))


def distance(held, stored):
    """From three models from disk to those in memory, their batches over two devices each."""
    copies = Augmentation(1, 0.01, 0.1)
    spec = make_spec(
        capacity=CAPACITY, microbatch=MICROBATCH, clip_method="ghost", augmentation=copies
    )
    return apart(trained(2, 3, spec, held, stored), trained(2, 3, spec, held))


def rows(stored, models, shares, groups):
    """What each of several groups of devices, as those of processes, reads of two steps.

    With it which rows each part of the batches has, by model and share.
    """
    key, hparams = settings(models, len(stored))
    numbers = np.arange(2, dtype=np.int32)
    drawn, mask = streaming.draw(
        key, jnp.asarray(numbers), hparams.sample_rate, len(stored), CAPACITY
    )
    parts = {
        f"{model} {share}": [
            row
            for step in range(2)
            for row in drawn[model, step][mask[model, step]][share::shares].tolist()
        ]
        for model in range(models)
        for share in range(shares)
    }
    nobody, held = streaming.everything(stored), streaming.shapes(stored)
    key, hparams, *_ = resumable.spread(key, hparams, nobody, held, hparams, shares)
    read = []
    for group in groups:
        noting, devices = Noting(stored), [jax.devices()[number] for number in group]
        own = streaming.parts_of(key, hparams.sample_rate, shares, devices)
        streaming.read(noting, own, numbers, CAPACITY)
        read.append(noting.read)
    return {"parts": parts, "read": read}


if __name__ == "__main__":
    assert jax.device_count() == 4
    streaming.chunk_steps = lambda *_: CHUNK_STEPS
    held, stored = splits_of(sys.argv[2])
    content = {
        "distance": distance(held, stored),
        "by model": rows(stored, 5, 1, [(0, 1), (2,)]),
        "by share": rows(stored, 1, 4, [(0, 1), (2, 3)]),
        "by both": rows(stored, 3, 2, [(0, 2), (1,), (3,)]),
    }
    with open(sys.argv[1], "w") as file:
        json.dump(content, file)
