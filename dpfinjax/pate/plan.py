"""A config turned into an aggregation of votes, and what it costs."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from dpfinjax import accounting, entropy, fields, privacy
from dpfinjax.data import Facts
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.pate import aggregation, analysis, smooth

MECHANISMS = ("confident", "gaussian", "laplace")
_AGREEMENT = 0.6  # the share of teachers that "confident" asks for by itself
_FAILURE = 0.01  # the chance that a released epsilon is too small
_RELEASED = (
    "Epsilon was made public with noise, which makes it less than what was spent with a chance of "
    f"{_FAILURE:g}."
)
_LEAST = 1e-6  # below it float32 and the bounds have no digits left
_OPTIONAL = ("target_epsilon", "scale", "threshold", "queries", "answers")
_KINDS = {
    "mechanism": fields.TEXT,
    **dict.fromkeys(("target_epsilon", "scale", "threshold", "check_ratio"), fields.NUMBER),
    **dict.fromkeys(("teachers", "queries", "answers"), fields.WHOLE),
    **dict.fromkeys(("semi_supervised", "release"), fields.TRUTH),
    "delta": fields.NUMBER,
}


class Plan(NamedTuple):
    """How the votes of an ensemble become labels.

    Attributes:
      mechanism: one of `MECHANISMS`.
      teachers: their number.
      queries: how many public images are asked, at most.
      answers: how many of them are answered, at most.
      scale: noise of an answer, in votes: a standard deviation, or Laplace's b.
      threshold: votes that "confident" asks for; None for the others, as is the next.
      threshold_scale: standard deviation of the check's noise, in votes.
      delta: the chance that epsilon's bound fails.
    """

    mechanism: str
    teachers: int
    queries: int
    answers: int
    scale: float
    threshold: float | None
    threshold_scale: float | None
    delta: float


class Statement(NamedTuple):
    """The privacy claim of a student, and what may not be published.

    Attributes:
      epsilon: the privacy loss that was spent. It does not depend on the votes, or was made
        private itself: it may be published.
      private_epsilon: the data-dependent bound, which tells about the votes. Not to be published;
        nan in a claim without it, see `read` and `shareable`.
      released: whether `epsilon` is the data-dependent bound, published by smooth sensitivity.
      plan: how labels came about.
      unit: what one example is: the thing that is protected.
      assumptions: sentences without which the claim does not hold.
    """

    epsilon: float
    private_epsilon: float
    released: bool
    plan: Plan
    unit: str
    assumptions: tuple[str, ...]

    @property
    def delta(self) -> float:
        """The chance that epsilon's bound fails."""
        return self.plan.delta

    @property
    def clip_norm(self) -> float:
        """How far an example moves the votes on a query: l1 for Laplace noise, l2 for Gaussian."""
        return 2.0 if self.plan.mechanism == "laplace" else math.sqrt(2)

    @property
    def noise_multiplier(self) -> float:
        """The noise of an answer over that."""
        return self.plan.scale / self.clip_norm

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `privacy.json`: without the number that may not be published."""
        plan = self.plan._asdict()
        return {
            "epsilon": self.epsilon,
            "delta": plan.pop("delta"),
            "noise_multiplier": self.noise_multiplier,
            "clip_norm": self.clip_norm,
            "sample_rate": 1.0,
            "steps": self.plan.answers,
            "neighbouring_relation": privacy.RELATION,
            "unit": self.unit,
            "sampler": "none: every teacher votes on every query",
            "accountant": "rdp",
            "released_by_smooth_sensitivity": self.released,
            **plan,
            "assumptions": list(self.assumptions),
        }

    def sentence(self) -> str:
        """Returns the claim in plain words."""
        delta = privacy.rounded_up(self.plan.delta)
        claim = (
            f"epsilon = {privacy.shown(self.epsilon)} at delta = {delta}, which may be published: "
            f"adding or removing {self.unit} changes the vote of one of {self.plan.teachers} "
            "teachers."
        )
        if math.isnan(self.private_epsilon):
            return claim
        return (
            f"{claim} The data-dependent bound is {privacy.shown(self.private_epsilon)}: it is "
            "computed from private votes and must not be published."
        )

    def shareable(self) -> "Statement":
        """Returns the claim with the epsilon on which no vote has a say, and no other.

        It holds for the student alone; a bound that was published by smooth sensitivity is another
        publication, whose price is in its own epsilon.
        """
        return self._replace(
            epsilon=independent_epsilon(self.plan),
            private_epsilon=math.nan,
            released=False,
            assumptions=tuple(each for each in self.assumptions if each != _RELEASED),
        )


def plan(config: ConfigDict, available: int) -> Plan:
    """Turns a config into a plan.

    Args:
      config: as `configs/pate.py` makes it.
      available: the number of public images.

    Returns:
      The plan, whose data-independent epsilon is at most the target where the config has one.

    Raises:
      InputError: for a value that makes no sense, by its field.
    """
    _check(config, available)
    queries = min(config.queries or available, available)
    answers = min(config.answers or queries, queries)
    threshold, threshold_scale, scale = None, None, config.scale
    if config.mechanism == "confident":
        threshold, ratio = _threshold(config), config.check_ratio
        if scale is None:
            threshold_scale, scale = analysis.calibrate_confident(
                config.target_epsilon, queries, answers, config.delta, ratio
            )
        else:
            threshold_scale = ratio * scale
    else:
        queries = answers
        if scale is None:
            scale = analysis.calibrate(
                config.target_epsilon, answers, config.delta, config.mechanism
            )
    return Plan(
        mechanism=config.mechanism,
        teachers=config.teachers,
        queries=queries,
        answers=answers,
        scale=_rounded_up(scale),
        threshold=threshold,
        threshold_scale=threshold_scale and _rounded_up(threshold_scale),
        delta=config.delta,
    )


def answer(key: jax.Array, votes: NDArray[np.int32], plan: Plan) -> NDArray[np.int32]:
    """Draws the label of each query, -1 where there is none.

    Args:
      key: a JAX random key, used for nothing else.
      votes: int32 [q, c], of all queries of the plan.
      plan: the mechanism and its noise.

    Returns:
      int32 [q].
    """
    if plan.threshold is None or plan.threshold_scale is None:
        noisy = aggregation.noisy_argmax(key, jnp.asarray(votes), plan.scale, plan.mechanism)
        return np.asarray(noisy)
    answers, _ = aggregation.confident(
        key,
        jnp.asarray(votes),
        plan.threshold,
        plan.threshold_scale,
        plan.scale,
        plan.answers,
    )
    return np.asarray(answers)


def curve(votes: NDArray[np.int32], plan: Plan, data_dependent: bool) -> NDArray[np.float64]:
    """Returns epsilon of answering the first query, the first two, and so on [q]."""
    if plan.threshold is None or plan.threshold_scale is None:
        return analysis.epsilon_curve(votes, plan.scale, plan.delta, plan.mechanism, data_dependent)
    return analysis.confident_epsilon_curve(
        votes,
        plan.threshold,
        plan.threshold_scale,
        plan.scale,
        plan.delta,
        data_dependent,
        plan.answers,
    )


def independent_epsilon(plan: Plan) -> float:
    """Returns the epsilon of all answers of a plan, whatever the votes."""
    votes = np.zeros((plan.queries, len(PATTERNS)), np.int32)
    votes[:, 0] = plan.teachers
    return float(curve(votes, plan, data_dependent=False)[-1])


def state(
    key: jax.Array, config: ConfigDict, votes: NDArray[np.int32], plan: Plan, facts: Facts
) -> Statement:
    """Returns the privacy statement of whatever is made from the labels and public images.

    With `config.release` it pays for the publication of the data-dependent bound of "gaussian",
    beyond a target that the labels alone were calibrated to.

    Args:
      key: a JAX random key for the publication, used for nothing else.
      config: as `configs/pate.py` makes it.
      votes: int32 [q, c], of all queries of the plan.
      plan: the mechanism and its noise.
      facts: what one example is.
    """
    epsilon, private = (float(curve(votes, plan, kind)[-1]) for kind in (False, True))
    if config.release:
        order = _best_order(plan)
        epsilon = smooth.release(
            key, votes, plan.scale, plan.delta, order, failure_probability=_FAILURE
        ).epsilon
    return Statement(
        epsilon=epsilon,
        private_epsilon=private,
        released=config.release,
        plan=plan,
        unit=facts.unit,
        assumptions=_assumptions(config) + facts.assumptions,
    )


def read(content: Mapping[str, Any], plan: Plan) -> Statement:
    """Returns the statement whose `to_json` is given.

    Args:
      content: a student's object of `privacy.json`.
      plan: the student's.

    Raises:
      KeyError: if it is no such object.
    """
    return Statement(
        epsilon=float(content["epsilon"]),
        private_epsilon=math.nan,
        released=content["released_by_smooth_sensitivity"],
        plan=plan,
        unit=content["unit"],
        assumptions=tuple(content["assumptions"]),
    )


def _rounded_up(scale: float) -> float:
    """The float32 that is drawn with, never below what was calibrated."""
    drawn = np.float32(scale)
    return float(drawn if float(drawn) >= scale else np.nextafter(drawn, np.float32(np.inf)))


def _threshold(config: ConfigDict) -> float:
    """The votes that are asked for."""
    if config.threshold is None:
        return _AGREEMENT * config.teachers
    return float(config.threshold)


def _best_order(plan: Plan) -> float:
    """The order at which the data-independent epsilon is least: no vote has a say in it."""
    orders = np.array(accounting.DEFAULT_ORDERS)
    costs = (plan.answers * orders / plan.scale**2)[:, None]
    spent = [
        accounting.rdp_to_epsilon(cost, [order], plan.delta)
        for cost, order in zip(costs, orders, strict=True)
    ]
    return float(orders[int(np.argmin(spent))])


def _check(config: ConfigDict, available: int) -> None:
    """Raises InputError for values that make no sense."""
    fields.check(config, _KINDS, _OPTIONAL)
    if config.mechanism not in MECHANISMS:
        raise InputError(
            f"config.mechanism is {config.mechanism!r}; it must be one of {', '.join(MECHANISMS)}."
        )
    if (config.scale is None) == (config.target_epsilon is None):
        raise InputError(
            f"config.target_epsilon and config.scale are {config.target_epsilon} and "
            f"{config.scale}; exactly one must be set."
        )
    for name in ("scale", "target_epsilon", "check_ratio"):
        if config[name] is not None and not _LEAST <= config[name] <= 1 / _LEAST:
            raise InputError(
                f"config.{name} is {config[name]}; it must be positive, from {_LEAST:g} to "
                f"{1 / _LEAST:g}."
            )
    if not 0 < config.delta < 1:
        raise InputError(f"config.delta is {config.delta}; it must be above 0 and below 1.")
    if config.teachers < 1:
        raise InputError(f"config.teachers is {config.teachers}; it must be at least 1.")
    if config.queries is not None and not 1 <= config.queries <= available:
        raise InputError(f"config.queries is {config.queries}; it must be from 1 to {available}.")
    if config.answers is not None and config.answers < 1:
        raise InputError(f"config.answers is {config.answers}; it must be at least 1.")
    if config.mechanism == "confident" and not 0 <= _threshold(config) <= config.teachers:
        raise InputError(
            f"config.threshold is {config.threshold}; it must be from 0 to the number of teachers, "
            f"{config.teachers}."
        )
    if config.release and config.mechanism != "gaussian":
        raise InputError(
            f"config.release is set and config.mechanism is {config.mechanism!r}; it must be "
            "'gaussian', the only one whose data-dependent bound can be published here."
        )


def _assumptions(config: ConfigDict) -> tuple[str, ...]:
    """What a PATE run takes for granted, whatever the data."""
    released = (_RELEASED,) if config.release else ()
    return (
        "Only the student's parameters, or the labels it was given, are shared: votes, teachers, "
        "accuracies, pictures and everything else in the run's folder were computed from the "
        "private examples and are not covered.",
        "The images of the public split are public.",
        "The number of training examples, from which the teachers' steps follow, is public and "
        "fixed in advance: both of two neighbours are trained for as many steps.",
        "Each student is stated by itself; sharing several adds up.",
        entropy.assumption(config),
        "Noise is made of normal numbers by the method of Box and Muller, which end at 7.54 "
        "standard deviations, and added in float32. Epsilon and delta are those of exact noise.",
        *released,
    )
