"""Faults by the hundred: `python -m tests.faults [kind ...] [--times=N] [--seed=N]`.

Kinds are kill, full, damage and denied; without a name all are tried, 100 kills among them. What
was tried and what came of it is printed, and the first broken promise ends it.
"""

import argparse
import collections
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults import damage, denied, full, kills

_TIMES = {"kill": 100, "full": 6, "damage": 60, "denied": 12}
_TRAINED = ("dpsgd", "sweep", "choice", "stream", "pate", "attack")
_JOBS = {
    "kill": tuple(kills.SIGNS_OF),
    "full": ("data", "dpsgd", "sweep", "pate", "attack", "study"),
    "damage": ("dpsgd", "sweep", "pate", "attack", "study"),
    "denied": _TRAINED,
}


def tried(
    kind: str, model: kills.Undisturbed, root: Path, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Lets faults of a kind befall a job.

    Returns:
        What befell it, and what came of that, for each fault.
    """
    match kind:
        case "kill":
            return [(sign, "the same bits") for sign in kills.survived(model, root, rng, most=4)]
        case "full":
            return [("full disk", "a sentence, then the same bits")] * full.survived(
                model, root, rng
            )
        case "damage":
            what, sentence = damage.survived(model, root, rng)
            return [(what, sentence or "the same bits")]
        case _:
            sentence = denied.survived(model, root, rng)
            return [("denied", f"{sentence or 'nothing to write'}; then the same bits")]


def campaign(kind: str, times: int, seed: int, model_of: Callable[[str], kills.Undisturbed]) -> int:
    """Tries faults of a kind until there were so many, job after job, and prints them.

    Returns:
        How many there were.
    """
    rng, found, trial = np.random.default_rng(seed), 0, 0
    by_fault: collections.Counter[tuple[str, str]] = collections.Counter()
    while found < times:
        name = _JOBS[kind][trial % len(_JOBS[kind])]
        model = model_of(name)
        with tempfile.TemporaryDirectory() as root:
            faults = tried(kind, model, Path(root), rng)
        for what, outcome in faults:
            print(f"{kind} {name}: {what}: {outcome}", flush=True)
            by_fault[name, what if kind == "kill" else kind] += 1
        found, trial = found + len(faults), trial + 1
    for (name, what), number in sorted(by_fault.items()):
        print(f"{number:4} {name}, {what}")
    return found


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("kinds", nargs="*", default=list(_TIMES), choices=_TIMES)
    parser.add_argument("--times", type=int, help="faults of each kind, at least")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    models: dict[str, kills.Undisturbed] = {}
    with tempfile.TemporaryDirectory() as folder:
        # All processes compile the same programs.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder, "jax"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

        def model_of(name: str) -> kills.Undisturbed:
            if name not in models:
                models[name] = kills.undisturbed(name, Path(folder, "undisturbed"))
            return models[name]

        for kind in flags.kinds:
            number = campaign(kind, flags.times or _TIMES[kind], flags.seed, model_of)
            print(f"{kind}: {number} faults, no promise broken\n", flush=True)


if __name__ == "__main__":
    main()
