"""Recognition: how surely the paper's attack calls training windows training windows."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dpfinjax.report import drawing, palette, wording
from dpfinjax.report.drawing import Chart
from dpfinjax.report.record import Model, Study

_NOTE = (
    "Each shape shows how the attack's membership probabilities are distributed: above the line "
    "those of training windows, below it those of windows that the model never saw. The mark and "
    "the number are their mean. Where both halves look alike the attack learns nothing; 0.5 is a "
    "guess."
)
_ACROSS = "membership probability"
_GROUPS = (("training windows", "dpsgd"), ("windows never seen", "pretrained"))
# Quantiles that stand for a group in the page.
_SAMPLE = 200
_NARROWEST = 0.01


class _Row(NamedTuple):
    """One model: probabilities of members and of the others."""

    model: Model
    label: str
    groups: tuple[NDArray[np.float64], NDArray[np.float64]]


def chart(study: Study) -> Chart | None:
    """Draws the membership probabilities of members and of others, a violin of each model.

    Args:
      study: everything that was found.

    Returns:
      The chart, or None where there are no probabilities.
    """
    rows = _rows(study)
    if not rows:
        return None
    finding = _finding(rows)

    def draw(figure: Figure) -> None:
        _draw(figure, rows)

    svg = drawing.svg("recognition", finding, (7.2, 1.2 + 0.85 * len(rows)), draw)
    return Chart("recognition", finding, _NOTE, svg, _spec(rows))


def mean(probabilities: Sequence[float]) -> float:
    """Returns the mean of the probabilities that are numbers, nan where there is none."""
    known = [value for value in probabilities if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _rows(study: Study) -> list[_Row]:
    """The models of which both groups are known."""
    named = wording.labels(study.models)
    rows = []
    for model in study.models:
        own, others = (
            np.array([v for v in values if math.isfinite(v)], float)
            for values in (model.members, model.nonmembers)
        )
        if own.size and others.size:
            rows.append(_Row(model, named[model.name], (own, others)))
    return rows


def _finding(rows: Sequence[_Row]) -> str:
    """The chart in words."""
    said = [
        f"{row.label} {row.groups[0].mean():.3f} and {row.groups[1].mean():.3f}" for row in rows
    ]
    return f"Mean membership probability of training windows and of others: {'; '.join(said)}."


def _bandwidth(values: NDArray[np.float64]) -> float:
    """The width of a density's kernel: Scott (1992), never so narrow that nothing is seen."""
    return max(_NARROWEST, float(values.std()) * values.size**-0.2)


def _density(values: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """A Gaussian kernel density on a grid."""
    width = _bandwidth(values)
    kernels = np.exp(-0.5 * ((grid[:, None] - _thinned(values)) / width) ** 2)
    return kernels.mean(axis=1) / width


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `_SAMPLE` quantiles of the values."""
    if values.size <= _SAMPLE:
        return np.sort(values)
    return np.quantile(values, (np.arange(_SAMPLE) + 0.5) / _SAMPLE)


def _draw(figure: Figure, rows: Sequence[_Row]) -> None:
    """The static form."""
    axis, grid = figure.subplots(), np.linspace(0, 1, 201)
    for place, row in enumerate(rows):
        heights = [_density(values, grid) for values in row.groups]
        largest = max(float(height.max()) for height in heights)
        sides = zip(_GROUPS, row.groups, heights, (-1, 1), strict=True)
        for (name, color), values, height, side in sides:
            shade = palette.placeholder(color)
            away = place + side * 0.4 * height / largest
            label = name if place == 0 else None
            axis.fill_between(grid, place, away, color=shade, alpha=0.5, linewidth=0, label=label)
            middle = float(values.mean())
            axis.vlines(middle, place, place + side * 0.42, color=shade, linewidth=2)
            at: dict[str, Any] = {
                "ha": "left",
                "va": "center",
                "fontsize": 8.5,
                "fontweight": "bold",
            }
            axis.text(1.015, place + side * 0.2, f"{middle:.3f}", color=shade, **at)
        axis.axhline(place, color=palette.placeholder("edge"), linewidth=0.6)
    axis.axvline(0.5, color=palette.placeholder("ink"), linewidth=0.9, linestyle=":")
    axis.text(1.015, -0.62, "mean", ha="left", va="center", fontsize=8.5)
    axis.set_yticks(range(len(rows)), [drawing.static_text(row.label) for row in rows])
    axis.set(xlim=(0, 1), ylim=(len(rows) - 0.45, -0.55), xlabel=_ACROSS)
    drawing.clean(axis)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _spec(rows: Sequence[_Row]) -> dict[str, Any]:
    """The interactive form."""
    data = [_key(name, color) for name, color in _GROUPS]
    data += [trace for row in rows for side in (0, 1) for trace in _half(row, side)]
    guess = {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": 0.5,
        "x1": 0.5,
        "y0": 0,
        "y1": 1,
        "line": {"color": "@ink", "dash": "dot", "width": 1},
    }
    return {
        "data": data,
        "row_height": 76,
        "layout": drawing.layout(
            xaxis=drawing.live_axis(_ACROSS, range=[0, 1]),
            yaxis=drawing.live_axis("", type="category", autorange="reversed", ticks=""),
            shapes=[guess],
            legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
            violingap=0.12,
            violinmode="overlay",
            height=130,
        ),
    }


def _half(row: _Row, side: int) -> list[dict[str, Any]]:
    """One group of one model: half a violin, and its mean."""
    values, (name, color) = row.groups[side], _GROUPS[side]
    label, middle = drawing.live_text(row.label), float(values.mean())
    meta = {"model": row.model.name}
    said = drawing.hover(
        row.label,
        f"{name}: mean {middle:.3f}, median {float(np.median(values)):.3f}",
        wording.count(values.size, "window"),
    )
    violin = {
        "type": "violin",
        "orientation": "h",
        "x": np.round(_thinned(values), 5).tolist(),
        "y": [label] * min(values.size, _SAMPLE),
        # The category axis is reversed, which turns the sides around.
        "side": ("negative", "positive")[side],
        "bandwidth": _bandwidth(values),
        "spanmode": "manual",
        "span": [0, 1],
        "scalemode": "count",
        "scalegroup": row.model.name,
        "points": False,
        "fillcolor": f"@{color}",
        "line": {"color": f"@{color}", "width": 1},
        "opacity": 0.55,
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": meta,
    }
    mark = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [middle],
        "y": [label],
        "text": [f"<b>{middle:.3f}</b>"],
        "textposition": ("top right", "bottom right")[side],
        "textfont": {"color": "@ink", "size": 12},
        "marker": {
            "symbol": ("triangle-up", "triangle-down")[side],
            "size": 10,
            "color": f"@{color}",
            "line": {"color": "@ink", "width": 1},
        },
        "hoverinfo": "text",
        "hovertext": said,
        "showlegend": False,
        "meta": meta,
    }
    return [violin, mark]


def _key(name: str, color: str) -> dict[str, Any]:
    """A group's entry in the legend."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [None],
        "y": [None],
        "name": name,
        "marker": {"symbol": "square", "size": 11, "color": f"@{color}"},
        "meta": {},
    }
