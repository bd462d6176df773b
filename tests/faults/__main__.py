"""Faults by the hundred: `python -m tests.faults [kind ...] [--times=N] [--seed=N]`.

Kinds are kill, full, damage and denied; without a name all are tried, 100 kills among them. What
was tried and what came of it is printed, and the first broken promise ends it.
"""

import argparse
import os
import tempfile
from pathlib import Path

from tests.faults import kills
from tests.faults.campaign import KINDS, campaign

_TIMES = {"kill": 100, "full": 50, "damage": 60, "denied": 12}
_TRAINED = ("dpsgd", "sweep", "choice", "stream", "pate", "attack")
_JOBS = {
    "kill": tuple(kills.SIGNS_OF),
    "full": ("data", "dpsgd", "sweep", "pate", "attack", "study"),
    "damage": ("dpsgd", "sweep", "pate", "attack", "study"),
    "denied": _TRAINED,
}


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("kinds", nargs="*", default="all", choices=(*KINDS, "all"))
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

        for kind in KINDS if "all" in flags.kinds else flags.kinds:
            number = campaign(kind, _JOBS[kind], flags.times or _TIMES[kind], flags.seed, model_of)
            print(f"{kind}: {number} faults, no promise broken\n", flush=True)


if __name__ == "__main__":
    main()
