"""Pictures, each a pure function of its numbers and the path it is written to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dpfinjax import workdir

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#718096"
_GREEN, _RED = "#2f855a", "#c53030"
_SPLITS = ("#1a365d", "#2b6cb0", "#63b3ed", "#dd6b20", "#f6ad55")
_CHANNELS = ("close", "upper shadow", "lower shadow", "real body")
_DPI = 130


def training_curves(path: str | Path, lines: Sequence[dict[str, Any]], name: str) -> None:
    """Draws loss, accuracy and epsilon against the step.

    Args:
      path: where the PNG goes.
      lines: the lines of `metrics.jsonl`.
      name: the model's name, for the title.
    """
    train = [line for line in lines if line["split"] == "train"]
    private = bool(train) and "epsilon" in train[-1]["values"]
    figure = Figure(figsize=(12 if private else 8.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 3 if private else 2)
    _curve(axes[0], lines, "train", "loss", _GREY, "sampled training batches")
    _curve(axes[0], lines, "validation", "loss", _BLUE, "validation")
    axes[0].set(ylabel="cross-entropy [nats]", title="Loss", ylim=(0, None))
    _curve(axes[1], lines, "validation", "accuracy", _BLUE, "validation")
    axes[1].set(ylabel="accuracy", title="Accuracy", ylim=(0, 1))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    if private:
        _curve(axes[2], lines, "train", "epsilon", _ORANGE, "upper bound")
        axes[2].set(ylabel="epsilon", title="Privacy spent", ylim=(0, None))
    for axis in axes:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(name)
    save(figure, path)


def confusion_matrix(
    path: str | Path, counts: np.ndarray, classes: Sequence[str], name: str
) -> None:
    """Draws a confusion matrix: shares of each row as colour, counts as text.

    Args:
      path: where the PNG goes.
      counts: int [k, k], true class by row, predicted class by column.
      classes: the k class names.
      name: the model's name, for the title.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7.4, 6.2), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        dark = share[row, column] > 0.55
        axis.text(column, row, f"{count}", ha="center", va="center", color="w" if dark else "k")
    ticks = np.arange(len(classes))
    axis.set_xticks(ticks, classes, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, classes)
    axis.set(xlabel="predicted", ylabel="true", title=f"{name}: test examples")
    bar = figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    save(figure, path)


def accuracy_per_pattern(
    path: str | Path, counts: np.ndarray, classes: Sequence[str], name: str
) -> None:
    """Draws the accuracy of each class with its 95 % interval (Wilson 1927).

    Args:
      path: where the PNG goes.
      counts: int [k, k], true class by row, predicted class by column.
      classes: the k class names.
      name: the model's name, for the title.
    """
    examples, right = counts.sum(axis=1), counts.diagonal()
    share = right / np.maximum(examples, 1)
    low, high = wilson(right, examples)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(classes))[::-1]
    axis.barh(places, share, color=_BLUE, height=0.65)
    errors = np.maximum(0, [share - low, high - share])
    axis.errorbar(share, places, xerr=errors, fmt="none", color="k", capsize=3, linewidth=1)
    labels = [f"{c} (n = {n})" for c, n in zip(classes, examples, strict=True)]
    axis.set_yticks(places, labels)
    overall = right.sum() / max(examples.sum(), 1)
    axis.axvline(overall, color=_ORANGE, linewidth=1.5, label=f"all: {100 * overall:.1f} %")
    axis.set(xlim=(0, 1), xlabel="test accuracy, 95 % interval", title=name)
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="x", alpha=0.3)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    save(figure, path)


