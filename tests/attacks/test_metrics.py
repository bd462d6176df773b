import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpfinjax.attacks import metrics
from dpfinjax.errors import InputError

# Few distinct scores, so that ties are the rule.
TIED = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({member for _, member in pairs}) == 2
)


UNTIMED = settings(deadline=None)


def split(pairs):
    scores, member = zip(*pairs, strict=True)
    return np.array(scores, float), np.array(member)


@UNTIMED
@given(TIED)
def test_points_and_area_are_those_of_the_definition(pairs):
    scores, member = split(pairs)
    curve = metrics.roc(scores, member)
    points = {(0.0, 0.0)}
    for threshold in scores:
        called = scores >= threshold
        points.add((called[~member].mean(), called[member].mean()))
    assert list(zip(curve.fpr, curve.tpr, strict=True)) == sorted(points)
    pairs_won = [(s > o) + (s == o) / 2 for s in scores[member] for o in scores[~member]]
    assert curve.auc == pytest.approx(np.mean(pairs_won), abs=1e-12)
    assert curve.auc == pytest.approx(
        np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1]) / 2), abs=1e-12
    )


@UNTIMED
@given(TIED, st.floats(0, 1))
def test_tpr_at_is_the_best_threshold_that_may_be_used(pairs, fpr):
    scores, member = split(pairs)
    curve = metrics.roc(scores, member)
    best = 0.0
    for threshold in scores:
        called = scores >= threshold
        if called[~member].mean() <= fpr:
            best = max(best, called[member].mean())
    value, low, high = curve.tpr_at(fpr)
    assert value == best
    interval = stats.binomtest(round(best * member.sum()), member.sum()).proportion_ci(0.95)
    assert (low, high) == pytest.approx(interval, abs=1e-9)


@UNTIMED
@given(TIED)
def test_balanced_accuracy_is_the_best_of_all_thresholds(pairs):
    scores, member = split(pairs)
    best = 0.5
    for threshold in scores:
        called = scores >= threshold
        best = max(best, (called[member].mean() + (~called)[~member].mean()) / 2)
    assert metrics.roc(scores, member).balanced_accuracy == pytest.approx(best, abs=1e-12)


def test_equal_scores_say_nothing():
    curve = metrics.roc(np.ones(100), np.arange(100) < 50)
    assert curve.fpr.tolist() == curve.tpr.tolist() == [0.0, 1.0]
    assert curve.auc == curve.balanced_accuracy == 0.5
    assert curve.tpr_at(0.999)[0] == 0.0
    assert curve.auc_low < 0.4
    assert curve.auc_high > 0.6


def test_perfect_separation_has_an_interval_below_one():
    curve = metrics.roc(np.arange(100), np.arange(100) >= 50)
    assert curve.auc == curve.auc_high == 1.0
    assert curve.auc_low == pytest.approx(0.025 ** (1 / 50))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_interval_of_the_area_covers_as_often_as_it_says(shift):
    rng, truth = np.random.default_rng(7), stats.norm.cdf(shift / np.sqrt(2))
    covered = 0
    for _ in range(400):
        member = np.arange(250) < 100
        curve = metrics.roc(rng.normal(size=250) + shift * member, member)
        covered += curve.auc_low <= truth <= curve.auc_high
    assert 0.91 < covered / 400 < 0.985  # 0.95 within four standard deviations, or a little wide


@UNTIMED
@given(st.integers(1, 200), st.data(), st.floats(0.5, 0.999))
def test_clopper_pearson_is_that_of_scipy(trials, data, confidence):
    successes = data.draw(st.integers(0, trials))
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    ours = metrics.clopper_pearson(successes, trials, confidence)
    assert ours == pytest.approx(tuple(interval), abs=1e-9)


def test_classes_are_compared_apart():
    rng = np.random.default_rng(2)
    labels = np.arange(900) % 3
    member = rng.random(900) < 0.5
    member[labels == 2] = True
    scores = rng.normal(size=900) + 3 * member * (labels == 1)
    curves = metrics.by_class(scores, member, labels, ["star", "hammer", "harami"])
    assert list(curves) == ["star", "hammer"]
    assert curves["star"].auc < 0.6 < 0.95 < curves["hammer"].auc
    assert curves["star"].members == member[labels == 0].sum()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: metrics.roc([1, 2], [True, True]), "only one kind"),
        (lambda: metrics.roc([1, 2], [1, 0]), "is_member must be an array of bool"),
        (lambda: metrics.roc([1, 2, 3], [True, False]), "is_member has shape"),
        (lambda: metrics.roc([1, np.inf], [True, False]), r"scores\[1\] is inf"),
        (lambda: metrics.roc([], []), "not be empty"),
        (lambda: metrics.roc([1, 2], [True, False], confidence=1), "confidence must be strictly"),
        (lambda: metrics.roc([1, 2], [True, False]).tpr_at(1.5), "fpr must be within"),
        (lambda: metrics.by_class([1, 2], [True, False], [0, 2], ["star"]), "labels must be 2"),
        (lambda: metrics.by_class([1, 2], [True, False], [0], ["star"]), "labels must be 2"),
    ],
)
def test_a_bad_argument_is_named(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_examples_in_docstrings():
    assert doctest.testmod(metrics).failed == 0
