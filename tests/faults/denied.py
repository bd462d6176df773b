"""Write permission taken away from a run that was killed, and given back."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np

from tests.faults import kills, promises
from tests.faults.jobs import JOBS, Place
from tests.faults.kills import Undisturbed

# Root may write anywhere unless the programs it starts are denied that.
_OBEDIENT = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def _before() -> tuple[str, ...]:
    return _OBEDIENT if os.geteuid() == 0 else ()


def possible() -> bool:
    """Tells whether this user can be denied anything."""
    return os.geteuid() != 0 or shutil.which(_OBEDIENT[0]) is not None


def survived(model: Undisturbed, root: Path, rng: np.random.Generator) -> str:
    """Kills a run, makes some of its folders read-only, runs it, gives them back, runs it again.

    Args:
        model: The same job without a fault.
        root: An empty folder for it.
        rng: For the moment and the folders.

    Returns:
        The sentence that the denied run ended with; "" where it needed none of them.

    Raises:
        promises.Broken: It ended without a sentence, or the last run with other bits.
    """
    place, job = Place(root / "files", root), JOBS[model.name]
    shutil.copytree(model.place.cache, place.cache)
    kills.killed(model, place, "mid-epoch", rng)
    folders = [path for path in (place.root, *place.root.rglob("*")) if path.is_dir()]
    share = rng.uniform(0, 1)
    denied = [path for path in folders if rng.uniform() < share] or [place.run]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in denied}
    for path in denied:
        path.chmod(0o555)
    try:
        sentence = promises.ended(job, place, _before())
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)
    promises.check_whole(place, model.place)
    again = promises.ended(job, place)
    if again:
        raise promises.Broken(f"after {sentence!r}: {again}")
    promises.check_same(place, model.place)
    return sentence
