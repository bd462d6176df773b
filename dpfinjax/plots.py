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


def scaling(
    path: str | Path,
    seconds: Mapping[str, Mapping[int, float]],
    memory: Mapping[str, Mapping[int, float]],
    images: Mapping[int, float],
) -> None:
    """Draws how time and memory grow with the number of windows.

    Args:
      path: where the PNG goes.
      seconds: for each job, by number of windows.
      memory: peak resident MiB of each job, by number of windows.
      images: MiB of all images, by number of windows.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = dict(zip(seconds, (_BLUE, _ORANGE, _GREEN), strict=False))
    for axis, values in ((left, seconds), (right, memory)):
        for job, by_windows in values.items():
            axis.plot(*_sorted(by_windows), "o-", color=colours[job], label=job)
        axis.set(xlabel="windows in the five splits", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
    right.plot(*_sorted(images), "--", color=_GREY, label="all images alone")
    left.set(ylabel="seconds", title="Time")
    right.set(ylabel="peak memory of the process [MiB]", title="Memory", ylim=(100, None))
    for axis in (left, right):
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axis.legend(frameon=False, loc="upper left")
    save(figure, path)


def _sorted(by_number: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """Abscissae in ascending order, and their values."""
    numbers = sorted(by_number)
    return numbers, [by_number[number] for number in numbers]


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
    axis.use_sticky_edges = False  # else the highest or lowest body touches the frame
    axis.autoscale_view()
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


def privacy_risk(path: str | Path, members: np.ndarray, others: np.ndarray, name: str) -> None:
    """Draws how an attack's membership probabilities of the two groups are distributed.

    Densities, so that groups of unequal size compare, in the 20 bins of Wang and Tsai (2022).

    Args:
      path: where the PNG goes.
      members: float [n], probabilities of the training data, in [0, 1].
      others: float [k], those of the population.
      name: the model's name, for the title.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    groups = (("Population Data", others, _ORANGE), ("Training Data", members, _BLUE))
    for label, values, color in groups:
        text = f"{label} (n = {len(values):,}, mean {np.mean(values):.3f})"
        axis.hist(values, bins=20, range=(0, 1), density=True, alpha=0.55, color=color, label=text)
        axis.axvline(float(np.mean(values)), color=color, linewidth=1.5)
    axis.set(xlabel="Training Data Probability", ylabel="density", title=f"{name}: privacy risk")
    axis.set(xlim=(0, 1))
    axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    save(figure, path)


