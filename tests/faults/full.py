"""A disk that is full: a small tmpfs, which grows until the job is done."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.faults import promises
from tests.faults.jobs import JOBS, Place
from tests.faults.kills import Undisturbed

_FIRST_KIB = 8
_GROWTH = (1.3, 3.0)  # from one size to the next


class NoMount(Exception):
    """This user may not mount a file system."""


@contextlib.contextmanager
def small(folder: Path, kib: int) -> Iterator[None]:
    """A file system of so many KiB in a folder.

    Raises:
        NoMount: It may not be made.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k,nr_inodes=0", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoMount(str(error)) from error
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def survived(model: Undisturbed, root: Path, rng: np.random.Generator) -> int:
    """Runs a job on a disk that is too small, and again on a larger one, until it succeeds.

    Args:
        model: The same job without a fault.
        root: An empty folder for it.
        rng: For the sizes.

    Returns:
        How often the disk was full.

    Raises:
        NoMount: No such disk may be made.
        promises.Broken: The job ended without a sentence, or with other bits.
    """
    kib, times = float(_FIRST_KIB), 0
    with small(root / "disk", int(kib)):
        place = Place(root / "disk" / "job", root)
        while promises.ended(JOBS[model.name], place):
            promises.check_whole(place, model.place)
            times += 1
            kib *= rng.uniform(*_GROWTH)
            grow = ["mount", "-o", f"remount,size={int(kib)}k", str(root / "disk")]
            subprocess.run(grow, check=True)
        promises.check_whole(place, model.place)
        promises.check_same(place, model.place)
    return times
