"""What audits leave of each model's epsilon: lower bound <= epsilon <= what is stated."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from dpfinjax.report import drawing, palette, recommendation, wording
from dpfinjax.report.drawing import Chart
from dpfinjax.report.record import Model, Study

_NOTE = (
    "A bar goes from the largest epsilon that an audit proves to the one that is stated, which has "
    "a mark; what is left of the bar is refuted. The true epsilon lies on the bar, at the audit's "
    "confidence. A bar without a mark ends beyond the chart, or nowhere. An audit tries some "
    "attacks, not all: a low bound is no proof of safety. A cross is a bound that refutes what is "
    "stated."
)
_ACROSS = "epsilon"
# A bound on the axis; beyond it, a stated epsilon would leave no room for the others.
_WIDEST = 16.0


class _Row(NamedTuple):
    """One audited model."""

    model: Model
    label: str
    color: str
    lower: float
    refuted: bool


def chart(study: Study) -> Chart | None:
    """Draws the audited interval of each model that was audited.

    Args:
      study: everything that was found.

    Returns:
      The chart, or None where nothing was audited.
    """
    rows = _rows(study)
    if not rows:
        return None
    finding = _finding(rows)

    def draw(figure: Figure) -> None:
        _draw(figure, rows)

    size = (7.2, 0.9 + 0.46 * len(rows))
    svg = drawing.svg("audits", finding, size, draw)
    return Chart("audits", finding, _NOTE, svg, _spec(rows))


def interval(model: Model) -> str:
    """Returns what is known about a model's epsilon, as text."""
    lower = recommendation.audited(model)
    lowest = "0" if lower is None else wording.lower_bound(lower)
    if math.isinf(model.epsilon):
        return f"at least {lowest}, nothing is promised"
    stated = f"{lowest} to {wording.epsilon(model.epsilon)}"
    return f"{stated}: refuted" if recommendation.refuted(model) else stated


def _rows(study: Study) -> list[_Row]:
    """The audited models, in the study's order."""
    named = wording.labels(study.models)
    rows = []
    for place, model in enumerate(study.models):
        lower = recommendation.audited(model)
        if lower is not None and not math.isnan(model.epsilon):
            color = palette.name_of(place)
            refuted = recommendation.refuted(model)
            rows.append(_Row(model, named[model.name], color, lower, refuted))
    return rows


def _finding(rows: Sequence[_Row]) -> str:
    """The chart in words."""
    said = [f"{row.label} {interval(row.model)}" for row in rows]
    return f"Epsilon between what audits prove and what is stated: {'; '.join(said)}."


def _right(rows: Sequence[_Row]) -> float:
    """Where the axis ends."""
    lowest = max(row.lower for row in rows)
    stated = [row.model.epsilon for row in rows if row.model.epsilon <= _WIDEST]
    return 1.08 * max(lowest, *stated, 1.0)


def _draw(figure: Figure, rows: Sequence[_Row]) -> None:
    """The static form."""
    axis, right = figure.subplots(), _right(rows)
    for place, row in enumerate(rows):
        color = palette.placeholder(row.color)
        stated = min(row.model.epsilon, right)
        axis.barh(place, max(0.0, stated - row.lower), left=row.lower, height=0.42, color=color)
        _mark(axis, place, row, right)
        axis.text(
            1.02,
            place,
            drawing.static_text(interval(row.model), 24),
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=palette.placeholder("alarm" if row.refuted else "ink"),
        )
    axis.set_yticks(range(len(rows)), [drawing.static_text(row.label) for row in rows])
    axis.set(xlim=(0, right), ylim=(len(rows) - 0.5, -0.5), xlabel=_ACROSS)
    drawing.clean(axis)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)


def _mark(axis: Any, place: int, row: _Row, right: float) -> None:
    """The stated epsilon, and the refuting bound where there is one."""
    alarm = palette.placeholder("alarm" if row.refuted else "ink")
    if row.model.epsilon <= right:
        axis.vlines(row.model.epsilon, place - 0.34, place + 0.34, color=alarm, linewidth=2.2)
    if row.refuted:
        axis.plot(row.lower, place, "x", color=alarm, markersize=8, markeredgewidth=2)


def _spec(rows: Sequence[_Row]) -> dict[str, Any]:
    """The interactive form."""
    right = _right(rows)
    data = [trace for row in rows for trace in _traces(row, right)]
    return {
        "data": data,
        "row_height": 38,
        "layout": drawing.layout(
            xaxis=drawing.live_axis(_ACROSS, range=[0, right]),
            yaxis=drawing.live_axis("", type="category", autorange="reversed", ticks=""),
            showlegend=False,
            height=70,
            barmode="overlay",
        ),
    }


def _traces(row: _Row, right: float) -> list[dict[str, Any]]:
    """One model: its bar, and its stated epsilon or the bound that refutes it."""
    shared: dict[str, Any] = {
        "y": [drawing.live_text(row.label)],
        "hoverinfo": "text",
        "hovertext": drawing.hover(row.label, f"epsilon {interval(row.model)}", *_each(row.model)),
        "meta": {"model": row.model.name},
    }
    bar = {
        "type": "bar",
        "orientation": "h",
        "base": [row.lower],
        "x": [max(0.0, min(row.model.epsilon, right) - row.lower)],
        "width": 0.46,
        "marker": {"color": f"@{row.color}"},
        "text": [_beyond(row.model, right)],
        "textposition": "inside",
        "insidetextanchor": "end",
        "constraintext": "none",
        "textfont": {"color": "@paper", "size": 12},
        **shared,
    }
    mark = {
        "type": "scatter",
        "mode": "markers",
        "x": [row.lower if row.refuted else row.model.epsilon],
        "marker": {
            "symbol": "x" if row.refuted else "line-ns",
            "size": 11 if row.refuted else 22,
            "color": "@alarm" if row.refuted else "@ink",
            "line": {"width": 2.5, "color": "@alarm" if row.refuted else "@ink"},
        },
        **shared,
    }
    return [bar, mark] if row.refuted or row.model.epsilon <= right else [bar]


def _beyond(model: Model, right: float) -> str:
    """What a bar that reaches the end of the chart says there."""
    if math.isinf(model.epsilon):
        return "nothing is promised"
    return f"to {wording.epsilon(model.epsilon)}" if model.epsilon > right else ""


def _each(model: Model) -> list[str]:
    """Every audit of a model, a line each."""
    return [
        f"{audit.name}: at least {wording.lower_bound(audit.lower)} "
        f"at {100 * audit.confidence:.4g} % confidence"
        for audit in model.audits
    ]
