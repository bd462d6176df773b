"""Runs a launcher as on a machine of its own, and writes which rows its training has read.

python -m tests.on_own_disk FILE FOREIGN OWN MODULE [flags]: prepared data that the message of
another process says to lie in the folder FOREIGN are looked for in OWN.
"""

import functools
import json
import runpy
import sys
from pathlib import Path

import numpy as np

from dpfinjax import data, streaming


def watched(read, seen):
    """`Stored.images`, which notes what a training asks for; an evaluation asks for ranges."""

    @functools.wraps(read)
    def images(self, rows):
        if isinstance(rows, np.ndarray):
            seen.extend(rows.tolist())
        return read(self, rows)

    return images


def run(file, foreign, own, module, *flags):
    """Runs the launcher to its end, which is an exit."""
    seen: list[int] = []
    data.Stored.images = watched(data.Stored.images, seen)

    @functools.cache
    def opened(place):
        return data.opened(place._replace(folder=place.folder.replace(foreign, own, 1)))

    streaming._opened = opened
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        Path(file).write_text(json.dumps(seen))


if __name__ == "__main__":
    run(*sys.argv[1:])
