"""Simulates minute bars and compares their stylised facts with those of real ones.

  python -m launch.simulate --config.real=bars.csv.gz

Prints the facts of both and draws them in plots/simulator.png. docs/simulator.png is that picture
for the real minutes of ETH/USD.
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dpfinjax import fields, workdir
from dpfinjax.data import bars, simulate, stylised_facts
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.data.stylised_facts import Facts
from dpfinjax.errors import InputError
from launch import app

_KINDS = {"real": fields.TEXT, "bars": fields.WHOLE, "seed": fields.WHOLE}
_MOST_BARS = 10**9


def compare(config: ConfigDict, folder: str | Path) -> tuple[Facts, Facts]:
    """Draws the facts of real and of simulated bars.

    Args:
      config: as `configs/simulate.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      The facts of the real and of the simulated bars.

    Raises:
      InputError: for a config, file or folder that cannot be used.
    """
    fields.check(config, _KINDS, ("real",))
    workdir.check(folder, config)
    if not config.real:
        raise InputError("config.real is not set; it must name a file of real minute bars.")
    if not 1 <= config.bars <= _MOST_BARS:
        raise InputError(f"config.bars is {config.bars}; it must be from 1 to {_MOST_BARS}.")
    real = stylised_facts.compute(bars.read(config.real))
    simulated = stylised_facts.compute(simulate.bars(config.bars, config.seed))
    folder = workdir.claim(folder, config, {"real_bars": real.bars})
    (folder / "plots").mkdir(exist_ok=True)
    stylised_facts.draw(real, simulated, folder / "plots" / "simulator.png")
    _print(real, simulated)
    print(f"\nWritten to {folder}")
    return real, simulated


def _print(real: Facts, simulated: Facts) -> None:
    """The facts side by side."""
    print(f"{'':<30}{'real':>12}{'simulated':>12}")
    for name in Facts._fields:
        if np.ndim(getattr(real, name)) == 0:
            print(f"{name:<30}{getattr(real, name):>12.5g}{getattr(simulated, name):>12.5g}")
    counts = zip(real.patterns_per_million, simulated.patterns_per_million, strict=True)
    for pattern, pair in zip(PATTERNS, counts, strict=True):
        print(f"{pattern + ' per million':<30}{pair[0]:>12.0f}{pair[1]:>12.0f}")


if __name__ == "__main__":
    app.run(compare, "simulate")
