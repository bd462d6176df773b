"""The frontier: what accuracy costs in privacy."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from dpfinjax.report import drawing, palette, seeds, wording
from dpfinjax.report.drawing import Chart
from dpfinjax.report.record import Model, Study
from dpfinjax.report.seeds import Mean

PAPER_RANGE = (5.41, 12.62)
"""Epsilons among which Wang and Tsai (2022) found the balance, as their formula gives them."""

# Recipes that were searched for each epsilon are joined; cells of a grid are not.
_JOINED = ("dpsgd", "pretrained")
_PRIVATE = ("dpsgd", "pretrained", "pate", "published")
_TICKS = (1, 2, 5)
_ROOM = 20.0  # times the end of the paper's range: room for its label on both sides
_ACROSS, _UP = "epsilon (log scale)", "mean test accuracy"
_PAPER_LABEL = "5.41 to 12.62, as published (Wang and Tsai 2022)"
_NOTE = (
    "The further left, the more private. Whiskers, and the band around the non-private model, are "
    "95\u00a0% t-intervals of the mean over seeds; models of one seed have none. They do not cover "
    "other bars or another split."
)


class _Point(NamedTuple):
    """A private model with a place on the chart."""

    model: Model
    label: str
    test: Mean


def chart(study: Study, recommended: Model | None) -> Chart:
    """Draws test accuracy against epsilon, on a logarithmic axis.

    Args:
      study: everything that was found.
      recommended: the model to mark.

    Returns:
      The chart; models without a finite epsilon or accuracy are counted in its note.
    """
    points = _points(study)
    finding = _finding(study, points)

    def draw(figure: Figure) -> None:
        _draw(figure, study, points, recommended)

    return Chart(
        key="frontier",
        finding=finding,
        note=_note(study, points),
        svg=drawing.svg("frontier", finding, (7.2, 4.9), draw),
        spec=_spec(study, points, recommended),
    )


def _points(study: Study) -> list[_Point]:
    """The models that can be drawn, by family and epsilon."""
    named = wording.labels(study.models)
    found = [
        _Point(model, named[model.name], seeds.mean(model.test))
        for model in study.models
        if model.family in _PRIVATE and math.isfinite(model.epsilon) and model.epsilon > 0
    ]
    known = [point for point in found if math.isfinite(point.test.value)]
    return sorted(known, key=lambda p: (_PRIVATE.index(p.model.family), p.model.epsilon))


def _baselines(study: Study) -> list[tuple[Model, Mean]]:
    """Non-private models whose accuracy is known."""
    found = [(m, seeds.mean(m.test)) for m in study.models if m.family == "baseline"]
    return [(model, test) for model, test in found if math.isfinite(test.value)]


def _is(point: _Point, model: Model | None) -> bool:
    """Whether a point is this model's."""
    return model is not None and point.model.name == model.name


def _by_family(points: Sequence[_Point]) -> dict[str, list[_Point]]:
    """The points of each family that has any."""
    groups = {family: [p for p in points if p.model.family == family] for family in _PRIVATE}
    return {family: own for family, own in groups.items() if own}


def _finding(study: Study, points: Sequence[_Point]) -> str:
    """The chart in words."""
    said = [f"without privacy {wording.percent(test.value)}" for _, test in _baselines(study)[:1]]
    for family, own in _by_family(points).items():
        ends = own[:1] if len(own) == 1 else [own[0], own[-1]]
        reached = wording.listed(
            [
                f"{wording.percent(p.test.value)} at epsilon {wording.epsilon(p.model.epsilon)}"
                for p in ends
            ]
        )
        said.append(f"{wording.FAMILY_NAMES[family]} {reached}")
    return "Mean test accuracy against epsilon: " + ("; ".join(said) or "nothing is known") + "."


def _note(study: Study, points: Sequence[_Point]) -> str:
    """How to read the chart, and what is not in it."""
    private = sum(model.family in _PRIVATE for model in study.models)
    missing = private - len(points)
    verb = "is" if missing == 1 else "are"
    left_out = (
        f" {wording.count(missing, 'model')} without a finite epsilon above 0 or without an "
        f"accuracy {verb} in the table alone."
        if missing
        else ""
    )
    return _NOTE + left_out