def pattern_counts(path: str | Path, examples: Mapping[str, Mapping[str, int]]) -> None:
    """Draws how many examples of each pattern every split has, stacked by split.

    Args:
      path: where the PNG goes.
      examples: for each split, the number of examples of each pattern.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    patterns = list(next(iter(examples.values())))
    places, left = np.arange(len(patterns))[::-1], np.zeros(len(patterns))
    for (split, counts), color in zip(examples.items(), _SPLITS, strict=True):
        widths = np.array([counts[pattern] for pattern in patterns])
        total = widths.sum()
        axis.barh(places, widths, left=left, color=color, label=f"{split} ({total:,})")
        left += widths
    axis.set_yticks(places, patterns)
    axis.set(xlabel="examples", title="Examples of each pattern, by split")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def pattern_sheet(
    path: str | Path,
    ohlc: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Draws the first example of each class: a candlestick chart and its image's four channels.

    Args:
      path: where the PNG goes.
      ohlc: float64 [n, bars, 4], prices.
      images: float32 [n, bars, bars, 4], their images.
      labels: int32 [n].
      classes: the class names; each has an example.
    """
    figure = Figure(figsize=(11, 1.75 * len(classes)), layout="constrained")
    axes = figure.subplots(len(classes), 5, width_ratios=[2.2, 1, 1, 1, 1])
    for label, (name, row) in enumerate(zip(classes, axes, strict=True)):
        example = int(np.flatnonzero(labels == label)[0])
        _candles(row[0], ohlc[example])
        row[0].set_ylabel(name)
        for channel, axis in enumerate(row[1:]):
            shown = axis.imshow(images[example, :, :, channel], cmap="RdBu_r", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            if label == 0:
                axis.set_title(_CHANNELS[channel])
    axes[0, 0].set_title("bars, price in quote currency")
    axes[-1, 0].set_xlabel("bar of the window")
    figure.colorbar(shown, ax=axes[:, 1:], shrink=0.3, label="cos(phi_i + phi_j)")
    save(figure, path)


def bench_bars(
    path: str | Path, rates: Mapping[str, Mapping[int, tuple[float, float, float]]]
) -> None:
    """Draws examples per second, grouped by batch size, a bar for each method.

    Args:
      path: where the PNG goes.
      rates: for each method, by batch size, the median and the ends of its interval; a method may
        lack a batch size.
    """
    sizes = sorted({size for by_size in rates.values() for size in by_size})
    width = 0.84 / len(rates)
    figure = Figure(figsize=(3 + 0.34 * len(sizes) * len(rates), 4.4), layout="constrained")
    axis = figure.subplots()
    for rank, (method, by_size) in enumerate(rates.items()):
        offset = (rank - (len(rates) - 1) / 2) * width
        places = [sizes.index(size) + offset for size in by_size]
        median, low, high = np.array(list(by_size.values())).T
        axis.bar(places, median, 0.9 * width, label=method)
        bounds = np.maximum(0, [median - low, high - median])
        axis.errorbar(places, median, bounds, fmt="none", color="k", linewidth=1)
        for place, top, rate in zip(places, high, median, strict=True):
            axis.text(place, top, f"{rate / 1000:.3g}k", ha="center", va="bottom", fontsize=6)
    axis.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axis.set(xlabel="expected batch size", ylabel="examples per second", ylim=(0, None))
    axis.set_title("Training steps, median and quartiles")
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.yaxis.set_major_formatter(lambda rate, _: f"{rate:,.0f}")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with workdir.replacing(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _candles(axis: Axes, ohlc: np.ndarray) -> None:
    """A candlestick chart of one window [bars, 4]."""
    open_, high, low, close = ohlc.T
    bars = np.arange(1, len(ohlc) + 1)
    colors = [_GREEN if rises else _RED for rises in close >= open_]
    axis.vlines(bars, low, high, colors=colors, linewidth=1)
    axis.bar(bars, close - open_, bottom=open_, width=0.65, color=colors)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.tick_params(labelsize=7)
    axis.set_xticks(bars)


def _curve(
    axis: Axes, lines: Sequence[dict[str, Any]], split: str, value: str, color: str, label: str
) -> None:
    """One value of one split against the step."""
    mine = [line for line in lines if line["split"] == split]
    values = np.array([line["values"][value] for line in mine], float)  # None becomes nan
    axis.plot([line["step"] for line in mine], values, color=color, label=label)


def wilson(right: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 95 % interval of shares (Wilson 1927).

    Args:
      right: int [k], how many of them.
      examples: int [k], of how many.

    Returns:
      Lower and upper ends, float64 [k]; 0 and 1 where there is no example.
    """
    z, n = 1.959964, np.maximum(examples, 1e-9)
    share = right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
