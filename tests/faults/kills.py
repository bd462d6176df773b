"""SIGKILL at moments that are hard to survive, and at any other."""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.faults import promises
from tests.faults.jobs import JOBS, Place, started

_WAIT_S = 300
_LOOK_S = 0.001  # from one look at the files to the next
_SOON_S = 0.03  # on average, from a sign to the kill

SIGNS = {
    "any time": None,
    "data build": lambda path: "incomplete" in path.name,
    "mid-epoch": lambda path: path.parent.name == "checkpoints" and path.name.isdigit(),
    "mid-checkpoint": lambda path: "orbax-checkpoint-tmp" in path.name,
    "mid-sweep": lambda path: path.parent.name in ("unfinished", "shadow_models"),
    "mid-write": lambda path: path.name.startswith("."),
    "mid-report": lambda path: path.name in ("results.csv", "plots", "results.tex"),
}
"""What a kill waits for: a new file or folder of which this is true."""

_TRAINING = ("any time", "mid-epoch", "mid-checkpoint", "mid-write", "mid-report")
SIGNS_OF = {
    "data": ("any time", "data build", "mid-write"),
    "dpsgd": _TRAINING,
    "sweep": (*_TRAINING, "mid-sweep"),
    "choice": (*_TRAINING, "mid-sweep"),
    "stream": (*_TRAINING, "data build"),
    "pate": (*_TRAINING, "mid-sweep"),
    "attack": (*_TRAINING, "mid-sweep"),
    "audit": ("any time", "mid-write", "mid-report"),
    "study": (*_TRAINING, "data build", "mid-sweep"),
}
"""The moments that a job has."""


class Undisturbed(NamedTuple):
    """A run that no fault befell.

    Attributes:
        name: Of its job.
        place: Where it lies.
        seconds: What it took.
    """

    name: str
    place: Place
    seconds: float


def undisturbed(name: str, root: Path) -> Undisturbed:
    """Runs a job without any fault."""
    place = Place(root / name)
    begun = time.monotonic()
    sentence = promises.ended(JOBS[name], place)
    if sentence:
        raise promises.Broken(f"{name} without a fault: {sentence}")
    seconds = time.monotonic() - begun
    promises.check_whole(place, place)
    promises.check_same(place, place)
    return Undisturbed(name, place, seconds)


def survived(model: Undisturbed, root: Path, rng: np.random.Generator, most: int) -> list[str]:
    """Kills a run again and again, lets it end, and holds it to its promises.

    Args:
        model: The same job without a fault.
        root: An empty folder for it.
        rng: For moments, and their number.
        most: Kills, at most.

    Returns:
        The sign of each kill.

    Raises:
        promises.Broken: A file was not whole, less epsilon stated than spent, or the end another.
    """
    place, job = Place(root), JOBS[model.name]
    signs = rng.permutation(SIGNS_OF[model.name])[: rng.integers(1, most + 1)].tolist()
    if "data build" not in signs and model.name != "data":
        shutil.copytree(model.place.cache, place.cache)
    done = []
    for sign in signs:
        if killed(model, place, sign, rng):
            done.append(sign)
        promises.check_whole(place, model.place)
    sentence = promises.ended(job, place)
    if sentence:
        raise promises.Broken(f"after {done}: {sentence}")
    promises.check_whole(place, model.place)
    promises.check_same(place, model.place)
    return done


def killed(model: Undisturbed, place: Place, sign: str, rng: np.random.Generator) -> bool:
    """Kills a job when its sign is seen, or at any time; whether it had not ended before."""
    is_sign, there = SIGNS[sign], set(_paths(place))
    begun = time.monotonic()
    with started(JOBS[model.name], place) as process:
        while is_sign and not any(is_sign(path) for path in _paths(place) if path not in there):
            if process.poll() is not None:
                return False
            if time.monotonic() - begun > _WAIT_S:
                raise promises.Broken(f"not done after {_WAIT_S} s")
            time.sleep(_LOOK_S)
        time.sleep(rng.exponential(_SOON_S) if is_sign else rng.uniform(0, model.seconds))
        return process.poll() is None


def _paths(place: Place) -> Iterable[Path]:
    """All files and folders of a place."""
    for folder in (place.run, place.cache):
        for parent, folders, files in os.walk(folder):
            yield from (Path(parent, name) for name in (*folders, *files))
