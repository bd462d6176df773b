"""Smooth sensitivity: above what brute force finds, smooth, and released at the cost it states."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from dpfinjax import pate
from dpfinjax.accounting import DEFAULT_ORDERS, rdp_to_epsilon
from dpfinjax.errors import InputError
from dpfinjax.pate import analysis, smooth
from tests.pate import exact

SETTINGS = [(0.5, 1.5), (1.0, 4.0), (1.0, 1.3), (2.5, 2.0), (2.5, 8.0)]


def histograms(teachers, classes):
    every = itertools.product(range(teachers + 1), repeat=classes)
    return [np.array(row) for row in every if sum(row) == teachers]


def distance(a, b):
    """How many teachers must move their votes to turn one histogram into the other."""
    return int(np.abs(a - b).sum()) // 2


def brute_force(rows, scale, order):
    """The sensitivity of each histogram at distance d = 0, 1, ..., by looking at all of them."""
    cost = {tuple(row): float(pate.rdp([row], scale, [order])[0]) for row in rows}
    local = [
        max(abs(cost[tuple(row)] - cost[tuple(other)]) for other in exact.neighbours(row))
        for row in rows
    ]
    apart = [[distance(a, b) for b in rows] for a in rows]
    return [
        [
            max(x for x, away in zip(local, line, strict=True) if away <= d)
            for d in range(sum(rows[0]) + 1)
        ]
        for line in apart
    ]


@pytest.mark.parametrize(("scale", "order"), SETTINGS)
@pytest.mark.parametrize(("teachers", "classes"), [(9, 2), (7, 3), (4, 4)])
def test_sensitivity_is_never_below_what_brute_force_finds(teachers, classes, scale, order):
    rows = histograms(teachers, classes)
    bound = smooth.local_sensitivity(rows, scale, order)
    exactly = np.array(brute_force(rows, scale, order))
    assert bound.shape == exactly.shape
    assert (bound >= exactly - 1e-15).all()
    assert (np.diff(bound, axis=1) >= 0).all()
    # It is not far above either, with every vote within reach.
    assert (bound[:, -1] <= 2 * exactly[:, -1] + 1e-15).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
@pytest.mark.parametrize(("teachers", "classes"), [(9, 2), (7, 3), (4, 4)])
def test_reach_is_what_brute_force_finds(teachers, classes, scale):
    rows = histograms(teachers, classes)
    log_q = np.array([analysis.gnmax_log_q(analysis.gaps_of(row[None]), scale)[0] for row in rows])
    least, largest = smooth._reach(np.array(rows), scale, teachers)
    cap = -np.log1p(1 / (classes - 1))
    for row, low, high in zip(rows, least, largest, strict=True):
        gap = int(analysis.gaps_of(row[None])[0, 0])
        for d in range(teachers + 1):
            within = log_q[[distance(row, x) <= d for x in rows]]
            assert low[d] == pytest.approx(within.min(), rel=1e-12)
            if 2 * d <= gap:
                assert high[d] == pytest.approx(within.max(), rel=1e-12)
            else:
                assert high[d] == pytest.approx(cap)
                assert high[d] >= within.max() - 1e-12


@settings(max_examples=40, deadline=None)
@given(
    st.integers(5, 60),
    st.integers(2, 5),
    st.integers(0, 2**31),
    st.sampled_from(SETTINGS),
    st.floats(0.3, 6),
)
def test_a_move_changes_the_effective_gap_by_at_most_two(teachers, classes, seed, setting, width):
    rng, scale = np.random.default_rng(seed), setting[0] * width
    row = rng.multinomial(teachers, rng.dirichlet(np.full(classes, 0.5)))

    def gap(histogram):
        log_q = analysis.gnmax_log_q(analysis.gaps_of(np.array([histogram])), scale)
        return smooth._effective_gap(log_q, classes - 1, scale)[0]

    moved = [abs(gap(other) - gap(row)) for other in exact.neighbours(row)]
    assert max(moved) <= 2 + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(SETTINGS),
    st.floats(0.02, 1.0),
    st.integers(2, 4),
    st.integers(4, 40),
)
def test_it_bounds_every_change_and_is_smooth(seed, setting, beta, classes, teachers):
    rng = np.random.default_rng(seed)
    votes = rng.multinomial(teachers, rng.dirichlet(np.full(classes, 0.3)), 5)
    # One teacher moves its vote in some of the queries.
    other = votes.copy()
    for row in other:
        source, target = rng.choice(np.flatnonzero(row)), rng.integers(classes)
        row[source] -= 1
        row[target] += 1
    here, there = (smooth.smooth_sensitivity(x, *setting, beta) for x in (votes, other))
    change = abs(
        pate.rdp(votes, setting[0], [setting[1]]) - pate.rdp(other, setting[0], [setting[1]])
    )
    assert change[0] <= min(here, there) * (1 + 1e-12) + 1e-15
    assert here <= np.exp(beta) * there * (1 + 1e-12)
    assert there <= np.exp(beta) * here * (1 + 1e-12)


def test_sensitivities_of_queries_add_up_before_the_discount():
    votes, setting, beta = [[30, 2, 0], [12, 11, 9]], (2.5, 4.0), 0.2
    one_by_one = [smooth.local_sensitivity([row], *setting)[0] for row in votes]
    total = sum(one_by_one)
    expected = max(total * np.exp(-beta * np.arange(total.size)))
    assert smooth.smooth_sensitivity(votes, *setting, beta) == pytest.approx(expected, rel=1e-12)


# The release.


@pytest.mark.parametrize(
    ("order", "beta", "scale", "failure"),
    [(2.0, 0.1, 3.0, 0.5), (8.0, 0.03, 5.0, 0.05), (20.0, 0.01, 10.0, 0.01), (8.0, 0.06, 2.0, 0.3)],
)
def test_the_release_costs_the_largest_divergence_of_what_neighbours_publish(
    order, beta, scale, failure
):
    lift = scale * stats.norm.ppf(1 - failure)

    def divergence(t, change):
        """Of normals with S = 1 here, S = exp(t) there, and a cost that moves by `change`."""
        other = np.exp(t)
        here, there = stats.norm(lift, scale), stats.norm(change + lift * other, scale * other)

        def integrand(x):
            return np.exp(order * here.logpdf(x) + (1 - order) * there.logpdf(x))

        variance = order * other**2 + 1 - order  # of the integrand's normal shape, over S
        width = scale * other / np.sqrt(variance)
        centre = (order * other**2 * here.mean() + (1 - order) * there.mean()) / variance
        edges = (centre - 12 * width, centre + 12 * width)
        integral = integrate.quad(integrand, *edges, points=[centre], limit=500, epsrel=1e-10)[0]
        return np.log(integral) / (order - 1)

    found = [
        divergence(t, sign * min(1.0, np.exp(t)))
        for t in np.linspace(-beta, beta, 9)
        for sign in (-1, 0, 1)
    ]
    stated = pate.release_rdp(order, beta, scale, failure)
    assert max(found) == pytest.approx(stated, rel=1e-6)


def answers_and_release(votes, scale, delta, order, release_scale=5.0, failure_probability=0.01):
    """The data-independent epsilon of the answers and of a release with its default beta."""

    def total(alpha):
        answers = pate.rdp(votes, scale, [alpha], data_dependent=False)[0]
        return answers + pate.release_rdp(alpha, 0.2 / order, release_scale, failure_probability)

    orders = [x for x in DEFAULT_ORDERS if 0.2 / order < np.log1p(1 / (x - 1)) / 2]
    return float(rdp_to_epsilon([total(alpha) for alpha in orders], orders, delta))


def test_what_is_published_is_an_upper_bound_as_often_as_it_says_and_no_looser(monkeypatch):
    votes, failure, draws = np.tile([140, 60, 0], (100, 1)), 0.2, 400
    setting = (20.0, 1e-5, 10.0)
    sensitivity = smooth.smooth_sensitivity(votes, 20.0, 10.0, 0.2 / 10)
    monkeypatch.setattr(smooth, "smooth_sensitivity", lambda *_: sensitivity)
    options = {"release_scale": 4.0, "failure_probability": failure}
    drawn = [pate.release(jax.random.key(i), votes, *setting, **options) for i in range(draws)]
    published = np.array([one.epsilon for one in drawn])
    with_cost = drawn[0].private_epsilon + drawn[0].release_rdp
    below = int((published < with_cost - 1e-12).sum())
    assert stats.binomtest(below, draws, failure).pvalue > 1e-3
    stddev = 4.0 * sensitivity
    expected = with_cost + stddev * stats.norm.ppf(1 - failure)
    assert np.median(published) == pytest.approx(expected, abs=4 * 1.25 * stddev / draws**0.5)
    assert published.max() == pytest.approx(answers_and_release(votes, *setting, **options))


def test_strong_agreement_may_be_published_for_less_than_without_a_look():
    votes = np.tile([900, 100, 0], (1000, 1))
    got = pate.release(jax.random.key(0), votes, 80.0, 1e-5, 20.0, failure_probability=0.2)
    assert got.private_epsilon < got.epsilon < 0.7 * got.independent_epsilon


def test_votes_without_agreement_are_published_at_the_independent_bound():
    votes, setting = np.tile([13, 12], (400, 1)), (10.0, 1e-5, 5.0)
    got = pate.release(jax.random.key(0), votes, *setting)
    assert got.epsilon == pytest.approx(answers_and_release(votes, *setting))
    assert got.independent_epsilon == pate.epsilon(votes, 10.0, 1e-5, data_dependent=False)
    # Publishing is not free, even where it says no more than what was known.
    assert got.epsilon > got.independent_epsilon


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pate.release_rdp(10.0, 0.06, 1.0, 0.1),
            "beta must be below 0.0526803 at order 10",
        ),
        (lambda: pate.release_rdp(10.0, 0.0, 1.0, 0.1), "beta must be a finite number above 0"),
        (lambda: pate.release_rdp(10.0, 0.01, 0.0, 0.1), "release_scale must be a finite number"),
        (lambda: pate.release_rdp(10.0, 0.01, 1.0, 0.0), "failure_probability must be strictly"),
        (lambda: pate.release_rdp(1.0, 0.01, 1.0, 0.1), "orders must be finite numbers above 1"),
        (lambda: pate.smooth_sensitivity([[2, 1]], -1.0, 2.0, 0.1), "scale must be a finite"),
        (lambda: pate.smooth_sensitivity([[2, 1]], 1.0, 2.0, -1.0), "beta must be a finite"),
        (lambda: pate.smooth_sensitivity([[2, 1], [2, 2]], 1.0, 2.0, 1.0), "query 1 has 4"),
    ],
)
def test_bad_input_is_told_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
