"""All attacks on one model, and what they found: rows, a table, and the recognition rate."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from dpfinjax import privacy, results
from dpfinjax.attacks import answers, audit, lira, loss, metrics, rmia, shadow
from dpfinjax.attacks.answers import Answers
from dpfinjax.attacks.checks import BoolArray, FloatArray
from dpfinjax.attacks.metrics import Roc

ATTACKS = ("shadow", "lira", "rmia", "loss", "calibrated_loss")
"""The paper's attack, LiRA online, RMIA online, the loss threshold and the calibrated loss."""

FPRS = {"1pct": 0.01, "0_1pct": 0.001}
"""The false-positive rates at which true-positive rates are told, by their names in columns."""


class Row(NamedTuple):
    """What one attack found out about one model.

    Attributes:
        model: The model's name within the run.
        epsilon: Its privacy loss, inf without privacy.
        delta: The chance that epsilon's bound fails.
        noise_multiplier: Noise over clip norm.
        clip_norm: Largest l2 norm of an example's gradient, inf without clipping.
        seed: The seed that it was trained with.
        train_accuracy: Share of right answers on the training split, as are the next two.
        validation_accuracy: On the validation split.
        test_accuracy: On the test split.
        seconds: Time spent in training its shadow models.
        attack: A name in `ATTACKS`.
        shadow_models: Number of shadow models.
        members: Number of members it was tried on.
        nonmembers: Number of others.
        auc: Area under the curve, with the ends of its 95 % interval.
        auc_low: Lower end.
        auc_high: Upper end.
        balanced_accuracy: At the best threshold.
        tpr_1pct: True-positive rate at a false-positive rate of 1 %, with the ends of its 95 %
            interval.
        tpr_1pct_low: Lower end.
        tpr_1pct_high: Upper end.
        bound_1pct: The largest true-positive rate that (epsilon, delta) allows at 1 %.
        within_1pct: Whether the attack is within that bound, see `within_bound`.
        tpr_0_1pct: At 0.1 %, and so on as above.
        tpr_0_1pct_low: Lower end.
        tpr_0_1pct_high: Upper end.
        bound_0_1pct: The bound at 0.1 %.
        within_0_1pct: Whether the attack is within it.
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
    attack: str
    shadow_models: int
    members: int
    nonmembers: int
    auc: float
    auc_low: float
    auc_high: float
    balanced_accuracy: float
    tpr_1pct: float
    tpr_1pct_low: float
    tpr_1pct_high: float
    bound_1pct: float
    within_1pct: bool
    tpr_0_1pct: float
    tpr_0_1pct_low: float
    tpr_0_1pct_high: float
    bound_0_1pct: float
    within_0_1pct: bool


class Recognition(NamedTuple):
    """The content of `recognition.json`: how surely the paper's attack calls members members.

    Attributes:
        model: The model's name.
        epsilon: Its privacy loss, "inf" without privacy.
        delta: The chance that epsilon's bound fails.
        noise_multiplier: Noise over clip norm.
        recognition_rate: Mean membership probability of the training data, Wang and Tsai (2022).
        recognition_rate_low: Lower end of its 95 % interval, the normal one for a mean.
        recognition_rate_high: Upper end.
        population_rate: Mean membership probability of the population.
        recognition_rate_bound: The largest recognition rate that (epsilon, delta) allows beside
            this population rate. A probability is a randomised test, so its two means are a
            true- and a false-positive rate.
        members: Number of training examples.
        nonmembers: Number of examples of the population.
        shadow_models: Number of shadow models.
        auc: Area under the curve of these probabilities.
        tpr_0_1pct: Their true-positive rate at a false-positive rate of 0.1 %.
        tpr_0_1pct_low: Lower end of its 95 % interval.
        tpr_0_1pct_high: Upper end.
    """

    model: str
    epsilon: float | str
    delta: float
    noise_multiplier: float
    recognition_rate: float
    recognition_rate_low: float
    recognition_rate_high: float
    population_rate: float
    recognition_rate_bound: float
    members: int
    nonmembers: int
    shadow_models: int
    auc: float
    tpr_0_1pct: float
    tpr_0_1pct_low: float
    tpr_0_1pct_high: float


def scores(
    key: jax.Array,
    target: Answers,
    shadows: Answers,
    membership: BoolArray,
    labels: np.ndarray,
    is_member: BoolArray,
    *,
    variance: str = "example",
    gamma: float = 2.0,
    **attack_model: Any,
) -> dict[str, FloatArray]:
    """Scores every example by every attack.

    Args:
        key: A JAX random key, for the attack model of the paper's attack.
        target: Answers of the model under attack: [e, classes], [e].
        shadows: Answers of the shadow models: [m, e, classes], [m, e].
        membership: bool [m, e], whether a shadow model was trained on an example.
        labels: int [e], the true classes.
        is_member: bool [e], whether the target was; the others are RMIA's population. Nothing else
            uses it.
        variance: As `lira.scores` takes it.
        gamma: As `rmia.scores` takes it.
        **attack_model: As `shadow.attack` takes them.

    Returns:
        By the names in `ATTACKS`, scores [e], higher for likelier members; those of the paper's
        attack are probabilities.

    Raises:
        InputError: As the attacks do.
    """

    def both(
        number: Callable[[ArrayLike, np.ndarray], FloatArray],
    ) -> tuple[FloatArray, FloatArray]:
        return number(target.logits, labels), number(shadows.logits, labels)

    margin, margins = both(answers.margins)
    probability, probabilities = both(answers.probabilities)
    own_loss, losses = both(answers.losses)
    return {
        "shadow": shadow.attack(key, target, shadows, membership, labels, **attack_model),
        "lira": lira.scores(margin, margins, membership, variance=variance),
        "rmia": rmia.scores(probability, probabilities, membership, ~is_member, gamma=gamma),
        "loss": loss.threshold(own_loss),
        "calibrated_loss": loss.calibrated(own_loss, losses, membership),
    }


def within_bound(curve: Roc, fpr: float, epsilon: float, delta: float) -> bool:
    """Tells whether an attack is within what (epsilon, delta) proves, as far as can be told.

    The rates of finitely many examples scatter. The bound counts as broken where the lower end of
    the true-positive rate's interval is above what the bound allows at the upper end of the
    false-positive rate's, both by Clopper and Pearson (1934).

    Args:
        curve: The attack's curve.
        fpr: The false-positive rate, in [0, 1].
        epsilon: Nats, inf where nothing is promised.
        delta: Probability in [0, 1].

    Returns:
        Whether it is.
    """
    taken = curve.fpr[np.searchsorted(curve.fpr, fpr, side="right") - 1]
    called = round(float(taken) * curve.nonmembers)
    _, highest = metrics.clopper_pearson(called, curve.nonmembers, curve.confidence)
    return bool(curve.tpr_at(fpr)[1] <= audit.upper_tpr(epsilon, delta, float(highest)))


def row(statement: privacy.Claim, curve: Roc, attack: str, about: Mapping[str, Any]) -> Row:
    """Puts one attack on one model into a row.

    Args:
        statement: The model's privacy statement.
        curve: The attack's curve.
        attack: Its name.
        about: The row's fields that are the same for all attacks on this model.

    Returns:
        The row.
    """
    at: dict[str, Any] = {}
    for name, fpr in FPRS.items():
        value, low, high = curve.tpr_at(fpr)
        at |= {f"tpr_{name}": value, f"tpr_{name}_low": low, f"tpr_{name}_high": high}
        at |= {f"bound_{name}": float(audit.upper_tpr(statement.epsilon, statement.delta, fpr))}
        at |= {f"within_{name}": within_bound(curve, fpr, statement.epsilon, statement.delta)}
    return Row(
        epsilon=statement.epsilon,
        delta=statement.delta,
        noise_multiplier=statement.noise_multiplier,
        clip_norm=statement.clip_norm,
        attack=attack,
        members=curve.members,
        nonmembers=curve.nonmembers,
        auc=curve.auc,
        auc_low=curve.auc_low,
        auc_high=curve.auc_high,
        balanced_accuracy=curve.balanced_accuracy,
        **about,
        **at,
    )


def recognition(
    name: str,
    statement: privacy.Claim,
    probabilities: FloatArray,
    is_member: BoolArray,
    shadow_models: int,
) -> Recognition:
    """Sums up the paper's attack on one model.

    Args:
        name: The model's name.
        statement: Its privacy statement.
        probabilities: Membership probabilities [e].
        is_member: bool [e].
        shadow_models: How many shadow models there were.

    Returns:
        What `recognition.json` holds.
    """
    own, others = probabilities[is_member], probabilities[~is_member]
    mean, half = float(own.mean()), 1.959964 * float(own.std()) / math.sqrt(own.size)
    curve = metrics.roc(probabilities, is_member)
    value, low, high = curve.tpr_at(FPRS["0_1pct"])
    rate = float(others.mean())
    return Recognition(
        model=name,
        epsilon="inf" if math.isinf(statement.epsilon) else statement.epsilon,
        delta=statement.delta,
        noise_multiplier=statement.noise_multiplier,
        recognition_rate=mean,
        recognition_rate_low=max(0.0, mean - half),
        recognition_rate_high=min(1.0, mean + half),
        population_rate=rate,
        recognition_rate_bound=float(audit.upper_tpr(statement.epsilon, statement.delta, rate)),
        members=own.size,
        nonmembers=others.size,
        shadow_models=shadow_models,
        auc=curve.auc,
        tpr_0_1pct=value,
        tpr_0_1pct_low=low,
        tpr_0_1pct_high=high,
    )


def per_pattern(
    found: Mapping[str, ArrayLike],
    is_member: BoolArray,
    labels: np.ndarray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Breaks every attack down by class: which candlestick patterns leak most.

    Args:
        found: By attack, scores [e].
        is_member: bool [e].
        labels: int [e].
        classes: The classes' names.

    Returns:
        A dict for each attack and class, the most exposed class of each attack first.
    """
    lines = []
    for attack, values in found.items():
        curves = metrics.by_class(values, is_member, labels, classes)
        for name, curve in sorted(curves.items(), key=lambda item: -item[1].auc):
            tpr, low, high = curve.tpr_at(FPRS["1pct"])
            lines.append(
                {
                    "attack": attack,
                    "pattern": name,
                    "members": curve.members,
                    "nonmembers": curve.nonmembers,
                    "auc": curve.auc,
                    "auc_low": curve.auc_low,
                    "auc_high": curve.auc_high,
                    "balanced_accuracy": curve.balanced_accuracy,
                    "tpr_1pct": tpr,
                    "tpr_1pct_low": low,
                    "tpr_1pct_high": high,
                }
            )
    return lines


