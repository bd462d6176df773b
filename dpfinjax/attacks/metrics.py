"""How well scores tell members from others: ROC, its area and its points, with intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dpfinjax.attacks import checks
from dpfinjax.attacks.checks import BoolArray, FloatArray
from dpfinjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic and what is read off it.

    A point is what happens when every example whose score is at least a threshold is called a
    member. Equal scores are on one side together, so the points are all that the scores allow.

    Attributes:
        fpr: Share of non-members that are called members, ascending from 0 to 1 [p].
        tpr: Share of members that are called members, ascending from 0 to 1 [p].
        thresholds: The thresholds, descending from inf [p].
        auc: Area under the curve, the chance that a member's score is above a non-member's, ties
            counted half.
        auc_low: Lower end of the interval of the area.
        auc_high: Upper end of it.
        balanced_accuracy: Mean of true-positive and true-negative rate at the threshold that is
            best for these very scores, so that it is above 1/2 even for scores that know nothing.
        members: Number of members.
        nonmembers: Number of non-members.
        confidence: Level of the intervals.
    """

    fpr: FloatArray
    tpr: FloatArray
    thresholds: FloatArray
    auc: float
    auc_low: float
    auc_high: float
    balanced_accuracy: float
    members: int
    nonmembers: int
    confidence: float

    def tpr_at(self, fpr: float) -> tuple[float, float, float]:
        """Gives the largest true-positive rate whose false-positive rate is within a bound.

        There is no interpolation. The interval is that of Clopper and Pearson (1934) for the
        members above this threshold, the threshold taken as given.

        Args:
            fpr: The largest false-positive rate, in [0, 1].

        Returns:
            The rate, and the lower and upper end of its interval.

        Raises:
            InputError: `fpr` is outside [0, 1].
        """
        if not 0 <= fpr <= 1:
            raise InputError(f"fpr must be within [0, 1], but it is {fpr}.")
        value = float(self.tpr[np.searchsorted(self.fpr, fpr, side="right") - 1])
        low, high = clopper_pearson(round(value * self.members), self.members, self.confidence)
        return value, float(low), float(high)


def roc(scores: ArrayLike, is_member: ArrayLike, *, confidence: float = 0.95) -> Roc:
    """Compares the scores of members with those of others.

    The interval of the area is the normal one with the variance of DeLong, DeLong and
    Clarke-Pearson (1988), which assumes nothing about the curve. Where that variance is 0 or
    unknown, as under perfect separation, it is Clopper and Pearson's for as many independent pairs
    as the smaller group has examples.

    Args:
        scores: Finite scores [e], higher for likelier members.
        is_member: bool [e], with at least one member and one other.
        confidence: Level of the intervals, in (0, 1).

    Returns:
        The curve and its summary.

    Raises:
        InputError: A shape, a type or a value is wrong, or one of the two groups is empty.

    Example:
        >>> curve = roc([3.0, 2.0, 2.0, 1.0], [True, True, False, False])
        >>> curve.tpr.tolist(), curve.auc, curve.tpr_at(0.1)[0]
        ([0.0, 0.5, 1.0, 1.0], 0.875, 0.5)
    """
    values = checks.finite("scores", scores)
    member = checks.flags("is_member", is_member, values.shape)
    checks.within_0_1("confidence", confidence)
    if member.all() or not member.any():
        raise InputError("is_member must have members and others, but it has only one kind.")
    thresholds, fpr, tpr = _points(values, member)
    auc, low, high = _area(values[member], values[~member], confidence)
    return Roc(
        fpr=fpr,
        tpr=tpr,
        thresholds=thresholds,
        auc=auc,
        auc_low=low,
        auc_high=high,
        balanced_accuracy=float(np.max(1 + tpr - fpr) / 2),
        members=int(member.sum()),
        nonmembers=int((~member).sum()),
        confidence=confidence,
    )


def by_class(
    scores: ArrayLike,
    is_member: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    confidence: float = 0.95,
) -> dict[str, Roc]:
    """Compares members with others within each class, say each candlestick pattern.

    Args:
        scores: Finite scores [e], higher for likelier members.
        is_member: bool [e].
        labels: int [e], classes as indices of `classes`.
        classes: The classes' names.
        confidence: Level of the intervals, in (0, 1).

    Returns:
        By class name, in the order of `classes`, the curve of its examples; without those classes
        that lack members or others.

    Raises:
        InputError: A shape, a type or a value is wrong, or a label has no name.
    """
    values = checks.finite("scores", scores)
    member = checks.flags("is_member", is_member, values.shape)
    label = np.asarray(labels)
    if label.shape != values.shape or not np.isin(label, np.arange(len(classes))).all():
        raise InputError(f"labels must be {values.size} whole numbers in 0..{len(classes) - 1}.")
    chosen = {name: label == index for index, name in enumerate(classes)}
    return {
        name: roc(values[here], member[here], confidence=confidence)
        for name, here in chosen.items()
        if member[here].any() and not member[here].all()
    }


def clopper_pearson(
    successes: ArrayLike, trials: ArrayLike, confidence: ArrayLike = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Gives the two-sided interval of a share by Clopper and Pearson (1934), by the beta function.

    Args:
        successes: Number of successes, 0 .. trials, any shape.
        trials: Number of trials, >= 1, any shape.
        confidence: Level, in (0, 1), any shape. Either end alone fails with probability at most
            (1 - confidence) / 2.

    Returns:
        Lower and upper end, of the broadcast shape.

    Example:
        >>> low, high = clopper_pearson(0, 10)
        >>> print(f"{low} {high:.4f}")
        0.0 0.3085
    """
    k, n, level = np.broadcast_arrays(successes, trials, confidence)
    tail = (1 - level) / 2
    # The maximum keeps the beta function defined where the end is known without it.
    low = special.betaincinv(np.maximum(k, 1e-9), n - k + 1, tail)
    high = special.betainccinv(k + 1, np.maximum(n - k, 1e-9), tail)
    return np.where(k > 0, low, 0.0)[()], np.where(k < n, high, 1.0)[()]


def _points(values: FloatArray, member: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Thresholds, false-positive and true-positive rates [p], one point for each distinct score."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = [np.bincount(place[group], minlength=distinct.size) for group in (~member, member)]
    fpr, tpr = (np.concatenate([[0], count[::-1].cumsum()]) / count.sum() for count in counts)
    return np.concatenate([[np.inf], distinct[::-1]]), fpr, tpr


def _area(inside: FloatArray, outside: FloatArray, confidence: float) -> tuple[float, float, float]:
    """The area under the curve and its interval."""
    wins, losses = _placements(inside, outside), 1 - _placements(outside, inside)
    auc = float(wins.mean())
    pairs = min(wins.size, losses.size)
    variance = 0.0
    if pairs > 1:
        variance = float(wins.var(ddof=1) / wins.size + losses.var(ddof=1) / losses.size)
    if variance == 0:
        low, high = clopper_pearson(auc * pairs, pairs, confidence)
        return auc, float(low), float(high)
    half = special.ndtri((1 + confidence) / 2) * math.sqrt(variance)
    return auc, max(0.0, auc - half), min(1.0, auc + half)


def _placements(scores: FloatArray, others: FloatArray) -> NDArray[np.float64]:
    """For each score the share of the others below it, ties counted half."""
    ordered = np.sort(others)
    sides = [np.searchsorted(ordered, scores, side=side) for side in ("left", "right")]
    return (sides[0] + sides[1]) / (2 * others.size)