def _range(
    study: Study, points: Sequence[_Point]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of both axes."""
    epsilons = [*PAPER_RANGE, *(point.model.epsilon for point in points)]
    means = [test for _, test in _baselines(study)] + [point.test for point in points]
    lows = [mean.low if math.isfinite(mean.low) else mean.value for mean in means]
    bottom = math.floor(20 * min(lows, default=0.0) - 0.5) / 20
    return (min(epsilons) / 1.5, max(epsilons) * 1.6), (max(0.0, bottom), 1.0)


def _ticks(ends: tuple[float, float]) -> list[float]:
    """One, two and five times powers of ten; powers alone where there would be too many."""
    powers = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    steps = _TICKS if len(powers) < 5 else _TICKS[:1]
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in ticks if ends[0] <= tick <= ends[1]]


def _half(test: Mean) -> tuple[float, float]:
    """How far an interval's ends are from its mean, 0 where there is no interval."""
    if not math.isfinite(test.low):
        return 0.0, 0.0
    return test.value - test.low, test.high - test.value


def _draw(
    figure: Figure, study: Study, points: Sequence[_Point], recommended: Model | None
) -> None:
    """The static form."""
    axis = figure.subplots()
    across, up = _range(study, points)
    ticks = _ticks(across)
    _draw_published_range(axis, across)
    _draw_baselines(axis, study)
    _draw_families(axis, points)
    for own in _by_family(points).values():
        for point in own:
            if _is(point, recommended):
                _draw_ring(axis, point, point is own[-1])
    axis.set(xscale="log", xlim=across, ylim=up, xlabel=_ACROSS, ylabel=_UP)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticklabels([_short(tick) for tick in ticks])
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    drawing.clean(axis)
    handles, named = axis.get_legend_handles_labels()
    figure.legend(handles, named, loc="outside lower center", ncols=3)


def _label_place(across: tuple[float, float]) -> tuple[float, Literal["right", "center"]]:
    """Where the label of the paper's range stands, above the chart: over it or at the right end."""
    if across[1] < _ROOM * PAPER_RANGE[1]:
        return across[1], "right"
    return math.sqrt(PAPER_RANGE[0] * PAPER_RANGE[1]), "center"


def _draw_published_range(axis: Axes, across: tuple[float, float]) -> None:
    """The paper's range and its label."""
    axis.axvspan(*PAPER_RANGE, color=palette.placeholder("edge"), alpha=0.14, linewidth=0)
    place, anchor = _label_place(across)
    style: dict[str, Any] = {"fontsize": 7.5, "ha": anchor, "va": "bottom"}
    axis.text(place, 1.01, _PAPER_LABEL, transform=axis.get_xaxis_transform(), **style)


def _draw_baselines(axis: Axes, study: Study) -> None:
    """Non-private models, as lines across with their bands."""
    color = palette.placeholder("baseline")
    for _, test in _baselines(study):
        label = f"{wording.FAMILY_NAMES['baseline']}: {wording.percent(test.value)}"
        axis.axhline(test.value, color=color, linewidth=1.4, linestyle="--", label=label)
        if math.isfinite(test.low):
            axis.axhspan(test.low, test.high, color=color, alpha=0.12, linewidth=0)


def _draw_families(axis: Axes, points: Sequence[_Point]) -> None:
    """Private models with their intervals."""
    for family, own in _by_family(points).items():
        axis.errorbar(
            [point.model.epsilon for point in own],
            [point.test.value for point in own],
            list(zip(*(_half(point.test) for point in own), strict=True)),
            fmt=palette.MARKERS[family],
            color=palette.placeholder(family),
            markersize=6.5,
            capsize=3,
            linewidth=1.3,
            linestyle="-" if family in _JOINED else "none",
            label=wording.FAMILY_NAMES[family],
        )


def _draw_ring(axis: Axes, point: _Point, last: bool) -> None:
    """The mark of the recommended model, named where `_mark` names it."""
    place = (point.model.epsilon, point.test.value)
    ring: dict[str, Any] = {"markersize": 15, "markerfacecolor": "none", "markeredgewidth": 1.6}
    axis.plot(*place, "o", color=palette.placeholder("ink"), **ring)
    style: dict[str, Any] = {"fontweight": "bold", "fontsize": 9, "ha": "left"}
    beside = (11, -3) if last else (6, 10)
    axis.annotate("recommended", place, beside, textcoords="offset points", **style)


def _spec(study: Study, points: Sequence[_Point], recommended: Model | None) -> dict[str, Any]:
    """The interactive form."""
    across, up = _range(study, points)
    data = [trace for model, test in _baselines(study) for trace in _line(model, test, across)]
    for family, own in _by_family(points).items():
        data += [_key(family), *([_joined(family, own)] if family in _JOINED else [])]
        data += [_mark(point, _is(point, recommended), point is own[-1]) for point in own]
    ticks = _ticks(across)
    x = drawing.live_axis(
        _ACROSS,
        type="log",
        range=[math.log10(end) for end in across],
        tickvals=ticks,
        ticktext=[_short(tick) for tick in ticks],
    )
    y = drawing.live_axis(_UP, range=list(up), tickformat=".0%")
    shapes, annotations = _published_range(across)
    return {
        "data": data,
        "layout": drawing.layout(
            xaxis=x,
            yaxis=y,
            shapes=shapes,
            annotations=annotations,
            margin={"l": 56, "r": 12, "t": 26, "b": 48},
            height=484,
        ),
    }


def _published_range(
    across: tuple[float, float],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The paper's range and its label."""
    place, anchor = _label_place(across)
    shape = {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": PAPER_RANGE[0],
        "x1": PAPER_RANGE[1],
        "y0": 0,
        "y1": 1,
        "fillcolor": "@edge",
        "opacity": 0.16,
        "layer": "below",
        "line": {"width": 0},
    }
    label = {
        "xref": "x",
        "yref": "paper",
        "x": math.log10(place),
        "xanchor": anchor,
        "y": 1,
        "yanchor": "bottom",
        "showarrow": False,
        "text": _PAPER_LABEL,
        "font": {"size": 10.5, "color": "@ink"},
    }
    return [shape], [label]


def _line(model: Model, test: Mean, across: tuple[float, float]) -> list[dict[str, Any]]:
    """A non-private model: a line across, and a band where it has an interval."""
    # Points close enough that the pointer is always near one.
    steps = [across[0] * (across[1] / across[0]) ** (step / 40) for step in range(41)]
    said = drawing.hover(
        model.label, f"test accuracy {_shown(test)}", "no privacy: epsilon infinite"
    )
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": steps,
        "y": [test.value] * len(steps),
        "name": f"{wording.FAMILY_NAMES['baseline']}: {wording.percent(test.value)}",
        "line": {"color": "@baseline", "dash": "dash", "width": 1.8},
        "hoverinfo": "text",
        "hovertext": said,
        "meta": {"model": model.name},
    }
    if not math.isfinite(test.low):
        return [line]
    band = {
        "type": "scatter",
        "mode": "none",
        "x": [across[0], across[1], across[1], across[0]],
        "y": [test.low, test.low, test.high, test.high],
        "fill": "toself",
        "fillcolor": "@baseline",
        "opacity": 0.14,
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"model": model.name},
    }
    return [band, line]


