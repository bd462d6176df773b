"""Costs of noisy votes: as the papers write them, above the exact divergences, never negative."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from dpfinjax import accounting, pate
from dpfinjax.errors import InputError
from dpfinjax.pate import analysis
from tests.pate import exact, reference

ORDERS = np.array([1.1, 1.5, 2.0, 4.5, 16.0, 64.0, 300.0])
MECHANISMS = ("gaussian", "laplace")
REFERENCES = {"gaussian": reference.gnmax_rdp, "laplace": reference.lnmax_rdp}


@st.composite
def vote_matrices(draw, most=80):
    """Votes [q, c] of at most `most` teachers, with unanimous and even rows among them."""
    teachers, classes = draw(st.integers(1, most)), draw(st.integers(2, 6))

    def row(concentration, seed):
        rng = np.random.default_rng(seed)
        return rng.multinomial(teachers, rng.dirichlet(np.full(classes, concentration)))

    kinds = st.tuples(st.sampled_from([0.01, 0.1, 1.0, 100.0]), st.integers(0, 2**31))
    return np.array([row(*kind) for kind in draw(st.lists(kinds, min_size=1, max_size=4))])


scales = st.floats(-1.5, 2.0).map(lambda x: 10.0**x)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@settings(max_examples=30, deadline=None)
@given(votes=vote_matrices(), scale=scales)
def test_bounds_are_those_of_the_papers(mechanism, votes, scale):
    got = pate.rdp(votes, scale, ORDERS, mechanism)
    expected = [
        float(sum(REFERENCES[mechanism](row, scale, order) for row in votes)) for order in ORDERS
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-290)


@settings(max_examples=20, deadline=None)
@given(votes=vote_matrices(), scale=scales, ratio=scales, share=st.floats(0, 1))
def test_confident_bound_is_that_of_its_formula_and_within_the_papers(votes, scale, ratio, share):
    threshold, check = share * votes[0].sum(), max(scale * ratio, 0.03)
    got = pate.confident_rdp(votes, threshold, check, scale, ORDERS)
    for order, total in zip(ORDERS[::2], got[::2], strict=True):
        rows = [reference.confident_rdp(row, threshold, check, scale, order) for row in votes]
        independent = len(votes) * order * (0.5 / check**2 + 1 / scale**2)
        assert total == pytest.approx(float(min(sum(rows), independent)), rel=1e-6, abs=1e-15)
        paper = sum(
            reference.papernot_check_rdp(row, threshold, check, order)
            + reference.gnmax_rdp(row, scale, order)
            for row in votes
        )
        assert total <= float(paper) * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("pure", [1e-6, 0.01, 1.0, 10.0, 300.0])
def test_laplace_without_votes_costs_what_randomised_response_does(pure):
    got = pate.rdp([[1, 0]], 2 / pure, ORDERS, "laplace", data_dependent=False)
    expected = [float(reference.randomised_response_rdp(pure, order)) for order in ORDERS]
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert (got <= pure).all()
    assert (got <= pure**2 * ORDERS / 2 * (1 + 1e-9)).all()


# The claim itself: no neighbour diverges more than a bound says.


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("scale", [0.8, 2.0, 6.0])
@pytest.mark.parametrize("votes", [[9, 1, 0], [7, 2, 1], [5, 5, 0], [4, 3, 3], [10, 0, 0], [8, 3]])
def test_no_neighbour_diverges_more_than_the_bounds(votes, scale, mechanism):
    orders = np.array([1.1, 2.0, 5.0, 12.0])
    dependent = pate.rdp([votes], scale, orders, mechanism)
    independent = pate.rdp([votes], scale, orders, mechanism, data_dependent=False)
    here = exact.answer_probabilities(votes, scale, mechanism)
    for other in exact.neighbours(votes):
        there = exact.answer_probabilities(other, scale, mechanism)
        for order, tight, loose in zip(orders, dependent, independent, strict=True):
            assert exact.divergence(here, there, order) <= tight + 1e-9
            assert exact.divergence(there, here, order) <= loose + 1e-9


@pytest.mark.parametrize("votes", [[9, 1], [6, 4], [5, 5], [10, 0], [2, 8]])
@pytest.mark.parametrize("threshold", [3.0, 6.0, 9.5])
@pytest.mark.parametrize("scale", [2.0, 1e6])  # the last leaves the check alone to tell
def test_no_neighbour_of_a_confident_query_diverges_more_than_the_bounds(votes, threshold, scale):
    threshold_scale, orders = 1.5, np.array([1.1, 2.0, 5.0, 12.0])
    setting = (threshold, threshold_scale, scale, orders)
    dependent = pate.confident_rdp([votes], *setting)
    independent = pate.confident_rdp([votes], *setting, data_dependent=False)

    def law(histogram):
        passes = special.ndtr((max(histogram) - threshold) / threshold_scale)
        first = special.ndtr((histogram[0] - histogram[1]) / (np.sqrt(2) * scale))
        return [1 - passes, passes * first, passes * (1 - first)]

    for other in exact.neighbours(votes):
        for order, tight, loose in zip(orders, dependent, independent, strict=True):
            assert exact.divergence(law(votes), law(other), order) <= tight + 1e-9
            assert exact.divergence(law(other), law(votes), order) <= loose + 1e-9


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0, 40.0])
def test_a_larger_chance_of_another_answer_never_costs_less(mechanism, scale):
    log_q = -np.geomspace(1e-3, 1e5, 20_000)[::-1]
    bound = {"gaussian": analysis.gnmax_rdp, "laplace": analysis.lnmax_rdp}[mechanism]
    rise = np.diff(bound(log_q, scale, ORDERS), axis=0)
    assert (rise >= -1e-12).all()
    assert (rise > 0).any()


@pytest.mark.parametrize("gaps", [[0, 0], [3, 5], [4, 4], [1, 9]])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_chances_of_another_answer_are_never_above_what_is_charged(gaps, scale):
    votes = [20, *(20 - gap for gap in gaps)]
    for mechanism, log_q in (("gaussian", analysis.gnmax_log_q), ("laplace", analysis.lnmax_log_q)):
        other = 1 - exact.answer_probabilities(votes, scale, mechanism)[0]
        assert np.log(other) <= float(log_q(gaps, scale)) + 1e-9


# Order among the bounds.


@pytest.mark.parametrize("mechanism", MECHANISMS)
@settings(max_examples=60, deadline=None)
@given(votes=vote_matrices(2000), scale=scales)
def test_votes_never_cost_more_than_without_a_look_at_them(mechanism, votes, scale):
    dependent = pate.rdp(votes, scale, ORDERS, mechanism)
    independent = pate.rdp(votes, scale, ORDERS, mechanism, data_dependent=False)
    assert (dependent >= 0).all()
    assert (dependent <= independent).all()
    epsilons = [pate.epsilon(votes, scale, 1e-5, mechanism, x) for x in (True, False)]
    assert epsilons[0] <= epsilons[1]


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("votes", [[7, 7], [20, 20, 20], [3, 3, 3, 3, 3]])
def test_evenly_split_votes_cost_as_much_as_without_a_look_at_them(votes, scale, mechanism):
    dependent = pate.rdp([votes] * 3, scale, ORDERS, mechanism)
    np.testing.assert_array_equal(
        dependent, pate.rdp([votes] * 3, scale, ORDERS, mechanism, data_dependent=False)
    )


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("data_dependent", [True, False])
def test_epsilon_falls_as_delta_rises_and_grows_with_queries(mechanism, data_dependent):
    votes = np.random.default_rng(1).multinomial(250, [0.6, 0.2, 0.2], 60)
    setting = (mechanism, data_dependent)
    by_delta = [pate.epsilon(votes, 40.0, delta, *setting) for delta in (1e-8, 1e-5, 1e-2)]
    assert (np.diff(by_delta) < 0).all()
    curve = pate.epsilon_curve(votes, 40.0, 1e-5, *setting)
    assert curve.shape == (60,)
    assert (np.diff(curve) > 0).all()
    for queries in (1, 7, 60):
        assert curve[queries - 1] == pytest.approx(
            pate.epsilon(votes[:queries], 40.0, 1e-5, *setting), rel=1e-12
        )


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_epsilon_falls_as_scale_rises_but_not_where_votes_agree(mechanism):
    votes = np.tile([200, 25, 25], (60, 1))

    def by_scale(data_dependent):
        scales = (5, 10, 20, 40, 80, 160)
        return [pate.epsilon(votes, x, 1e-5, mechanism, data_dependent) for x in scales]

    assert (np.diff(by_scale(False)) < 0).all()
    # Less noise makes the plurality's answer surer, which can cost less than more noise does.
    dependent = by_scale(True)
    assert dependent[2] < dependent[4]
    assert dependent[4] > dependent[5]


def test_queries_that_agree_cost_far_less_than_without_a_look_at_them():
    votes = np.tile([240, 10, 0], (200, 1))
    assert pate.epsilon(votes, 30.0, 1e-5) < 0.2 * pate.epsilon(
        votes, 30.0, 1e-5, "gaussian", False
    )


def test_refused_queries_cost_less_than_answered_ones():
    setting = (200.0, 20.0, 20.0, 1e-5)
    refused = pate.confident_epsilon([[84, 83, 83]] * 100, *setting)
    hesitant = pate.confident_epsilon([[200, 25, 25]] * 100, *setting)
    assert refused < 0.2 * hesitant


def test_a_limit_bounds_the_answers_that_are_charged():
    votes, setting = np.tile([5, 5], (300, 1)), (5.0, 10.0, 10.0)
    free = pate.confident_rdp(votes, *setting, ORDERS, data_dependent=False)
    limited = pate.confident_rdp(votes, *setting, ORDERS, data_dependent=False, limit=20)
    np.testing.assert_allclose(free, 300 * ORDERS * (1 / 200 + 1 / 100))
    np.testing.assert_allclose(limited, ORDERS * (300 / 200 + 20 / 100))
    dependent = pate.confident_rdp(votes, *setting, ORDERS, limit=20)
    assert (dependent <= limited).all()
    curve = pate.confident_epsilon_curve(votes, *setting, 1e-5, limit=20)
    assert (np.diff(curve) > 0).all()
    assert curve[-1] == pate.confident_epsilon(votes, *setting, 1e-5, limit=20)


# Noise from a budget.


@pytest.mark.parametrize("mechanism", MECHANISMS)
@settings(max_examples=15, deadline=None)
@given(target=st.floats(0.05, 200), queries=st.integers(1, 20_000), exponent=st.floats(-9, -1))
def test_calibrated_noise_never_overshoots_and_a_little_less_would(
    mechanism, target, queries, exponent
):
    delta = 10**exponent
    scale = pate.calibrate(target, queries, delta, mechanism)

    def spent(at):
        one = pate.rdp([[1, 0]], at, accounting.DEFAULT_ORDERS, mechanism, data_dependent=False)
        by_rdp = accounting.rdp_to_epsilon(queries * one, accounting.DEFAULT_ORDERS, delta)
        return min(by_rdp, 2 * queries / at) if mechanism == "laplace" else by_rdp

    assert spent(scale) <= target
    assert spent(scale * (1 - 1e-6)) > target


@settings(max_examples=10, deadline=None)
@given(target=st.floats(0.1, 50), answers=st.integers(1, 60), ratio=st.floats(0.3, 5))
def test_calibrated_confident_noise_never_overshoots(target, answers, ratio):
    threshold_scale, scale = pate.calibrate_confident(target, 60, answers, 1e-5, ratio)
    votes = np.tile([3, 2], (60, 1))

    def spent(factor):
        return pate.confident_epsilon(
            votes, 3, factor * threshold_scale, factor * scale, 1e-5, False, answers
        )

    assert threshold_scale == ratio * scale
    assert spent(1.0) <= target
    assert spent(1 - 1e-6) > target


# Extremes.


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 40.0, 1e3, 1e6])
def test_extreme_votes_and_noise_give_finite_costs(mechanism, scale):
    votes = [[10_000, 0, 0], [5_001, 4_999, 0], [3_334, 3_333, 3_333]]
    orders = np.array([1.001, 2.0, 1024.0, 1e6])
    for row in votes:
        dependent = pate.rdp([row], scale, orders, mechanism)
        independent = pate.rdp([row], scale, orders, mechanism, data_dependent=False)
        assert np.isfinite(dependent).all()
        assert ((dependent >= 0) & (dependent <= independent)).all()
        expected = [float(REFERENCES[mechanism](row, scale, order)) for order in orders]
        np.testing.assert_allclose(dependent, expected, rtol=1e-6, atol=1e-290)
    for threshold in (0, 5_000, 10_000):
        total = pate.confident_rdp(votes, threshold, scale, scale, orders)
        assert np.isfinite(total).all()


def test_half_of_nothing_is_still_a_cost_and_not_a_negative_one():
    log_q = np.array([-1e-300, -1e-9, -700.0, -1e4, -1e12, -np.inf])
    for bound in (analysis.gnmax_rdp, analysis.lnmax_rdp):
        got = bound(log_q, 1.0, ORDERS)
        assert (np.isfinite(got) & (got >= 0)).all()


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pate.rdp([[1, 2], [2, 2]], 1.0, [2.0]), "query 0 has 3 and query 1 has 4"),
        (lambda: pate.rdp([[1, -1]], 1.0, [2.0]), "query 0 gives class 1 -1"),
        (lambda: pate.rdp([[1, 0.5]], 1.0, [2.0]), "query 0 gives class 1 0.5"),
        (lambda: pate.rdp([[1, np.nan]], 1.0, [2.0]), "query 0 gives class 1 nan"),
        (lambda: pate.rdp([["1", "2"]], 1.0, [2.0]), "votes must be whole numbers, but their type"),
        (lambda: pate.rdp([1, 2], 1.0, [2.0]), "their shape is"),
        (lambda: pate.rdp([[1]], 1.0, [2.0]), "their shape is"),
        (lambda: pate.rdp(np.zeros((0, 3)), 1.0, [2.0]), "their shape is"),
        (lambda: pate.rdp([[0, 0]], 1.0, [2.0]), "at least one teacher"),
        (lambda: pate.rdp([[1, 2]], 0.0, [2.0]), "scale must be a finite number above 0"),
        (lambda: pate.rdp([[1, 2]], 1.0, [1.0]), "orders must be finite numbers above 1"),
        (lambda: pate.rdp([[1, 2]], 1.0, [2.0], "cauchy"), 'mechanism must be "gaussian" or'),
        (lambda: pate.epsilon([[1, 2]], 1.0, 1.0), "delta must be strictly between 0 and 1"),
        (lambda: pate.epsilon([[1, 2]], 1.0, 0.0), "delta must be strictly between 0 and 1"),
        (lambda: pate.confident_rdp([[1, 2]], 4, 1.0, 1.0, [2.0]), "number of teachers, 3, but"),
        (lambda: pate.confident_rdp([[1, 2]], 2, 0.0, 1.0, [2.0]), "threshold_scale must be"),
        (lambda: pate.confident_rdp([[1, 2]], 2, 1.0, -1.0, [2.0]), "scale must be a finite"),
        (lambda: pate.calibrate(0.0, 10, 1e-5), "target_epsilon must be a finite number above 0"),
        (lambda: pate.calibrate(1.0, 0, 1e-5), "queries must be a whole number of at least 1"),
        (lambda: pate.calibrate(1.0, 1, 2.0), "delta must be strictly between 0 and 1"),
        (lambda: pate.calibrate(1e-9, 10**9, 1e-9), "out of reach of any scale"),
        (lambda: pate.calibrate(1.0, 5, 1e-5, "cauchy"), 'mechanism must be "gaussian" or'),
        (lambda: pate.calibrate_confident(1.0, 5, 6, 1e-5), "answers must be at most queries, 5"),
    ],
)
def test_bad_input_is_told_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert str(error.value).count(". ") == 0


def test_neighbours_of_a_histogram_are_all_moves_of_one_vote():
    found = {tuple(row) for row in exact.neighbours([2, 0, 1])}
    near = {
        row
        for row in itertools.product(range(4), repeat=3)
        if sum(row) == 3 and np.abs(np.subtract(row, [2, 0, 1])).sum() == 2
    }
    assert found == near
