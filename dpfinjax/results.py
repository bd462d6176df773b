"""One row of results a model: as `results.csv` and as a table on the screen."""

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpfinjax import privacy, workdir
from dpfinjax.errors import InputError


class Row(NamedTuple):
    """What became of one model.

    Attributes:
      model: its name within the run.
      epsilon: the privacy loss that was spent, inf without privacy.
      delta: the chance that epsilon's bound fails.
      noise_multiplier: noise over clip norm.
      clip_norm: largest l2 norm of an example's gradient, inf without clipping.
      seed: the config's seed.
      train_accuracy: share of right answers on the training split, as are the next two.
      validation_accuracy: on the validation split.
      test_accuracy: on the test split.
      seconds: time spent in training, compilation and earlier parts of a resumed run included.
      steps: number of updates.
      batch_size: expected batch size.
      published_epsilon: what the original program's formula would print, or None.
      epsilon_without_tuning: what this model's training alone spent, where epsilon includes a
        private choice among several; else None.
    """

    model: str
    epsilon: float
    delta: float
    noise_multiplier: float
    clip_norm: float
    seed: int
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float
    seconds: float
    steps: int
    batch_size: float
    published_epsilon: float | None = None
    epsilon_without_tuning: float | None = None


_SHOWN = {
    "model": "model",
    "epsilon": "epsilon",
    "epsilon_without_tuning": "without tuning",
    "published_epsilon": "published formula",
    "noise_multiplier": "noise",
    "clip_norm": "clip",
    "train_accuracy": "train",
    "validation_accuracy": "validation",
    "test_accuracy": "test",
    "seconds": "seconds",
}


_ACCURACIES = ("train_accuracy", "validation_accuracy", "test_accuracy")


def write(path: str | Path, rows: Sequence[Row]) -> None:
    """Writes `results.csv`, whole or not at all; numbers keep all their digits."""
    workdir.write_csv(path, [row._asdict() for row in rows])


def count(path: str | Path) -> int:
    """Returns how many rows a `results.csv` has, 0 where there is none.

    Raises:
      InputError: if it cannot be read as CSV.
    """
    if not Path(path).exists():
        return 0
    try:
        with open(path, newline="") as file:
            return sum(1 for _ in csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error}).") from error


class Summary(NamedTuple):
    """The rows of one model over its seeds.

    Attributes:
      model: its name.
      seeds: how many rows there are.
      train_accuracy: mean and sample standard deviation (nan for one seed), as are the next two.
      validation_accuracy: on the validation split.
      test_accuracy: on the test split.
    """

    model: str
    seeds: int
    train_accuracy: tuple[float, float]
    validation_accuracy: tuple[float, float]
    test_accuracy: tuple[float, float]


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Returns mean and spread of each model's accuracies over its seeds, in order of appearance."""
    found = []
    for cell in _by_model(rows):
        spread = (
            (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)
            for values in ([getattr(row, name) for row in cell] for name in _ACCURACIES)
        )
        found.append(Summary(cell[0].model, len(cell), *spread))
    return found


def write_summary(path: str | Path, rows: Sequence[Row]) -> None:
    """Writes `summary.csv`: mean and spread of each model over its seeds."""
    lines = [
        {"model": s.model, "seeds": s.seeds}
        | {f"{name}_mean": getattr(s, name)[0] for name in _ACCURACIES}
        | {f"{name}_sd": getattr(s, name)[1] for name in _ACCURACIES}
        for s in summarise(rows)
    ]
    workdir.write_csv(path, lines)


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as lines of text: accuracies in percent, the rest to four digits.

    Rows of one model are one line, with the mean and the standard deviation of accuracies over its
    seeds, and the sum of seconds.
    """
    shown = dict(_SHOWN)
    for name in ("published_epsilon", "epsilon_without_tuning"):
        if all(getattr(row, name) is None for row in rows):
            del shown[name]
    cells = [list(shown.values())]
    for group, summary in zip(_by_model(rows), summarise(rows), strict=True):
        merged = group[0]._asdict() | {"seconds": sum(row.seconds for row in group)}
        if len(group) > 1:
            merged |= {name: getattr(summary, name) for name in _ACCURACIES}
        cells.append([_cell(name, merged[name]) for name in shown])
    return aligned(cells)


def aligned(cells: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Returns lines of cells as text, the first of them underlined.

    Args:
      cells: as many in each line.
      left: the columns that are words; the others are numbers and end together.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _by_model(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ in their seed alone, together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.model, []).append(row)
    return list(groups.values())


def _cell(name: str, value: Any) -> str:
    """One cell of the table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f} %"
    if name.endswith("accuracy"):
        return f"{100 * value:.1f} %"
    if name in ("epsilon", "epsilon_without_tuning"):
        return privacy.shown(value)
    if name == "seconds":
        return f"{value:.1f}"
    return f"{value:.4g}"