def roc_curves(
    path: str | Path,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    bound: tuple[np.ndarray, np.ndarray] | None,
    lowest: float,
    name: str,
) -> None:
    """Draws attacks' curves on logarithmic axes, where few false positives can be seen.

    Args:
      path: where the PNG goes.
      curves: for each attack, false-positive and true-positive rates [p].
      bound: false-positive rates and the largest true-positive rates that are proven, or None.
      lowest: where both axes begin, above 0.
      name: the model's name, for the title.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    chance = np.geomspace(lowest, 1, 100)
    axis.plot(chance, chance, color=_GREY, linestyle=":", label="chance")
    for label, (fpr, tpr) in curves.items():
        # A step: between two points no threshold lies, so nothing better than the left one is met.
        axis.step(np.maximum(fpr, lowest), tpr, where="post", label=label, linewidth=1.4)
    if bound is not None:
        axis.plot(*bound, color="k", linestyle="--", linewidth=1.4, label="proven bound")
        axis.fill_between(*bound, 1, color="k", alpha=0.06, linewidth=0)
    axis.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.05))
    axis.set(xlabel="false-positive rate", ylabel="true-positive rate", title=name)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    save(figure, path)


def exposed_windows(path: str | Path, ohlc: np.ndarray, captions: Sequence[str], name: str) -> None:
    """Draws the windows that an attack is surest of, the most exposed one first.

    Args:
      path: where the PNG goes.
      ohlc: float64 [k, bars, 4], prices.
      captions: the k captions.
      name: the model's name, for the title.
    """
    columns = min(5, len(ohlc))
    rows = -(-len(ohlc) // columns)
    figure = Figure(figsize=(3 * columns, 0.6 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, window, caption in zip(axes, ohlc, captions, strict=False):
        _candles(axis, window)
        axis.set_title(caption, fontsize=8)
    for axis in axes[len(ohlc) :]:
        axis.set_axis_off()
    figure.suptitle(f"{name}: the most exposed training windows")
    figure.supxlabel("bar of the window", fontsize=9)
    figure.supylabel("price in quote currency", fontsize=9)
    save(figure, path)


def recognition_violins(path: str | Path, probabilities: Mapping[str, np.ndarray]) -> None:
    """Draws each model's membership probabilities of its training data, means marked.

    Args:
      path: where the PNG goes.
      probabilities: for each model, float [n] in [0, 1], three models a row.
    """
    columns = min(3, len(probabilities))
    rows = -(-len(probabilities) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis, (name, values) in zip(axes, probabilities.items(), strict=False):
        mean = float(np.mean(values))
        # A density needs some width; probabilities that all agree are a line.
        if np.ptp(values) > 1e-6:
            body = axis.violinplot(values, showextrema=False, widths=0.8)["bodies"][0]
            body.set(facecolor=_BLUE, alpha=0.5)
        axis.hlines(mean, 0.6, 1.4, color=_ORANGE, linewidth=2)
        axis.text(1.42, mean, f"{mean:.3f}", color=_ORANGE, va="center", fontweight="bold")
        axis.axhline(0.5, color=_GREY, linewidth=0.8, linestyle=":")
        axis.set(xlim=(0.5, 1.75), ylim=(0, 1), xticks=[])
        axis.set_title(name, fontsize=10)
    for axis in axes[len(probabilities) :]:
        axis.set_axis_off()
    figure.supylabel("membership probability of training data", fontsize=9)
    figure.suptitle("Recognition rate: means are marked, 0.5 is a guess")
    save(figure, path)


def recognition_against_epsilon(
    path: str | Path,
    epsilon: np.ndarray,
    rates: Mapping[str, np.ndarray],
    bounds: Mapping[str, tuple[np.ndarray, np.ndarray]],
    lowest: Mapping[str, float],
    names: Sequence[str],
) -> None:
    """Draws what an attack reaches against what was promised, one panel a measure.

    Args:
      path: where the PNG goes.
      epsilon: float [k], inf for models without privacy, which are drawn at the right edge.
      rates: for each measure, float [k, 3]: the value and the ends of its interval.
      bounds: for each measure, epsilons and the largest values that they allow.
      lowest: for each measure, where a logarithmic axis begins, or 0 for a linear one.
      names: the k models' names.
    """
    figure = Figure(figsize=(6.2 * len(rates), 4.6), layout="constrained")
    axes = figure.subplots(1, len(rates), squeeze=False)[0]
    field, labels = _without_field(names)
    private = np.isfinite(epsilon)
    edge = bounds[next(iter(rates))][0].max()
    places = np.where(private, epsilon, edge)
    for axis, (measure, values) in zip(axes, rates.items(), strict=True):
        shown = np.maximum(values, lowest[measure])
        errors = np.maximum(0, [shown[:, 0] - shown[:, 1], shown[:, 2] - shown[:, 0]])
        for chosen, color, label in (
            (private, _BLUE, "private models, 95 % interval"),
            (~private, _ORANGE, "without privacy (epsilon infinite)"),
        ):
            if chosen.any():
                style = {"fmt": "o", "color": color, "capsize": 3, "label": label}
                axis.errorbar(places[chosen], shown[chosen, 0], errors[:, chosen], **style)
        axis.plot(*bounds[measure], "k--", linewidth=1.4, label="proven bound")
        for name, place, value in zip(labels, places, shown[:, 2], strict=True):
            style = {"fontsize": 8, "ha": "center", "va": "bottom"}
            axis.annotate(name, (place, value), (0, 3), textcoords="offset points", **style)
        if lowest[measure]:
            axis.set(yscale="log", ylim=(lowest[measure] / 1.5, 1.3))
        else:
            axis.set(ylim=(0, 1.05))
        axis.set(xscale="log", xlabel="epsilon", ylabel=measure)
        axis.grid(alpha=0.3)
    legend: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False}
    title = f"labels: {field}" if field else None
    figure.legend(*axes[0].get_legend_handles_labels(), title=title, **legend)
    save(figure, path)


def _without_field(names: Sequence[str]) -> tuple[str, list[str]]:
    """The one field of which names "field=value" give the value, if there is one; shorter names."""
    fields = {name.partition("=")[0] for name in names if "=" in name}
    if len(fields) != 1:
        return "", list(names)
    (field,) = fields
    return field, [name.removeprefix(f"{field}=") for name in names]


def audit_intervals(
    path: str | Path, intervals: Mapping[str, Sequence[tuple[str, float, float, bool]]]
) -> None:
    """Draws what audits leave of epsilon: lower bound <= epsilon <= what is stated.

    Args:
      path: where the PNG goes.
      intervals: for each model, an audit's name, its lower bound, the stated epsilon, inf where
        none is, and whether that is refuted.
    """
    rows = max(len(of_model) for of_model in intervals.values())
    size = (9, (0.75 + 0.55 * rows) * len(intervals))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(intervals), 1, sharex=True, squeeze=False)[:, 0]
    ends = [end for of_model in intervals.values() for row in of_model for end in row[1:3]]
    right = 1.25 * max(end for end in ends if np.isfinite(end)) or 1.0
    for axis, (name, of_model) in zip(panels, intervals.items(), strict=True):
        for place, (_, lower, upper, refuted) in enumerate(of_model):
            _audit_row(axis, place, lower, min(upper, right), refuted)
        stated = of_model[0][2]
        shown = f"{stated:.4g} is stated" if np.isfinite(stated) else "nothing is promised"
        axis.set_title(f"{name}: {shown}")
        axis.set_yticks(range(len(of_model)), [row[0] for row in of_model], fontsize=8)
        axis.set(xlim=(0, right), ylim=(len(of_model) - 0.5, -0.5))
        axis.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel("epsilon [nats]: grey is refuted by the audit, blue is left")
    save(figure, path)


def audit_mutants(
    path: str | Path,
    bounds: Mapping[str, tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]],
) -> None:
    """Draws lower bounds on epsilon over the claimed one, for mutants and what they were made of.

    Args:
      path: where the PNG goes.
      bounds: for each mutant, pairs of claimed epsilon and lower bound of the broken mechanism, one
        a seed, and of the unbroken one.
    """
    figure = Figure(figsize=(9, 1.2 + 0.36 * len(bounds)), layout="constrained")
    axis = figure.subplots()
    groups = (("broken", _RED, "x", 0.14), ("unbroken", _BLUE, "o", -0.14))
    for side, (label, color, marker, offset) in enumerate(groups):
        points = [
            (lower / claimed, place + offset)
            for place, of_mutant in enumerate(bounds.values())
            for claimed, lower in of_mutant[side]
        ]
        across, down = np.array(points).T
        axis.scatter(across, down, color=color, marker=marker, s=24, alpha=0.7, label=label)
    axis.axvline(1, color="k", linewidth=1, label="claimed")
    axis.set_yticks(range(len(bounds)), list(bounds))
    axis.set(xlim=(0, None), ylim=(len(bounds) - 0.5, -0.5))
    axis.set_xlabel("lower bound on epsilon / claimed epsilon; right of the line is caught")
    axis.set_title("Mutants and the mechanism that they were made of")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def _audit_row(axis: Axes, place: float, lower: float, upper: float, refuted: bool) -> None:
    """One audit: what it refutes, what it leaves, and the stated epsilon."""
    axis.barh(place, lower, height=0.5, color=_GREY, alpha=0.35)
    axis.barh(place, max(0.0, upper - lower), left=lower, height=0.5, color=_BLUE, alpha=0.5)
    color = _RED if refuted else "k"
    axis.vlines(upper, place - 0.36, place + 0.36, color=color, linewidth=2)
    text = f"{lower:.2f} > stated" if refuted else f"{lower:.2f}"
    axis.text(lower, place, f" {text}", va="center", fontsize=8, color=color)
