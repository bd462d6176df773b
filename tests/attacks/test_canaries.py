"""Canaries, and trainings with and without them, against `training.fit` one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpfinjax import clipping, training
from dpfinjax.attacks import audit, canaries
from dpfinjax.errors import InputError
from dpfinjax.training import Data, Membership
from tests.attacks.small_training import CLASSES, EXAMPLES, each, make_data, make_plan

FIT = jax.jit(training.fit, static_argnums=4)


def losses(params, data, module):
    logits = np.asarray(module.apply({"params": params}, data.inputs), np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    picked = shifted[np.arange(len(logits)), np.asarray(data.targets)]
    return np.log(np.exp(shifted).sum(axis=1)) - picked


def slow_drops(key, rows, data, scored, plan):
    """Losses before minus losses after a training on some rows, by `fit` itself."""
    membership = Membership(jnp.asarray(rows, jnp.int32), jnp.int32(len(rows)))
    # Padding changes which coins an example has, so the membership is padded as in the fast one.
    padded = jnp.zeros(data.targets.shape[0], jnp.int32).at[: len(rows)].set(membership.rows)
    last, _ = FIT(key, plan.hparams, membership._replace(rows=padded), data, plan.spec)
    first = training.init(key, data, plan.spec).params
    return losses(first, scored, plan.spec.module) - losses(last, scored, plan.spec.module)


@pytest.mark.parametrize("kind", canaries.KINDS)
def test_canaries_have_a_wrong_label_and_nothing_else_is_touched(kind):
    data = make_data()
    planted = canaries.planted(3, data, 40, CLASSES, kind)
    others = np.setdiff1d(np.arange(EXAMPLES), planted.rows)
    assert len(np.unique(planted.rows)) == 40
    assert (each(planted.data, planted.rows).targets != each(data, planted.rows).targets).all()
    assert set(np.unique(planted.data.targets)) <= set(range(CLASSES))
    jax.tree.map(np.testing.assert_array_equal, each(planted.data, others), each(data, others))
    same = planted.data.inputs[planted.rows] == data.inputs[planted.rows]
    assert same.all() if kind == "mislabelled" else not same.any()


def test_coins_are_fair_and_know_nothing_of_the_rows():
    included = np.array([canaries.coins(seed, 400) for seed in range(50)])
    assert stats.binomtest(int(included.sum()), included.size).pvalue > 0.001
    first = [canaries.planted(seed, make_data(), 1, CLASSES).rows[0] for seed in range(50)]
    assert abs(np.corrcoef(first, included[:, 0])[0, 1]) < 0.5


def test_one_run_scores_are_the_drops_of_a_fit_without_the_excluded():
    plan, key = make_plan(), jax.random.key(5)
    planted = canaries.planted(0, make_data(), 100, CLASSES)
    included = canaries.coins(0, 100)
    fast = canaries.one_run(key, included, planted, plan.hparams, plan.spec)
    rows = np.setdiff1d(np.arange(EXAMPLES), planted.rows[~included])
    scored = each(planted.data, planted.rows)
    slow = slow_drops(key, rows, planted.data, scored, plan)
    np.testing.assert_allclose(fast, slow, atol=2e-6)


def test_many_runs_scores_are_the_drops_of_fits_one_by_one():
    plan, key, runs = make_plan(), jax.random.key(6), 3
    few = canaries.with_one_last(1, make_data(), 4, CLASSES)
    fast = canaries.many_runs(key, runs, few, plan.hparams, plan.spec, "loss")
    plan = plan._replace(spec=dataclasses.replace(plan.spec, capacity=5))
    keys = jax.random.split(key, 2 * runs)
    for scores, offset, size in ((fast[0], 0, 5), (fast[1], runs, 4)):
        slow = [
            slow_drops(keys[offset + run], np.arange(size), few, each(few, slice(4, 5)), plan)[0]
            for run in range(runs)
        ]
        np.testing.assert_allclose(scores, slow, atol=2e-6)


def test_the_gradient_score_is_the_drop_to_first_order():
    plan = make_plan(noise=0.1)
    gentle = plan.hparams._replace(learning_rate=jnp.float32(1e-2))
    few = canaries.with_one_last(1, make_data(), 4, CLASSES)
    drop, foretold = (
        np.concatenate(canaries.many_runs(jax.random.key(0), 3, few, gentle, plan.spec, score))
        for score in ("loss", "gradient")
    )
    np.testing.assert_allclose(foretold, drop, atol=2e-2 * np.abs(drop).max())


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_a_step_with_a_gradient_space_canary_is_the_gaussian_mechanism(method):
    plan = make_plan(noise=1.5, rate=1.0, steps=1, clip_method=method)
    data, hparams, spec = canaries.probe(1, plan.hparams, plan.spec)
    scores = canaries.many_runs(jax.random.key(0), 2000, data, hparams, spec, "gradient")
    # By what the score is in theory: norm of the gradient, rate over batch, times N(clip, noise).
    norm, unit = 100.0, float(hparams.learning_rate / hparams.batch_size)
    inside, outside = (values / (norm * unit) for values in scores)
    assert stats.kstest(outside / 1.5, "norm").pvalue > 0.01
    assert stats.kstest((inside - 1) / 1.5, "norm").pvalue > 0.01
    assert stats.kstest(outside / 1.0, "norm").pvalue < 1e-6


def test_canaries_of_the_probe_do_not_disturb_each_other():
    plan = make_plan(noise=0.0, rate=1.0, steps=3)
    data, hparams, spec = canaries.probe(20, plan.hparams, plan.spec)
    included = canaries.coins(1, 20)
    planted = canaries.Canaries(data, 1 + np.arange(20))
    scores = canaries.one_run(jax.random.key(0), included, planted, hparams, spec, "gradient")
    np.testing.assert_allclose(scores[~included], 0, atol=1e-9)
    np.testing.assert_allclose(scores[included], scores[included][0], rtol=1e-5)
    assert scores[included][0] > 0


def test_scores_that_are_not_finite_are_the_highest():
    plan = make_plan()
    few = canaries.with_one_last(1, make_data(), 4, CLASSES)
    wild = plan.hparams._replace(learning_rate=jnp.float32(np.inf))
    inside, outside = canaries.many_runs(jax.random.key(0), 3, few, wild, plan.spec, "loss")
    assert np.isfinite([inside, outside]).all()
    assert min(inside.min(), outside.min()) > 1e38


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d, p: canaries.planted(0, d, 0, 3), "count is 0"),
        (lambda d, p: canaries.planted(0, d, EXAMPLES + 1, 3), "1 to 300"),
        (lambda d, p: canaries.planted(0, d, 5, 1), "classes is 1"),
        (lambda d, p: canaries.planted(0, d, 5, 3, "loud"), "kind is 'loud'"),
        (lambda d, p: canaries.with_one_last(0, d, EXAMPLES, 3), "others is 300"),
        (lambda d, p: canaries.many_runs(jax.random.key(0), 0, d, *p[:2]), "runs is 0"),
        (lambda d, p: canaries.many_runs(jax.random.key(0), 2, d, *p[:2], "x"), "score is 'x'"),
        (
            lambda d, p: canaries.many_runs(
                jax.random.key(0), 2, Data(d.inputs[:1], d.targets[:1]), *p[:2]
            ),
            "after another one",
        ),
        (
            lambda d, p: canaries.one_run(
                jax.random.key(0), np.ones(4, bool), canaries.planted(0, d, 5, 3), *p[:2]
            ),
            r"included has shape \(4,\)",
        ),
    ],
)
def test_bad_arguments_are_told_in_a_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(make_data(), make_plan())


def make_units(seed=0, most=3):
    """The data in units of one to three windows each, and twelve examples in none."""
    rng, rows, units = np.random.default_rng(seed), np.arange(EXAMPLES - 12), []
    order = rng.permutation(rows)
    while order.size:
        size = int(rng.integers(1, most + 1))
        units.append(np.pad(order[:size], (0, most - order[:size].size), constant_values=-1))
        order = order[size:]
    return make_data()._replace(units=jnp.asarray(units, jnp.int32))


@pytest.mark.parametrize("kind", canaries.KINDS)
def test_a_canary_is_a_whole_unit_and_no_other_unit_is_touched(kind):
    data = make_units()
    planted = canaries.planted(3, data, 40, CLASSES, kind)
    members = np.asarray(data.units)[planted.rows]
    own = members[members >= 0]
    others = np.setdiff1d(np.arange(EXAMPLES), own)
    assert (each(planted.data.targets, own) != each(data.targets, own)).all()
    for before, after in zip(data[:2], planted.data[:2], strict=True):
        np.testing.assert_array_equal(before[others], after[others])
    same = (planted.data.inputs[own] == data.inputs[own]).any(axis=1)
    assert same.all() if kind == "mislabelled" else not same.any()
    np.testing.assert_array_equal(planted.data.units, data.units)


def slow_unit_drops(key, members, data, scored, plan):
    """The mean over each scored unit's windows of the drop of losses, by a fit with some units."""
    rows = jnp.zeros(len(data.units), jnp.int32).at[: len(members)].set(jnp.asarray(members))
    membership = Membership(rows, jnp.int32(len(members)))
    last, _ = FIT(key, plan.hparams, membership, data, plan.spec)
    first = training.init(key, data, plan.spec).params
    drops = losses(first, data, plan.spec.module) - losses(last, data, plan.spec.module)
    table = np.asarray(data.units)[scored]
    return np.array([drops[row[row >= 0]].mean() for row in table])


