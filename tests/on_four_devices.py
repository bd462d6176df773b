"""Trains on one, two and four simulated devices, and writes how far the models are apart.

python -m tests.on_four_devices FILE [long], with XLA_FLAGS=--xla_force_host_platform_device_count=4
"""

import dataclasses
import json
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dpfinjax import clipping, dpsgd, hosts, resumable, training
from dpfinjax.augmentation import Augmentation
from tests.test_training import SPEC, make_data, make_hparams

KEY = jax.random.key(3)
SHORT = dataclasses.replace(SPEC, steps=6, epoch_steps=3, clip_method="ghost")
UNITS = np.r_[np.arange(64).reshape(-1, 2)].astype(np.int32)


class Killed(Exception):
    """Stands for the process ending."""


def train(devices, spec, data, keys, hparams, folder=None, kill_at=None):
    """The last state, and what each epoch saw."""
    hosts.set_devices_per_model(devices)
    seen = []

    def on_epoch(epoch, state, history):
        seen.append(jax.tree.map(np.asarray, history))
        if epoch == kill_at:
            raise Killed

    everyone = training.everything(data)
    with tempfile.TemporaryDirectory() as other:
        arguments = (keys, hparams, everyone, data, spec, folder or other, on_epoch)
        return jax.tree.map(np.asarray, resumable.fit(*arguments)), seen


def apart(first, second):
    """The largest difference, over the largest number of its array or 1."""
    distances = jax.tree.map(
        lambda a, b: float(np.max(np.abs(a - b)) / max(1, np.max(np.abs(a)))), first, second
    )
    return max(jax.tree.leaves(distances))


def in_units(**changes):
    """A training of units of two windows, in several pieces to a batch on each device."""
    spec = dataclasses.replace(SHORT, microbatch=12, **changes)
    return spec, make_data()._replace(units=jnp.asarray(UNITS)), KEY, make_hparams()


def trainings(long=False):
    """Distances between models by what is trained and on how many devices."""
    data, several = make_data(), jax.tree.map(lambda x: jnp.stack([x] * 3), make_hparams())
    plain = dataclasses.replace(SHORT, clip_method="none")
    cases = {
        "units": (4, in_units()),
        "three models": (2, (SHORT, data, jax.random.split(KEY, 3), several)),
    }
    if long:
        cases["without privacy"] = (4, (plain, data, KEY, make_hparams(0.05)))
        cases["copies"] = (4, in_units(augmentation=Augmentation(copies=1, price_noise=0.1)))
        cases["by vmap"] = (4, in_units(clip_method="vmap"))
        cases["by layer"] = (4, in_units(clip_rule="per_layer"))
    return {
        name: apart(train(1, *arguments), train(devices, *arguments))
        for name, (devices, arguments) in cases.items()
    }


def moved():
    """The distance of a model that began on four devices and ended on one."""
    whole, _ = train(1, *in_units())
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(4, *in_units(), folder, kill_at=2)
        except Killed:
            assert resumable.finished_epochs(folder) == 1
        return apart(whole, train(1, *in_units(), folder)[0])


def sums():
    """What each of four devices returns for a batch of 7, of which 5 rows are drawn."""
    mesh = resumable.mesh_of(1, 4)
    everywhere = PartitionSpec(training.BATCH)
    rows, mask = jnp.arange(1.0, 8.0), jnp.arange(7) < 5

    def step(rows, mask):
        def square(w, x):
            return w * x

        clipped = clipping.vmap_clipped_grad(square, 3.0)
        shared = clipping.over_devices(clipped, training.BATCH, 4)
        total, stats = shared(jnp.float32(1), rows, mask)
        noisy, _ = dpsgd.private_grad(KEY, shared, jnp.float32(1), rows, mask, 1e3, 1.0)
        return total[None], noisy[None], stats.norm[None]

    whole = PartitionSpec()
    in_specs = (whole, whole)
    specs = {"mesh": mesh, "in_specs": in_specs, "out_specs": everywhere, "check_vma": False}
    found = jax.jit(jax.shard_map(step, **specs))(rows, mask)
    return [np.asarray(x).tolist() for x in found]


if __name__ == "__main__":
    assert jax.device_count() == 4
    content = {"trainings": trainings("long" in sys.argv), "moved": moved(), "sums": sums()}
    with open(sys.argv[1], "w") as file:
        json.dump(content, file)
