"""A stated epsilon between what its audits prove and what its proof says."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from dpfinjax import accounting, privacy
from dpfinjax.attacks import audit, canaries
from dpfinjax.attacks.canaries import Canaries
from dpfinjax.settings import Plan
from dpfinjax.training import Data, HParams, Spec

_DECIDING_BOUNDS = 6  # at most, of one training


class Settings(NamedTuple):
    """How a training is audited.

    Attributes:
      canaries: number of canaries of a single run.
      kind: what they are in the network's own data, one of `canaries.KINDS`.
      score: what tells them there, one of `canaries.SCORES`.
      runs: linear models with a gradient-space canary, and as many without it.
      network_runs: networks with a mislabelled canary, and as many without it.
      others: examples that such a network sees besides.
      confidence: with which each lower bound holds.
      alarm_confidence: with which all accusations of a training hold together.
    """

    canaries: int = 1000
    kind: str = "mislabelled"
    score: str = "loss"
    runs: int = 5000
    network_runs: int = 500
    others: int = 1
    confidence: float = 0.95
    alarm_confidence: float = 0.99


class Interval(NamedTuple):
    """What one audit leaves of epsilon.

    Attributes:
      audit: the audit, in words.
      bound: the statistic: "one-run", or one of `audit.BOUNDS`.
      models: how many models were trained.
      lower: the lower bound, in nats.
      alarm: the lower bound at the confidence of an alarm.
      upper: the epsilon that is stated, in nats; inf where none is.
      decides: whether the bound holds for what is stated, whatever else; only then can it accuse.
      seconds: time that it took, compilation included.
    """

    audit: str
    bound: str
    models: int
    lower: float
    alarm: float
    upper: float
    decides: bool
    seconds: float

    @property
    def accused(self) -> bool:
        """Whether the stated epsilon is refuted."""
        return self.decides and self.alarm > self.upper

    def sentence(self) -> str:
        """Returns the interval in symbols, rounded outwards."""
        lower = math.floor(self.lower * 1000) / 1000
        return f"{lower:.3f} <= epsilon <= {privacy.shown(self.upper)}"


class Case(NamedTuple):
    """A training under audit.

    Attributes:
      key: a JAX random key for all trainings and choices.
      plan: the training.
      stated: its epsilon at the delta of its statement, in nats, inf where none is stated.
      data: its examples, in its units.
      classes: number of classes.
      settings: how it is audited.
    """

    key: jax.Array
    plan: Plan
    stated: float
    data: Data
    classes: int
    settings: Settings

    @property
    def delta(self) -> float:
        """The delta of the statement."""
        return self.plan.statement.delta

    @property
    def seed(self) -> int:
        """A seed for choices that are made on the host."""
        return int(jax.random.bits(self.key))


def audit_all(case: Case) -> Iterator[Interval]:
    """Audits a training in every way there is; a canary is one of the training's units.

    "one run" trains once with many canaries: with gradient-space ones (`canaries.probe`), and with
    canaries among the network's own data. "many runs" trains models with and without one canary:
    linear ones with a gradient-space canary, and the network itself on a few examples beside one
    that is mislabelled. "one step" is the first of these two for a single step that takes all
    examples, a Gaussian mechanism and nothing else. What it proves of the noise is turned into
    epsilon by the accountant, as composition allows (Nasr et al. 2023), the sampling and the number
    of steps taken as stated.

    The one-run and the Clopper-Pearson bound hold for any training. The Gaussian bound holds where
    privacy is that of a Gaussian mechanism. It decides for the one step, and for the whole training
    where every example is in every batch; elsewhere it only tells what more runs would find.

    Args:
      case: the training under audit.

    Yields:
      An interval for each audit and bound.

    Raises:
      InputError: a setting does not fit the data.
    """
    yield from _one_run_of_probe(case)
    yield from _one_run_of_network(case)
    yield from _many_runs_of_probe(case)
    if math.isfinite(case.plan.statement.epsilon):
        yield from _one_step(case)
    yield from _many_runs_of_network(case)


_Bound = Callable[[float], float]
"""From a confidence to a lower bound on epsilon."""


def _one_run_of_probe(case: Case) -> Iterator[Interval]:
    start, count = time.perf_counter(), case.settings.canaries
    data, hparams, spec = _probe(case, count)
    included = canaries.coins(case.seed, count)
    scores = canaries.one_run(
        jax.random.fold_in(case.key, 1),
        included,
        Canaries(data, 1 + np.arange(count)),
        hparams,
        spec,
        "gradient",
    )
    bounds = {"one-run": functools.partial(audit.one_run, scores, included, case.delta)}
    return _intervals(case, f"one run, {count} gradient-space canaries", 1, start, bounds)


def _probe(case: Case, count: int) -> tuple[Data, HParams, Spec]:
    """The training with gradient-space canaries, in units as large as the training's own."""
    plan = case.plan
    return canaries.probe(count, plan.hparams, plan.spec, plan.windows_per_unit)


