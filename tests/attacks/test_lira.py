import doctest

import numpy as np
import pytest

from dpfinjax.attacks import lira, metrics
from dpfinjax.errors import InputError
from tests.attacks import reference


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("variance", lira.VARIANCES)
def test_scores_are_those_of_the_paper_in_plain_loops(offline, variance):
    target, shadows, membership, *_ = reference.made()
    fast = lira.scores(target, shadows, membership, offline=offline, variance=variance)
    slow = reference.lira(target, shadows, membership, offline, variance)
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("offline", [False, True])
def test_members_score_higher(offline):
    target, shadows, membership, is_member, _ = reference.made()
    curve = metrics.roc(lira.scores(target, shadows, membership, offline=offline), is_member)
    assert curve.auc_low > 0.6


@pytest.mark.parametrize("offline", [False, True])
def test_far_tails_are_never_tied(offline):
    target = np.concatenate([-np.geomspace(1e4, 1, 50), np.geomspace(1, 1e4, 50)])
    _, shadows, membership, *_ = reference.made()
    wide = [np.repeat(matrix[:, :1], target.size, axis=1) for matrix in (shadows, membership)]
    scores = lira.scores(target, *wide, offline=offline)
    assert np.isfinite(scores).all()
    assert np.unique(scores).size == target.size
    if offline:
        assert (np.diff(scores) > 0).all()


def test_offline_needs_no_model_that_saw_the_example():
    target, shadows, membership, *_ = reference.made()
    nothing_seen = np.zeros_like(membership)
    scores = lira.scores(target, shadows, nothing_seen, offline=True)
    assert np.isfinite(scores).all()
    with pytest.raises(InputError, match="Example 0 is in no shadow model"):
        lira.scores(target, shadows, nothing_seen)


def test_offline_never_looks_at_models_that_saw_the_example():
    target, shadows, membership, *_ = reference.made()
    other = np.where(membership, 99.0, shadows)
    np.testing.assert_array_equal(
        lira.scores(target, shadows, membership, offline=True),
        lira.scores(target, other, membership, offline=True),
    )


def test_scores_that_know_nothing_are_right_half_of_the_time():
    rng = np.random.default_rng(5)
    _, _, membership, *_ = reference.made()
    inside, aucs = 0, []
    for _ in range(200):
        target, shadows = rng.normal(size=60), rng.normal(size=membership.shape)
        curve = metrics.roc(lira.scores(target, shadows, membership), rng.random(60) < 0.5)
        inside += curve.auc_low <= 0.5 <= curve.auc_high
        aucs.append(curve.auc)
    assert inside >= 0.9 * 200  # 95 % less three standard deviations
    assert abs(np.mean(aucs) - 0.5) < 0.02


def test_models_that_all_agree_give_finite_scores():
    membership = np.array([[True], [True], [False], [False]])
    scores = lira.scores([1.0], np.ones((4, 1)), membership, variance="example")
    assert np.isfinite(scores).all()


def swapped(**changes):
    target, shadows, membership, *_ = reference.made()
    arguments = {"target": target, "shadows": shadows, "membership": membership}
    return arguments | {name: change(arguments) for name, change in changes.items()}


def with_column(matrix, column, value):
    changed = matrix.copy()
    changed[:, column] = value
    return changed


BAD = [
    (swapped(target=lambda a: a["target"][:-1]), "target has 59 examples and shadows has 60"),
    (swapped(membership=lambda a: a["membership"][:-1]), "membership has shape"),
    (swapped(membership=lambda a: a["membership"] * 1), "membership must be an array of bool"),
    (swapped(shadows=lambda a: a["shadows"][:, :, None]), "shadows has shape"),
    (swapped(shadows=lambda a: a["shadows"][:1]), "at least 2 shadow models"),
    (swapped(shadows=lambda a: with_column(a["shadows"], 7, np.nan)), r"shadows\[0, 7\] is nan"),
    (swapped(target=lambda a: a["target"] + np.inf), r"target\[0\] is inf"),
    (swapped(target=lambda a: "much"), "target must be an array of numbers"),
    (swapped(membership=lambda a: with_column(a["membership"], 9, True)), "Example 9 is in all"),
    (swapped(membership=lambda a: with_column(a["membership"], 9, False)), "Example 9 is in no"),
    (swapped(variance=lambda a: "local"), "variance is 'local'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD)
def test_a_bad_argument_is_named(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        lira.scores(**arguments)


def test_too_few_models_for_a_variance_are_named():
    membership = np.array([[True, True], [False, False]])
    for variance, sentence in (("global", "at least 4"), ("example", "example 0 is in or out")):
        with pytest.raises(InputError, match=sentence):
            lira.scores([1.0, 2.0], np.ones((2, 2)), membership, variance=variance)


def test_examples_in_docstrings():
    assert doctest.testmod(lira).failed == 0
