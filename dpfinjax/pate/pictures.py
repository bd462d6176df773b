"""Pictures of votes, of what they cost and of what students make of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dpfinjax import plots, privacy

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#718096"


def teacher_accuracies(path: str | Path, accuracy: np.ndarray, sizes: np.ndarray) -> None:
    """Draws how many teachers have which accuracy.

    Args:
      path: where the PNG goes.
      accuracy: float64 [teachers], on the test split.
      sizes: int64 [teachers], their numbers of examples.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.hist(accuracy, bins=40, range=(0, 1), color=_BLUE)
    mean = float(np.mean(accuracy))
    axis.axvline(mean, color=_ORANGE, label=f"mean: {100 * mean:.1f} %")
    examples = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    plural = "s" if len(accuracy) > 1 else ""
    axis.set(
        xlim=(0, 1),
        xlabel="test accuracy of one teacher",
        ylabel="teachers",
        title=f"{len(accuracy)} teacher{plural} of {examples} examples each",
    )
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    plots.save(figure, path)


def agreement(
    path: str | Path,
    votes: np.ndarray,
    answered: np.ndarray,
    threshold: float | None,
    name: str,
) -> None:
    """Draws how many votes the largest class of each query has.

    Args:
      path: where the PNG goes.
      votes: int32 [q, c].
      answered: bool [q], which queries were answered.
      threshold: votes that were asked for, or None.
      name: the student's name, for the title.
    """
    largest, teachers = votes.max(axis=1), int(votes[0].sum())
    step = math.ceil(teachers / 60)
    edges = [edge - 0.5 for edge in range(0, teachers + step + 1, step)]
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axis = figure.subplots()
    groups = [largest[answered], largest[~answered]]
    labels = [f"answered ({answered.sum():,})", f"not answered ({(~answered).sum():,})"]
    axis.hist(groups, bins=edges, stacked=True, color=[_BLUE, "#cbd5e0"], label=labels)
    if threshold is not None:
        axis.axvline(threshold, color=_ORANGE, label=f"threshold: {threshold:g}")
    axis.set(
        xlabel=f"votes for the class with most, of {teachers}",
        ylabel="queries",
        title=f"{name}: agreement of the teachers",
    )
    axis.legend(frameon=False)
    plots.save(figure, path)


def epsilon_by_query(path: str | Path, curves: Mapping[str, np.ndarray], name: str) -> None:
    """Draws epsilon against the number of queries.

    Args:
      path: where the PNG goes.
      curves: float64 [q] by what they are.
      name: the student's name, for the title.
    """
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axis = figure.subplots()
    for (label, curve), color in zip(curves.items(), (_BLUE, _ORANGE), strict=True):
        axis.plot(np.arange(1, len(curve) + 1), curve, color=color, label=label)
    axis.set(
        xlabel="queries", ylabel="epsilon", ylim=(0, None), title=f"{name}: what the labels cost"
    )
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    plots.save(figure, path)


def accuracy_by_epsilon(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the students' accuracy against epsilon, a line for each number of teachers.

    Args:
      path: where the PNG goes.
      rows: with `teachers`, `epsilon` and `test_accuracy`.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for teachers in sorted({row["teachers"] for row in rows}):
        mine = sorted((r["epsilon"], r["test_accuracy"]) for r in rows if r["teachers"] == teachers)
        epsilon, accuracy = zip(*mine, strict=True)
        plural = "s" if teachers > 1 else ""
        axis.plot(epsilon, accuracy, marker="o", label=f"{teachers} teacher{plural}")
    axis.set(
        xscale="log",
        xlabel="epsilon that may be published",
        ylabel="test accuracy of the student",
        ylim=(0, 1),
        title="Students",
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    plots.save(figure, path)


def grid(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws label and student accuracy by number of teachers and scale, with the epsilon of each.

    Args:
      path: where the PNG goes.
      rows: with `teachers`, `scale`, `label_accuracy`, `test_accuracy` and `epsilon`, one for each
        pair of the first two.
    """
    teachers = sorted({row["teachers"] for row in rows})
    scales = sorted({row["scale"] for row in rows})
    cells = {(row["teachers"], row["scale"]): row for row in rows}
    figure = Figure(
        figsize=(5.2 + 1.9 * len(scales), 1.6 + 0.8 * len(teachers)), layout="constrained"
    )
    titles = {"label_accuracy": "labels", "test_accuracy": "student, on test"}
    for axis, (field, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        values = np.array([[cells[t, s][field] for s in scales] for t in teachers])
        image = axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            epsilon = privacy.rounded_up(cells[teachers[row], scales[column]]["epsilon"])
            color = "w" if value > 0.55 else "k"
            text = f"{100 * value:.1f} %\nε {epsilon}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
        axis.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
        axis.set_yticks(range(len(teachers)), [str(count) for count in teachers])
        axis.set(xlabel="scale of the noise [votes]", ylabel="teachers", title=title)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.9, label="share of right answers")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    plots.save(figure, path)
