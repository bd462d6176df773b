"""Models asked about bars, a chunk of windows at a time."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpfinjax import models
from dpfinjax.data import gaf, windows
from dpfinjax.data.bars import Bars
from dpfinjax.release import Model

# Windows on a device at a time: enough to hide what a call costs, with images of a bounded size.
_PIXELS = 1 << 19


class Answers(NamedTuple):
    """What a model says of some windows.

    Attributes:
      time: `datetime64[us]` [w], the open time of each window's last bar.
      probabilities: float32 [w, classes], adding up to 1.
    """

    time: np.ndarray
    probabilities: np.ndarray


def answer(model: Model, bars: Bars, stride: int = 1) -> Iterator[Answers]:
    """Asks a model about every window of bars, in ascending time.

    Windows slide: by default one ends on each bar with close != open that has enough of them before
    it without a gap, see `windows.ends`. Scaled series go to the device, which makes the images
    that `gaf.encode` would make, to float32 rounding; only one chunk of them exists at a time.
    Chunks are divided over all devices.

    Args:
      model: the network.
      bars: n bars in ascending time.
      stride: take every so manyth window, at least 1.

    Yields:
      The answers to each chunk; nothing where no window is.
    """
    moved, last = windows.ends(bars, model.length, stride)
    series = np.stack([price[moved] for price in (bars.open, bars.high, bars.low, bars.close)], -1)
    time, chunk = bars.time[moved], _chunk(model.length)
    devices = Mesh(np.array(jax.local_devices()), ("windows",))
    split = NamedSharding(devices, PartitionSpec("windows"))
    params = jax.device_put(model.params, NamedSharding(devices, PartitionSpec()))
    waiting: list[tuple[np.ndarray, jax.Array]] = []  # the device works while the host goes on
    for start in range(0, last.size, chunk):
        own = last[start : start + chunk]
        padded = np.pad(own, (0, chunk - own.size), mode="edge")
        ohlc = series[padded[:, None] + np.arange(1 - model.length, 1)]
        given = jax.device_put(gaf.angles(ohlc), split)
        waiting.append((time[own], _probabilities(params, *given, model.module)))
        if len(waiting) > 1:
            yield _finished(*waiting.pop(0))
    for one in waiting:
        yield _finished(*one)


def _chunk(length: int) -> int:
    """How many windows of a length are asked about at a time: a multiple of the devices."""
    devices = len(jax.local_devices())
    return devices * max(1, _PIXELS // length**2)


def _finished(time: np.ndarray, probabilities: jax.Array) -> Answers:
    """The answers to a chunk, without its padding."""
    return Answers(time, np.asarray(probabilities)[: time.size])


@functools.partial(jax.jit, static_argnames=("module",))
def _probabilities(
    params: Any, cosine: jax.Array, sine: jax.Array, module: models.GafCnn
) -> jax.Array:
    """Probabilities [w, classes] from cosines and sines [w, length, 4]."""
    image = cosine[:, :, None] * cosine[:, None] - sine[:, :, None] * sine[:, None]
    logits: Any = module.apply({"params": params}, image)
    return jax.nn.softmax(logits)