def _one_run_of_network(case: Case) -> Iterator[Interval]:
    start, (count, kind, score, *_) = time.perf_counter(), case.settings
    planted = canaries.planted(case.seed, case.data, count, case.classes, kind)
    included = canaries.coins(case.seed, count)
    key = jax.random.fold_in(case.key, 2)
    plan = case.plan
    scores = canaries.one_run(key, included, planted, plan.hparams, plan.spec, score)
    bounds = {"one-run": functools.partial(audit.one_run, scores, included, case.delta)}
    return _intervals(case, f"one run, {count} {kind} canaries", 1, start, bounds)


def _many_runs_of_probe(case: Case) -> Iterator[Interval]:
    start, runs = time.perf_counter(), case.settings.runs
    data, hparams, spec = _probe(case, 1)
    key = jax.random.fold_in(case.key, 3)
    scores = canaries.many_runs(key, runs, data, hparams, spec, "gradient")
    bounds = {
        bound: functools.partial(audit.many_runs, *scores, case.delta, bound=bound)
        for bound in audit.BOUNDS
    }
    all_sampled = case.plan.statement.sample_rate == 1
    name = "many runs, gradient-space canary"
    return _intervals(case, name, 2 * runs, start, bounds, all_sampled)


def _one_step(case: Case) -> Iterator[Interval]:
    start, runs = time.perf_counter(), case.settings.runs
    data, hparams, spec = _probe(case, 1)
    spec = dataclasses.replace(spec, steps=1, warmup_steps=0)
    hparams = hparams._replace(sample_rate=jnp.float32(1))
    key = jax.random.fold_in(case.key, 4)
    scores = canaries.many_runs(key, runs, data, hparams, spec, "gradient")

    def of_the_training(confidence: float) -> float:
        step = audit.many_runs(*scores, case.delta, confidence, "gaussian")
        return _composed(step, case.plan.statement)

    bounds = {"gaussian": of_the_training}
    return _intervals(case, "one step, gradient-space canary", 2 * runs, start, bounds, True)


def _many_runs_of_network(case: Case) -> Iterator[Interval]:
    start, runs = time.perf_counter(), case.settings.network_runs
    few = canaries.with_one_last(case.seed, case.data, case.settings.others, case.classes)
    key, plan = jax.random.fold_in(case.key, 5), case.plan
    scores = canaries.many_runs(key, runs, few, plan.hparams, plan.spec, case.settings.score)
    bounds = {"clopper-pearson": functools.partial(audit.many_runs, *scores, case.delta)}
    return _intervals(case, "many runs, mislabelled canary", 2 * runs, start, bounds)


def _composed(step_epsilon: float, statement: privacy.Statement) -> float:
    """The epsilon of a training, given what one of its steps spends without sampling."""
    if step_epsilon == 0:
        return 0.0
    delta = statement.delta
    largest = 1.0
    while audit.gaussian_epsilon(largest, delta) < step_epsilon:
        largest *= 2
    mu = optimize.brentq(
        lambda mu: audit.gaussian_epsilon(mu, delta) - step_epsilon, 0.0, largest, xtol=1e-6
    )
    rest = delta - statement.overflow_probability
    numbers = (statement.sample_rate, 1 / mu, statement.steps, rest, statement.accountant)
    return float(accounting.epsilon(*numbers))


def _intervals(
    case: Case,
    name: str,
    models: int,
    start: float,
    bounds: Mapping[str, _Bound],
    is_gaussian: bool = False,
) -> Iterator[Interval]:
    """The intervals of one audit; Gaussian bounds decide where the mechanism is Gaussian."""
    confidence = case.settings.confidence
    alarm = 1 - (1 - case.settings.alarm_confidence) / _DECIDING_BOUNDS
    for bound, lower in bounds.items():
        yield Interval(
            audit=name,
            bound=bound,
            models=models,
            lower=lower(confidence),
            alarm=lower(alarm),
            upper=case.stated,
            decides=is_gaussian or bound != "gaussian",
            seconds=time.perf_counter() - start,
        )