def _key(family: str) -> dict[str, Any]:
    """A family's entry in the legend, which stays when its models are hidden."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if family in _JOINED else "markers",
        "x": [None],
        "y": [None],
        "name": wording.FAMILY_NAMES[family],
        "marker": _marker(family, False),
        "line": {"color": f"@{family}", "width": 1.8},
        "meta": {},
    }


def _joined(family: str, own: Sequence[_Point]) -> dict[str, Any]:
    """The line through a family's models."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [point.model.epsilon for point in own],
        "y": [point.test.value for point in own],
        "line": {"color": f"@{family}", "width": 1.8},
        "connectgaps": True,
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"models": [point.model.name for point in own]},
    }


def _mark(point: _Point, recommended: bool, last: bool) -> dict[str, Any]:
    """One private model; right of the last one of a family its name meets no line."""
    low, high = _half(point.test)
    model = point.model
    tuned = None if model.tuned_epsilon is None else wording.epsilon(model.tuned_epsilon)
    said = drawing.hover(
        point.label + (" (recommended)" if recommended else ""),
        f"test accuracy {_shown(point.test)}",
        f"validation accuracy {wording.percent(seeds.mean(model.validation).value)}",
        f"epsilon {wording.epsilon(model.epsilon)} at delta {wording.number(model.delta)}",
        "" if tuned is None else f"with the choice of its settings, epsilon {tuned}",
    )
    return {
        "type": "scatter",
        "mode": "markers+text" if recommended else "markers",
        "x": [model.epsilon],
        "y": [point.test.value],
        "text": ["<b>recommended</b>"] if recommended else None,
        "textposition": "middle right" if last else "top right",
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high],
            "arrayminus": [low],
            "color": f"@{model.family}",
            "thickness": 1.6,
            "visible": bool(low or high),
        },
        "marker": _marker(model.family, recommended),
        "hoverinfo": "text",
        "hovertext": said,
        "showlegend": False,
        "meta": {"model": model.name},
    }


def _marker(family: str, recommended: bool) -> dict[str, Any]:
    """A model's marker; the recommended one is larger, with a rim."""
    return {
        "color": f"@{family}",
        "symbol": palette.SYMBOLS[family],
        "size": 15 if recommended else 9,
        "line": {"color": "@ink", "width": 2.5 if recommended else 0},
    }


def _shown(test: Mean) -> str:
    """A mean with its interval, or without one."""
    mean = f"{wording.percent(test.value)} ({wording.count(test.seeds, 'seed')}"
    if not math.isfinite(test.low):
        return mean + ")"
    return f"{mean}, 95 % interval {100 * test.low:.1f} to {wording.percent(test.high)})"


def _short(epsilon: float) -> str:
    """An epsilon on an axis."""
    return f"{epsilon:,.4g}" if epsilon < 1e4 else f"{epsilon:.0e}"
