"""Which model to share: the most private one that is still accurate and withstands its attacks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import special

from dpfinjax.report import seeds, wording
from dpfinjax.report.record import Attack, Model, Study

CHANCE = 0.5
"""Area under the curve of an attack that guesses."""

# What rounding may add to a difference of two means.
_ROUNDING = 1e-9
_LEVEL = 0.05  # how often all attacks on a model that keeps its secrets may seem to work


class Recommendation(NamedTuple):
    """What a study comes down to.

    Attributes:
      model: the model to share, or None where none qualifies.
      sentence: what is recommended and why, or why nothing is.
    """

    model: Model | None
    sentence: str


class _Failure(NamedTuple):
    """One condition that a model does not meet: in words, and by how many points of accuracy."""

    words: str
    shortfall: float = 0.0


def recommend(study: Study) -> Recommendation:
    """Finds the smallest epsilon that costs little accuracy and withstands every attack.

    A model qualifies if its epsilon is finite, its mean validation accuracy is within
    `study.tolerance` of the best non-private model's, it was attacked, every attack is
    `within_chance`, and no audit refutes its epsilon. The test split takes no part in the choice,
    so that the accuracy that is reported is an honest one.

    Args:
      study: everything that was found.

    Returns:
      The model and a sentence; without one, the sentence names the model that fails the fewest
      conditions, and the conditions.
    """
    baseline, candidates = _baseline(study), _candidates(study)
    if baseline is None:
        return _nothing("no non-private model has a validation accuracy to compare with")
    if not candidates:
        return _nothing("the study has no model with a finite epsilon")
    failures = [_failures(model, baseline, study.tolerance) for model in candidates]
    for model, failed in zip(candidates, failures, strict=True):
        if not failed:
            return Recommendation(model, _praise(model, baseline, study))
    closest = min(range(len(candidates)), key=lambda place: _distance(failures[place]))
    words = wording.listed([failure.words for failure in failures[closest]])
    return _nothing(f"the closest, {_named(candidates[closest], study)}, {words}")


def strongest(attacks: Sequence[Attack]) -> Attack | None:
    """Returns the attack with the largest area under its curve, None where there is none."""
    known = [attack for attack in attacks if math.isfinite(attack.auc)]
    return max(known, key=lambda attack: attack.auc, default=None)


def within_chance(attack: Attack, attacks: int) -> bool:
    """Tells whether an attack's interval contains what guessing reaches, or lies below.

    The more attacks are tried, the sooner one of them is lucky, so the interval here is one of
    several that hold with 95 % together (Bonferroni): normal ones, as `Attack.auc_interval` is.

    Args:
      attack: with its 95 % interval.
      attacks: how many attacks were tried on the model, at least 1.
    """
    low, high = attack.auc_interval
    wider = special.ndtri(1 - _LEVEL / (2 * attacks)) / special.ndtri(1 - _LEVEL / 2)
    return attack.auc - wider * (attack.auc - low) <= CHANCE and math.isfinite(high)


def audited(model: Model) -> float | None:
    """Returns the largest lower bound on a model's epsilon, None where it was not audited."""
    return max((a.lower for a in model.audits if math.isfinite(a.lower)), default=None)


def refuted(model: Model) -> bool:
    """Tells whether an audit found more than a model's stated epsilon."""
    return any(audit.lower > model.epsilon for audit in model.audits)


def _baseline(study: Study) -> Model | None:
    """The non-private model that validates best."""
    known = [
        model
        for model in study.models
        if model.family == "baseline" and math.isfinite(_validation(model))
    ]
    return max(known, key=_validation, default=None)


def _candidates(study: Study) -> list[Model]:
    """Private models, the smallest epsilon first and the better one first among equals."""
    private = [
        model
        for model in study.models
        if model.family != "baseline" and math.isfinite(model.epsilon)
    ]
    return sorted(private, key=lambda model: (model.epsilon, -_known(_validation(model))))


def _failures(model: Model, baseline: Model, tolerance: float) -> list[_Failure]:
    """The conditions that a model does not meet."""
    failed = []
    gap = _validation(baseline) - _validation(model)
    if math.isnan(gap):
        failed.append(_Failure("has no validation accuracy", math.inf))
    elif gap > tolerance + _ROUNDING:
        words = (
            f"is {wording.points(gap)} below the non-private validation accuracy "
            f"({wording.points(tolerance)} are tolerated)"
        )
        failed.append(_Failure(words, gap))
    if not model.attacks:
        failed.append(_Failure("was not attacked"))
    for attack in model.attacks:
        if not within_chance(attack, len(model.attacks)):
            failed.append(_Failure(f"does not withstand an attack ({wording.success(attack)})"))
    if refuted(model):
        bound = wording.lower_bound(max(audit.lower for audit in model.audits))
        failed.append(_Failure(f"is refuted by an audit, which finds an epsilon of {bound}"))
    return failed


def _distance(failures: Sequence[_Failure]) -> tuple[int, float]:
    """How far a model is from qualifying."""
    return len(failures), sum(failure.shortfall for failure in failures)


def _praise(model: Model, baseline: Model, study: Study) -> str:
    """The recommendation of a model that qualifies."""
    own, other = seeds.mean(model.test), seeds.mean(baseline.test)
    tuned = model.tuned_epsilon
    with_tuning = "" if tuned is None else f", {wording.epsilon(tuned)} with tuning"
    return (
        f"Recommended is {_named(model, study)}: at epsilon {wording.epsilon(model.epsilon)} "
        f"(delta {wording.number(model.delta)}{with_tuning}) its mean test accuracy is "
        f"{wording.percent(own.value)} over {wording.count(own.seeds, 'seed')}, beside "
        f"{wording.percent(other.value)} without privacy; its validation accuracy is within the "
        f"tolerated {wording.points(study.tolerance)}, {_withstood(model)}, and {_audit(model)}."
    )


def _withstood(model: Model) -> str:
    """What the attacks on a model that qualifies came to."""
    attack = strongest(model.attacks)
    known = wording.success(attack) if attack else "no AUC is known"
    if len(model.attacks) == 1:
        return f"the attack on it is within chance ({known})"
    return (
        f"all {len(model.attacks)} attacks on it together are within chance (the strongest alone: "
        f"{known})"
    )


def _audit(model: Model) -> str:
    """What the audits of a model that qualifies came to."""
    bound = audited(model)
    if bound is None:
        return "it was not audited"
    confidence = min(audit.confidence for audit in model.audits)
    return (
        f"its audit finds an epsilon of at least {wording.lower_bound(bound)} "
        f"({100 * confidence:.4g}\u00a0% confidence)"
    )


def _nothing(reason: str) -> Recommendation:
    """No model, and why."""
    return Recommendation(None, f"No private model can be recommended: {reason}.")


def _named(model: Model, study: Study) -> str:
    """A model's label, told apart from others."""
    return wording.labels(study.models)[model.name]


def _validation(model: Model) -> float:
    """Mean validation accuracy."""
    return seeds.mean(model.validation).value


def _known(value: float) -> float:
    """A number that sorts below all others where it is nan."""
    return -math.inf if math.isnan(value) else value
