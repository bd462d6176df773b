"""How many models, and whether the images, a device has room for."""

import dataclasses
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from dpfinjax import hosts, training
from dpfinjax.training import Data, HParams, Spec

_SHARE = 0.5  # of what is free; the rest is for the allocator's fragments and everybody else


def models_that_fit(data: Data, spec: Spec) -> int:
    """Returns how many models can train at once on all devices, of all processes, at least 1.

    Compiles one step of one model and counts the bytes that the compiler plans for it, against half
    of the memory that a device has left.

    Args:
      data: the examples, which every device holds once.
      spec: the static settings of the training.
    """
    one_step = dataclasses.replace(spec, steps=1, epoch_steps=1)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: training.init(key, data, one_step))
    hparams = HParams(*(jnp.float32(1.0),) * len(HParams._fields))
    step = jax.jit(training.train_epoch, static_argnames=("spec",))
    compiled = step.lower(
        key, state, jnp.int32(0), hparams, training.everything(data), data, spec=one_step
    ).compile()
    devices = jax.device_count() // hosts.devices_per_model()
    planned = compiled.memory_analysis()
    if planned is None:  # a backend whose compiler does not tell
        return devices
    needed = planned.temp_size_in_bytes + 2 * planned.output_size_in_bytes
    return max(1, int(_SHARE * _free_bytes(jax.local_devices()[0]) // needed)) * devices


def images_fit(examples: Mapping[str, int], length: int) -> bool:
    """Returns whether training may hold all images, in half of the memory that is free.

    A device holds those that are trained on and evaluated; the machine holds all splits, with the
    bars that they show.

    Args:
      examples: number of examples in each split.
      length: bars in a window.
    """
    image, window = 4 * 4 * length**2, 8 * 4 * length
    on_device = sum(examples[name] for name in ("train", "validation", "test")) * image
    on_host = sum(examples.values()) * (image + window)
    on_cpu = jax.local_devices()[0].platform == "cpu"
    if on_cpu:  # one memory for the splits and for what each simulated device holds
        on_device, on_host = on_device + on_host // jax.local_device_count(), 0
    free = _free_bytes(jax.local_devices()[0])
    return on_device <= _SHARE * free and on_host <= _SHARE * _machine_bytes()


def _machine_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_bytes(device: jax.Device) -> int:
    """The memory that a device has left; simulated CPU devices share the machine's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return _machine_bytes() // jax.local_device_count()