def test_one_run_with_units_is_a_fit_without_the_excluded_units():
    plan, key = make_plan(), jax.random.key(5)
    planted = canaries.planted(0, make_units(), 50, CLASSES)
    included = canaries.coins(0, 50)
    fast = canaries.one_run(key, included, planted, plan.hparams, plan.spec)
    members = np.setdiff1d(np.arange(len(planted.data.units)), planted.rows[~included])
    slow = slow_unit_drops(key, members, planted.data, planted.rows, plan)
    np.testing.assert_allclose(fast, slow, atol=2e-6)


def test_many_runs_with_units_are_fits_with_and_without_the_last_one():
    plan, key, runs = make_plan(), jax.random.key(6), 2
    few = canaries.with_one_last(1, make_units(), 4, CLASSES)
    assert len(few.units) == 5
    fast = canaries.many_runs(key, runs, few, plan.hparams, plan.spec, "loss")
    plan = plan._replace(spec=dataclasses.replace(plan.spec, capacity=5))
    keys = jax.random.split(key, 2 * runs)
    for scores, offset, size in ((fast[0], 0, 5), (fast[1], runs, 4)):
        slow = [
            slow_unit_drops(keys[offset + run], np.arange(size), few, [4], plan)[0]
            for run in range(runs)
        ]
        np.testing.assert_allclose(scores, slow, atol=2e-6)


