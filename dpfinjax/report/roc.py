"""Receiver operating characteristics of attacks, on logarithmic axes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from dpfinjax.attacks import audit
from dpfinjax.report import drawing, palette, recommendation, wording
from dpfinjax.report.drawing import Chart
from dpfinjax.report.record import Attack, Model, Study

STRONGEST = "strongest"
"""The choice that shows each model's strongest attack."""

_NOTE = (
    "Both axes are logarithmic: what counts is how many training windows an attack is sure of "
    "while it is hardly ever wrong. On the dotted line it guesses. No attack on a model with a "
    "finite epsilon can pass that model's bound, a dashed line, if its privacy statement holds."
)
_COLORS = ("dpsgd", "pretrained", "pate", "ink", "edge")
_DASHES = ("-", "-.", (0, (3, 1)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
_LIVE_DASHES = ("solid", "longdash", "dashdot", "longdashdot")
_ACROSS, _UP = "false-positive rate [%]", "true-positive rate [%]"


class _Attacked(NamedTuple):
    """One model that was attacked."""

    model: Model
    label: str
    color: str


def chart(study: Study) -> Chart | None:
    """Draws the curves of all attacks, static a panel a model, interactive all models in one.

    Args:
      study: everything that was found.

    Returns:
      The chart, or None where nothing was attacked.
    """
    named = wording.labels(study.models)
    attacked = [
        _Attacked(model, named[model.name], palette.name_of(place))
        for place, model in enumerate(study.models)
        if model.attacks
    ]
    if not attacked:
        return None
    finding, lowest = _finding(attacked), _lowest(attacked)
    columns = min(3, len(attacked))
    rows = -(-len(attacked) // columns)

    def draw(figure: Figure) -> None:
        _draw(figure, attacked, lowest, rows, columns)

    size = (7.2 if columns > 1 else 4.6, 0.9 + 2.6 * rows if columns > 1 else 4.2)
    svg = drawing.svg("roc", finding, size, draw)
    return Chart("roc", finding, _NOTE, svg, _spec(attacked, lowest))


def attack_names(study: Study) -> list[str]:
    """Returns the names of all attacks, in order of appearance."""
    return list(dict.fromkeys(attack.name for model in study.models for attack in model.attacks))


def _finding(attacked: Sequence[_Attacked]) -> str:
    """The chart in words."""
    said = []
    for one in attacked:
        attack = recommendation.strongest(one.model.attacks)
        if attack is not None:
            said.append(f"{one.label}: {attack.name}, AUC {wording.area(attack)}")
    return f"The strongest attack on each model, 0.5 is a guess. {'; '.join(said)}."


def _lowest(attacked: Sequence[_Attacked]) -> float:
    """Where both axes begin: a power of ten at or below the smallest rate that is told."""
    rates = [
        fpr
        for one in attacked
        for attack in one.model.attacks
        for fpr, _ in attack.curve
        if fpr > 0
    ]
    return float(10 ** np.floor(np.log10(np.clip(min(rates, default=0.01), 1e-5, 0.01))))


def _steps(attack: Attack, lowest: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A curve as it is drawn: zeros, which have no logarithm, lie below the axes."""
    fpr, tpr = np.array(attack.curve, float).reshape(-1, 2).T
    return np.maximum(fpr, lowest / 10), np.maximum(tpr, lowest / 10)


def _bound(model: Model, lowest: float) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """What a model's privacy statement allows."""
    if not np.isfinite([model.epsilon, model.delta]).all():
        return None
    fpr = np.geomspace(lowest, 1, 60)
    return fpr, audit.upper_tpr(model.epsilon, model.delta, fpr)


def _draw(
    figure: Figure, attacked: Sequence[_Attacked], lowest: float, rows: int, columns: int
) -> None:
    """The static form."""
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    names = list(dict.fromkeys(a.name for one in attacked for a in one.model.attacks))
    for axis, one in zip(panels.ravel(), attacked, strict=False):
        _panel(axis, one, names, lowest)
    for axis in panels.ravel()[len(attacked) :]:
        axis.set_axis_off()
    for column in range(columns):
        below = panels[(len(attacked) - 1 - column) // columns, column]
        below.xaxis.set_tick_params(labelbottom=True)
        below.set_xlabel(_ACROSS, fontsize=9)
    for axis in panels[:, 0]:
        axis.set_ylabel(_UP, fontsize=9)
    handles = {
        label: handle
        for axis in panels.ravel()
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)


def _panel(axis: Axes, one: _Attacked, names: Sequence[str], lowest: float) -> None:
    """All attacks on one model."""
    ink, edge = palette.placeholder("ink"), palette.placeholder("edge")
    axis.plot([lowest, 1], [lowest, 1], color=edge, linestyle=":", label="chance")
    for attack in one.model.attacks:
        place = names.index(attack.name)
        # A step: between two points no threshold lies, so nothing better than the left one is met.
        axis.step(
            *_steps(attack, lowest),
            where="post",
            color=palette.placeholder(_COLORS[place % len(_COLORS)]),
            linestyle=_DASHES[place % len(_DASHES)],
            linewidth=1.3,
            label=drawing.static_text(attack.name),
        )
    bound = _bound(one.model, lowest)
    if bound is not None:
        axis.plot(*bound, color=ink, linestyle="--", linewidth=1.2, label="bound of its statement")
    axis.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.2))
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_locator(FixedLocator(_ticks(lowest)))
        scale.set_major_formatter(FixedFormatter([_percent(tick) for tick in _ticks(lowest)]))
        scale.set_minor_locator(NullLocator())
    axis.tick_params(labelsize=8)
    axis.set_title(drawing.static_text(one.label, 30))
    drawing.clean(axis)


def _spec(attacked: Sequence[_Attacked], lowest: float) -> dict[str, Any]:
    """The interactive form."""
    chance = {
        "type": "scatter",
        "mode": "lines",
        "x": [lowest, 1],
        "y": [lowest, 1],
        "line": {"color": "@edge", "dash": "dot", "width": 1.5},
        "name": "chance",
        "hoverinfo": "skip",
        "meta": {},
    }
    data = [chance, *itertools.chain.from_iterable(_traces(one, lowest) for one in attacked)]
    ticks = _ticks(lowest)
    logs = {"type": "log", "tickvals": ticks, "ticktext": [_percent(tick) for tick in ticks]}
    ends = [float(np.log10(lowest)), 0]
    return {
        "data": _dashed(data),
        "layout": drawing.layout(
            xaxis=drawing.live_axis(_ACROSS, range=ends, **logs),
            yaxis=drawing.live_axis(_UP, range=[ends[0], 0.06], **logs),
            height=520,
        ),
    }


def _ticks(lowest: float) -> list[float]:
    """Powers of ten from the lowest rate to 1."""
    return [float(f"1e{power}") for power in range(round(np.log10(lowest)), 1)]


def _percent(rate: float) -> str:
    """A power of ten in percent."""
    return f"{100 * rate:.10g}"


def _dashed(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives neighbouring models' curves different dashes: colours alone do not tell them apart."""
    names = list(dict.fromkeys(t["meta"]["model"] for t in data if "attack" in t["meta"]))
    for trace in data:
        if "attack" in trace["meta"]:
            place = names.index(trace["meta"]["model"])
            trace["line"]["dash"] = _LIVE_DASHES[place % len(_LIVE_DASHES)]
    return data


def _traces(one: _Attacked, lowest: float) -> Iterator[dict[str, Any]]:
    """The curves of all attacks on one model, and what its statement allows."""
    best = recommendation.strongest(one.model.attacks)
    for attack in one.model.attacks:
        fpr, tpr = _steps(attack, lowest)
        low, high = (wording.percent(end) for end in attack.tpr_interval)
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": fpr.tolist(),
            "y": tpr.tolist(),
            "line": {"color": f"@{one.color}", "shape": "hv", "width": 1.8},
            "name": drawing.live_text(one.label, 60),
            "hoverinfo": "text",
            "hovertext": drawing.hover(
                one.label,
                f"{attack.name}: AUC {wording.area(attack)}",
                f"finds {wording.percent(attack.tpr)} ({low} to {high}) at 0.1 % false alarms",
            ),
            "meta": {
                "model": one.model.name,
                "attack": attack.name,
                STRONGEST: attack is best,
            },
        }
    bound = _bound(one.model, lowest)
    if bound is not None:
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": bound[0].tolist(),
            "y": bound[1].tolist(),
            "line": {"color": f"@{one.color}", "dash": "dash", "width": 1.2},
            "hoverinfo": "text",
            "hovertext": drawing.hover(one.label, "no attack can be above this line"),
            "showlegend": False,
            "meta": {"model": one.model.name, "bound": True},
        }