_HEADER = (
    "model",
    "epsilon",
    "attack",
    "AUC",
    "balanced",
    "TPR at 1 % FPR",
    "bound",
    "TPR at 0.1 % FPR",
    "bound",
    "",
)


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as lines of text, rates in percent with their 95 % intervals."""
    return results.aligned([_HEADER, *map(_cells, rows)], left=(0, 2, 9))


def _cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""

    def percent(*values: float) -> str:
        value, low, high = (f"{100 * v:.1f}" for v in values)
        return f"{value} % ({low} to {high})"

    promised = math.isfinite(row.epsilon)
    broken = not (row.within_1pct and row.within_0_1pct)
    return (
        row.model,
        privacy.shown(row.epsilon),
        row.attack.replace("_", " "),
        f"{row.auc:.3f} ({row.auc_low:.3f} to {row.auc_high:.3f})",
        f"{100 * row.balanced_accuracy:.1f} %",
        percent(row.tpr_1pct, row.tpr_1pct_low, row.tpr_1pct_high),
        f"{100 * row.bound_1pct:.1f} %" if promised else "-",
        percent(row.tpr_0_1pct, row.tpr_0_1pct_low, row.tpr_0_1pct_high),
        f"{100 * row.bound_0_1pct:.1f} %" if promised else "-",
        "" if not promised else "ABOVE ITS BOUND" if broken else "within",
    )