def bound_on_a_step(plan, width):
    """The lower bound on a step's epsilon that a gradient-space unit of so many windows proves."""
    data, hparams, spec = canaries.probe(1, plan.hparams, plan.spec, width)
    scores = canaries.many_runs(jax.random.key(0), 1000, data, hparams, spec, "gradient")
    return audit.many_runs(*scores, 1e-5, bound="gaussian")


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_the_audit_follows_the_unit_and_accuses_a_clip_by_window(method, monkeypatch):
    plan = make_plan(noise=4.0, rate=1.0, steps=1, clip_method=method)
    stated = audit.gaussian_epsilon(1 / 4.0, 1e-5)
    assert 0.5 * stated < bound_on_a_step(plan, 5) <= stated

    def by_window(sound):
        """Clips each window of a unit by itself and adds them up, under the same claim."""

        def make(*arguments, **settings):
            whole = sound(*arguments, **settings)

            def function(params, batch, mask):
                inputs, (targets, weights) = batch
                present = (mask[:, None] & (weights > 0)).ravel()
                alone = training.Averaged(targets.reshape(-1, 1), jnp.ones((targets.size, 1)))
                windows = inputs.reshape(-1, 1, *inputs.shape[2:]), alone
                total, stats = whole(params, windows, present)
                return total, jax.tree.map(lambda x: x.reshape(weights.shape)[:, 0], stats)

            return dataclasses.replace(whole, function=function)

        return make

    for name in ("vmap_clipped_grad", "ghost_clipped_grad"):
        monkeypatch.setattr(clipping, name, by_window(getattr(clipping, name)))
    jax.clear_caches()
    assert bound_on_a_step(plan, 5) > 2 * stated
    jax.clear_caches()
