"""Numbers as people read them, with their units; bounds are rounded to the careful side."""

import math
from collections.abc import Iterable, Sequence

from dpfinjax import privacy
from dpfinjax.report.record import Attack, Model

NONE = "–"  # noqa: RUF001 (a dash is meant)
"""What stands where there is no number."""

FAMILY_NAMES = {
    "baseline": "without privacy",
    "dpsgd": "DP-SGD",
    "pretrained": "DP-SGD after simulated bars",
    "published": "published recipe",
    "pate": "PATE",
}
"""Families of models, for people."""

_GAP = "\u00a0"  # a number and its unit stay on one line


def percent(share: float) -> str:
    """Returns a share in percent.

    >>> percent(0.9123).split()
    ['91.2', '%']
    """
    return f"{100 * share:.1f}{_GAP}%" if math.isfinite(share) else NONE


def points(difference: float) -> str:
    """Returns a difference of two shares in percentage points.

    >>> points(0.02).split()
    ['2.0', 'points']
    """
    return f"{100 * difference:.1f}{_GAP}points" if math.isfinite(difference) else NONE


def epsilon(value: float | None) -> str:
    """Returns an upper bound on epsilon, rounded up.

    >>> epsilon(3.00001), epsilon(math.inf)
    ('3.001', 'infinite')
    """
    if value is None or math.isnan(value):
        return NONE
    return privacy.shown(value) if math.isfinite(value) else "infinite"


def lower_bound(value: float) -> str:
    """Returns a lower bound on epsilon, rounded down: an audit never claims too much.

    >>> lower_bound(0.31999)
    '0.319'
    """
    if math.isnan(value):
        return NONE
    return f"{math.floor(value * 1000) / 1000:.10g}" if math.isfinite(value) else "infinite"


def number(value: float | None) -> str:
    """Returns a number to four digits.

    >>> number(1e-5), number(0.70001)
    ('1e-05', '0.7')
    """
    return NONE if value is None or math.isnan(value) else f"{value:.4g}"


def area(attack: Attack) -> str:
    """Returns an attack's area under the curve with its interval."""
    low, high = attack.auc_interval
    return f"{rate(attack.auc)} ({rate(low)} to {rate(high)})"


def success(attack: Attack) -> str:
    """Returns an attack with its area under the curve, for sentences."""
    low, high = attack.auc_interval
    return f"{attack.name}, AUC {rate(attack.auc)}, 95{_GAP}% interval {rate(low)} to {rate(high)}"


def rate(value: float) -> str:
    """Returns a rate in [0, 1] to three places.

    >>> rate(0.5)
    '0.500'
    """
    return f"{value:.3f}" if math.isfinite(value) else NONE


def count(number: int, noun: str) -> str:
    """Returns a number of things.

    >>> count(1, "seed"), count(1200, "seed")
    ('1 seed', '1,200 seeds')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(phrases: Sequence[str]) -> str:
    """Returns phrases as one enumeration.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return ", ".join(phrases[:-1]) + (" and " if phrases[1:] else "") + "".join(phrases[-1:])


def labels(models: Iterable[Model]) -> dict[str, str]:
    """Returns models' labels by their names, told apart where two are the same."""
    models = list(models)
    taken = [model.label for model in models]
    return {
        model.name: model.label
        if taken.count(model.label) == 1
        else f"{model.label} ({model.name})"
        for model in models
    }
