"""Faults of a kind, one after another, and what came of them."""

import collections
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.faults import damage, denied, full, kills

KINDS = ("kill", "full", "damage", "denied")


def tried(
    kind: str, model: kills.Undisturbed, root: Path, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Lets faults of a kind befall a job.

    Returns:
        What befell it, and what came of that, for each fault.
    """
    match kind:
        case "kill":
            return [(sign, "the same bits") for sign in kills.survived(model, root, rng, most=6)]
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


def campaign(
    kind: str,
    jobs: Sequence[str],
    times: int,
    seed: int,
    model_of: Callable[[str], kills.Undisturbed],
) -> int:
    """Tries faults of a kind until there were so many, job after job, and prints them.

    Args:
        kind: Of `KINDS`.
        jobs: Whom they befall, by name.
        times: How many there must be.
        seed: For moments, places and sizes.
        model_of: Gives the undisturbed run of a job.

    Returns:
        How many there were.

    Raises:
        promises.Broken: One of them broke a promise.
    """
    rng, found, trial = np.random.default_rng(seed), 0, 0
    by_fault: collections.Counter[tuple[str, str]] = collections.Counter()
    while found < times:
        name = jobs[trial % len(jobs)]
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
