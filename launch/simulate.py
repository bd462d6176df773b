r"""Simulates minute bars and compares their stylised facts with those of real ones.

  python -m launch.simulate --real=bars.csv.gz --out=simulator.png

Prints the facts of both and draws them. `docs/simulator.png` was made by

  python -m launch.simulate --bars=3000000 --seed=0 --out=docs/simulator.png \
      --real=../shared/data/ethusd_1m.csv.gz
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from dpfinjax.data import bars, simulate, stylised_facts
from dpfinjax.data.stylised_facts import Facts
from dpfinjax.errors import InputError

_BARS = flags.DEFINE_integer("bars", 1_000_000, "Bars to simulate.")
_SEED = flags.DEFINE_integer("seed", 0, "The simulation's seed.")
_REAL = flags.DEFINE_string("real", None, "File of real minute bars.", required=True)
_OUT = flags.DEFINE_string("out", "simulator.png", "The picture to write.")


def compare(count: int, seed: int, real: str, out: str) -> tuple[Facts, Facts]:
    """Draws the facts of real and of simulated bars.

    Args:
      count: bars to simulate.
      seed: the simulation's seed.
      real: path of a file of real minute bars.
      out: path of the PNG to write.

    Returns:
      The facts of the real and of the simulated bars.

    Raises:
      InputError: if one of the arguments cannot be used.
    """
    if not Path(out).absolute().parent.is_dir():
        raise InputError(f"--out={out} lies in a folder that does not exist; make it first.")
    simulated = stylised_facts.compute(simulate.bars(count, seed))
    facts = stylised_facts.compute(bars.read(real)), simulated
    stylised_facts.draw(*facts, out)
    return facts


def _main(argv: Sequence[str]) -> None:
    """Compares, and prints the facts side by side."""
    try:
        if len(argv) > 1:
            raise InputError(f"{argv[1]!r} is not a flag; settings are given as --name=value.")
        real, simulated = compare(_BARS.value, _SEED.value, _REAL.value, _OUT.value)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{'':<26}{'real':>12}{'simulated':>12}")
    for name in Facts._fields:
        if np.ndim(getattr(real, name)) == 0:
            print(f"{name:<26}{getattr(real, name):>12.5g}{getattr(simulated, name):>12.5g}")
    counts = zip(real.patterns_per_million, simulated.patterns_per_million, strict=True)
    for pattern, pair in zip(stylised_facts.patterns.PATTERNS, counts, strict=True):
        print(f"{pattern + ' per million':<30}{pair[0]:>8.0f}{pair[1]:>12.0f}")
    print(f"\nDrawn in {_OUT.value}")


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; a mistake in them ends the program with one sentence."""
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        print(f"error: {str(error).rstrip('.')}; --help lists the flags.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(_main, flags_parser=_parse)
