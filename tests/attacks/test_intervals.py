"""Intervals of epsilon: sound trainings are never accused, faulty ones are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpfinjax import accounting
from dpfinjax.attacks import audit, intervals
from dpfinjax.attacks.intervals import Case, Interval, Settings
from dpfinjax.clipping import rules
from tests.attacks.small_training import CLASSES, DELTA, make_data, make_plan

SMALL = Settings(canaries=100, runs=2000, network_runs=40)


def case_of(plan, seed=0, stated=None):
    stated = plan.statement.epsilon if stated is None else stated
    return Case(jax.random.key(seed), plan, stated, make_data(), CLASSES, SMALL)


def audited(*args, **kwargs):
    return list(intervals.audit_all(case_of(*args, **kwargs)))


def accused(found):
    return [interval.audit for interval in found if interval.accused]


def test_a_sound_training_is_accused_with_no_seed_and_nearly_all_is_found():
    plan = make_plan()
    found = [audited(plan, seed) for seed in range(20)]
    assert [accused(of_seed) for of_seed in found] == [[]] * 20
    best = np.max([[i.lower for i in of_seed if i.decides] for of_seed in found], axis=1)
    assert np.median(best) > 0.7 * plan.statement.epsilon


def test_bounds_at_95_percent_are_above_the_truth_no_oftener_than_they_may():
    plan = make_plan()
    lower = [[i.lower for i in audited(plan, seed) if i.decides] for seed in range(20)]
    above = np.sum(np.array(lower) > plan.statement.epsilon, axis=0)
    assert above.max() <= 4  # of 20 at 5 %: more has a chance of 0.3 %


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(noise=1.0, stated={"noise_multiplier": 2.0}),
        make_plan(rate=1.0, stated={"sample_rate": 0.2}),
        make_plan(steps=4, rate=1.0, stated={"steps": 1}),
    ],
    ids=["half the noise", "a smaller sample rate", "fewer steps"],
)
def test_a_training_that_states_other_numbers_than_it_has_is_accused(plan):
    assert accused(audited(plan))


def test_the_one_step_audit_measures_noise_and_not_what_is_stated():
    found = audited(make_plan(noise=1.0, stated={"noise_multiplier": 2.0}))
    assert "one step, gradient-space canary" in accused(found)


def test_an_understated_epsilon_is_accused_by_all_strong_audits():
    found = audited(make_plan(noise=0.5, rate=1.0), stated=0.5)
    assert len(accused(found)) >= 4


@pytest.mark.long  # test_mutants has the same break by another audit
def test_training_without_clipping_is_accused(monkeypatch):
    def whole(squares, clip_norm):
        nothing = jnp.zeros_like(next(iter(squares.values())), bool)
        return dict.fromkeys(squares, jnp.ones(nothing.shape)), nothing

    monkeypatch.setitem(rules._RULES, "flat", whole)
    # Its own spec, and so its own programs.
    case = case_of(make_plan(momentum=0.125))
    found = [*intervals._many_runs_of_probe(case), *intervals._one_step(case)]
    assert accused(found) == [
        "many runs, gradient-space canary",
        "one step, gradient-space canary",
    ]


def test_gaussian_bounds_of_a_training_decide_only_where_every_batch_is_everything():
    for rate, decides in ((0.5, False), (1.0, True)):
        found = audited(make_plan(rate=rate))
        gaussian = [i.decides for i in found if i.bound == "gaussian"]
        assert gaussian == [decides, True]
        assert all(i.decides for i in found if i.bound != "gaussian")


def test_a_training_without_privacy_is_bounded_from_below_alone():
    plan = make_plan()
    statement = plan.statement._replace(epsilon=np.inf)
    spec = dataclasses.replace(plan.spec, clip_method="none")
    hparams = plan.hparams._replace(noise_multiplier=jnp.float32(0))
    found = audited(plan._replace(statement=statement, spec=spec, hparams=hparams))
    assert not accused(found)
    assert max(i.lower for i in found) > 2
    assert all(i.upper == np.inf for i in found)
    assert all(i.sentence().endswith("<= epsilon <= inf") for i in found)


def test_what_a_step_spends_composes_to_what_the_training_spends():
    plan = make_plan()
    step = audit.gaussian_epsilon(1 / plan.statement.noise_multiplier, DELTA)
    composed = intervals._composed(step, plan.statement)
    np.testing.assert_allclose(composed, plan.statement.epsilon, rtol=1e-3)
    assert intervals._composed(0.0, plan.statement) == 0
    assert accounting.epsilon(0.5, 2.0, 4, DELTA) > composed * 0.9


def test_intervals_are_rounded_outwards():
    interval = Interval("an audit", "one-run", 1, 1.23456, 1.0, 2.00001, True, 0.1)
    assert interval.sentence() == "1.234 <= epsilon <= 2.001"
    assert not interval.accused
    assert interval._replace(alarm=2.1).accused
    assert not interval._replace(alarm=2.1, decides=False).accused
