"""What the processes are told and what they answer; needs NumPy alone, for any interpreter."""

import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

IMAGE = (10, 10, 4)
CLASSES = 8
PARAMETERS = 106_024
"""Of the network `paper_dpsgd`, which every library has."""


class Task(NamedTuple):
    """One library's part.

    Attributes:
      method: how the library is to clip, one of its own names.
      examples: number of examples in the data.
      batch_size: the expected size of a Poisson-sampled batch.
      capacity: length of a padded batch, for libraries that need fixed shapes.
      microbatch: how many of its examples these work on at a time.
      clip_norm: the largest l2 norm of one example's gradient.
      noise_multiplier: noise over clip norm.
      learning_rate: of SGD.
      momentum: of SGD.
      repeats: how many times to measure.
      seconds: how long each of them lasts, at least.
    """

    method: str
    examples: int
    batch_size: int
    capacity: int
    microbatch: int
    clip_norm: float
    noise_multiplier: float
    learning_rate: float
    momentum: float
    repeats: int
    seconds: float


def task() -> Task:
    """Returns the task that the command line holds as JSON."""
    return Task(**json.loads(sys.argv[1]))


def made_up(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes images float32 [n, 10, 10, 4] in [-1, 1) and labels int32 [n]; no time depends on them.

    Args:
      examples: how many.

    Returns:
      The images and the labels.
    """
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (examples, *IMAGE)).astype(np.float32)
    return images, rng.integers(0, CLASSES, examples).astype(np.int32)


def answer(
    task: Task, call: Callable[[], object], steps: int, parameters: int, versions: dict[str, str]
) -> None:
    """Times a call, after one that warms up, and prints the answer as one line of JSON.

    Args:
      task: the task.
      call: makes some steps, and returns when they are done.
      steps: how many.
      parameters: how many the network has.
      versions: of the libraries.

    Raises:
      ValueError: if the network cannot be the right one.
    """
    if parameters != PARAMETERS:
        raise ValueError(f"the network has {parameters:,} parameters, not {PARAMETERS:,}")
    call()
    seconds = [_seconds_per_call(call, task.seconds) / steps for _ in range(task.repeats)]
    print(json.dumps({"seconds": seconds, "versions": versions}))


def _seconds_per_call(call: Callable[[], object], least: float) -> float:
    """The mean over as many calls as fill the time."""
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < least:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls
