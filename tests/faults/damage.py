"""Files of a finished or a killed run, cut short or with a byte that is another."""

import shutil
from pathlib import Path

import numpy as np

from tests.faults import kills, promises
from tests.faults.jobs import JOBS, Place
from tests.faults.kills import Undisturbed

_LOGS = ("tensorboard", "metrics.jsonl")  # told in the documentation: nothing is read from them


def survived(model: Undisturbed, root: Path, rng: np.random.Generator) -> tuple[str, str]:
    """Damages one file of a run, or of its prepared data, and runs it again.

    Args:
        model: The same job without a fault.
        root: An empty folder.
        rng: For the file, the place and the kind of damage.

    Returns:
        What was damaged, and the sentence that the job then ended with, "" where it succeeded.

    Raises:
        promises.Broken: It ended in another way, or with other bits.
    """
    place, job = Place(root), JOBS[model.name]
    if rng.uniform() < 0.5:
        shutil.copytree(model.place.root, root, dirs_exist_ok=True)
        for path in root.rglob("config.json"):  # which names folders
            path.write_text(path.read_text().replace(str(model.place.root), str(root)))
    else:
        shutil.copytree(model.place.cache, place.cache)
        signs = [sign for sign in kills.SIGNS_OF[model.name] if sign != "data build"]
        kills.killed(model, place, str(rng.choice(signs)), rng)
    files = _files(place)
    # Folders have many files and some kinds few: each kind is as likely.
    kinds = sorted({path.suffix or path.name for path in files})
    kind = rng.choice(kinds)
    path = rng.choice([path for path in files if (path.suffix or path.name) == kind])
    content = path.read_bytes()
    what = f"{_damaged(path, rng)} {path.relative_to(root)}"
    damaged = path.read_bytes()
    try:
        sentence = promises.ended(job, place)
        if not sentence:
            if "checkpoints" in path.parts and path.exists() and path.read_bytes() == damaged:
                path.write_bytes(content)  # nobody read it; who does is told
            # Prepared data have files that nobody reads, and may stay as they are now.
            promises.check_whole(place, model.place, with_cache=False)
            promises.check_same(place, model.place)
    except promises.Broken as error:
        raise promises.Broken(f"{what}: {error}") from error
    return what, sentence


def _files(place: Place) -> list[Path]:
    """What has content to lose."""
    found = []
    for folder in (place.run, place.cache):
        for path in sorted(folder.rglob("*")):
            known = not any(part in _LOGS for part in path.relative_to(folder).parts)
            if known and path.is_file() and path.stat().st_size:
                found.append(path)
    return found


def _damaged(path: Path, rng: np.random.Generator) -> str:
    """Damages a file; what was done to it."""
    content = bytearray(path.read_bytes())
    where = int(rng.integers(len(content)))
    if rng.uniform() < 0.5:
        path.write_bytes(content[:where])
        return f"cut to {where} of {len(content)} bytes:"
    content[where] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"bit flipped in byte {where} of {len(content)}:"
