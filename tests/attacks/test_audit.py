import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dpfinjax import accounting
from dpfinjax.attacks import audit
from dpfinjax.errors import InputError

DELTA = 1e-5
REPEATS = 200
# What a 95 % bound may miss: 10 expected of 200, and 3 standard deviations of that count.
MISSES = 19


def quantiles(runs):
    """Scores that are as Gaussian as so many numbers can be."""
    return special.ndtri((np.arange(runs) + 0.5) / runs)


def randomized_response(rng, coins, epsilon):
    """Tells each coin truly with the largest probability that epsilon allows."""
    return np.where(rng.random(coins.size) < special.expit(epsilon), coins, ~coins) * 1.0


def one_run_p_value(canaries, guesses, right, epsilon, delta):
    """Corollary 5.4 of Steinke, Nasr and Jagielski in plain sums."""
    q = 1 / (1 + math.exp(-epsilon))

    def exactly(k):
        return math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k)

    def at_least(v):
        return sum(exactly(k) for k in range(max(v, 0), guesses + 1))

    steepest = max((at_least(right - i) - at_least(right)) / i for i in range(1, canaries + 1))
    return at_least(right) + 2 * canaries * delta * steepest


@given(st.integers(2, 60), st.data(), st.floats(0, 4), st.floats(1e-6, 1e-2))
@settings(max_examples=50, deadline=None)
def test_one_run_p_value_is_that_of_the_theorem(canaries, data, epsilon, delta):
    guesses = data.draw(st.integers(1, canaries))
    right = data.draw(st.integers(0, guesses))
    ours = audit._one_run_p_value(canaries, guesses, right, epsilon, delta)
    theirs = one_run_p_value(canaries, guesses, right, epsilon, delta)
    assert min(ours, 1) == pytest.approx(min(theirs, 1), rel=1e-9)


@pytest.mark.parametrize(
    ("numbers", "published"),
    [((1000, 100, 75, 1e-4), 0.673), ((100_000, 1510, 1439, 1e-5), 2.675)],
)
def test_one_run_gives_the_numbers_printed_in_its_paper(numbers, published):
    assert audit._one_run_bound(*numbers, 0.05) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_one_run_never_accuses_randomized_response_and_proves_much_of_it(epsilon):
    rng = np.random.default_rng(11)
    bounds = []
    for _ in range(REPEATS):
        coins = rng.random(800) < 0.5
        bounds.append(audit.one_run(randomized_response(rng, coins, epsilon), coins, DELTA))
    assert np.sum(np.array(bounds) > epsilon) <= MISSES
    assert np.median(bounds) > 0.5 * epsilon


def test_one_run_looks_at_the_extremes_and_not_at_the_middle():
    rng = np.random.default_rng(3)
    coins = rng.random(2000) < 0.5
    scores = rng.normal(size=2000)
    scores[:200] += np.where(coins[:200], 9, -9)
    assert audit.one_run(scores, coins, DELTA) > 1.5
    assert audit.one_run(-scores, coins, DELTA) == 0.0


@pytest.mark.parametrize("sort", [False, True])
def test_one_run_concludes_nothing_from_equal_scores_in_any_order(sort):
    coins = np.random.default_rng(4).random(1000) < 0.5
    for order in (np.sort(coins), np.sort(coins)[::-1]) if sort else (coins,):
        assert audit.one_run(np.zeros(1000), order, DELTA) == 0.0


@pytest.mark.parametrize("bound", audit.BOUNDS)
def test_many_runs_conclude_nothing_from_equal_scores(bound):
    assert audit.many_runs(np.ones(300), np.ones(200), DELTA, bound=bound) == 0.0


def bound_of(kind, scores, coins, *settings):
    if kind == "one run":
        return audit.one_run(scores, coins, *settings)
    return audit.many_runs(scores[coins], scores[~coins], *settings, bound=kind)


# At 50 % a test that is not corrected for its many looks shows itself soonest.
@pytest.mark.parametrize("confidence", [0.95, 0.5])
@pytest.mark.parametrize("kind", ["one run", *audit.BOUNDS])
def test_scores_that_know_nothing_give_epsilon_zero(kind, confidence):
    rng = np.random.default_rng(9)
    zero = 0
    for _ in range(REPEATS):
        scores, coins = rng.normal(size=400), rng.random(400) < 0.5
        zero += bound_of(kind, scores, coins, DELTA, confidence) == 0
    assert zero >= confidence * REPEATS


@pytest.mark.parametrize("kind", ["one run", "clopper-pearson"])
def test_what_delta_allows_is_not_held_against_epsilon(kind):
    """The mechanism is (0, delta): it tells a coin with probability delta, else nothing."""
    rng, delta, accused = np.random.default_rng(29), {"one run": 0.005}.get(kind, 0.1), 0
    for _ in range(REPEATS):
        coins = rng.random(2000) < 0.5
        tells = rng.random(2000) < delta
        scores = np.where(tells, np.where(coins, 2.0, -2.0), rng.random(2000))
        accused += bound_of(kind, scores, coins, delta) > 0
    assert accused <= MISSES
    assert kind == "one run" or bound_of(kind, scores, coins, DELTA) > 0.5


@pytest.mark.parametrize(("mu", "runs"), [(1.0, 400), (2.0, 200), (3.0, 200), (4.0, 200)])
def test_gaussian_scores_give_most_of_their_epsilon(mu, runs):
    truth = accounting.epsilon(1.0, 1 / mu, 1, DELTA, method="pld")
    bound = audit.many_runs(quantiles(runs) + mu, quantiles(runs), DELTA, bound="gaussian")
    assert 0.8 * truth < bound < truth


@pytest.mark.parametrize("bound", audit.BOUNDS)
@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_gaussian_scores_are_not_accused(mu, bound):
    rng, truth = np.random.default_rng(13), audit.gaussian_epsilon(mu, DELTA)
    bounds = [
        audit.many_runs(rng.normal(mu, 1, 100), rng.normal(size=120), DELTA, bound=bound)
        for _ in range(REPEATS)
    ]
    assert np.sum(np.array(bounds) > truth) <= MISSES


@pytest.mark.parametrize(("epsilon", "runs"), [(0.5, 4000), (2.0, 500)])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_many_runs_never_accuse_randomized_response(epsilon, runs, confidence):
    rng = np.random.default_rng(17)
    bounds = []
    for _ in range(REPEATS):
        told = [randomized_response(rng, np.full(runs, coin), epsilon) for coin in (True, False)]
        bounds.append(audit.many_runs(*told, DELTA, confidence))
    wrong = np.sum(np.array(bounds) > epsilon)
    assert wrong <= stats.binom(REPEATS, 1 - confidence).ppf(0.999)
    assert np.median(bounds) > 0.4 * epsilon


def test_a_mechanism_that_leaks_only_downwards_is_caught_too():
    """Scores with the canary are sometimes far below; the other direction shows nothing."""
    rng = np.random.default_rng(19)
    inside, outside = rng.normal(size=1000), rng.normal(size=1000)
    outside[:300] -= 20
    assert audit.many_runs(inside, outside, DELTA) > 2.5
    assert audit.many_runs(-outside, -inside, DELTA) > 2.5


def test_the_chance_of_false_negatives_is_an_exact_average():
    """The p-value of mu against simulated runs of two Gaussians mu apart."""
    rng, mu, errors, missed = np.random.default_rng(23), 1.0, 10, 12
    inside, outside = rng.normal(mu, 1, (20_000, 40)), rng.normal(size=(20_000, 50))
    thresholds = np.sort(outside, axis=1)[:, ::-1][:, errors]
    share = np.mean((inside <= thresholds[:, None]).sum(axis=1) <= missed)
    assert audit._mu_test(errors, missed, 40, 50)(mu) == pytest.approx(share, abs=0.015)


@given(st.floats(0.05, 8), st.sampled_from([1e-9, 1e-5, 0.01, 0.3]))
@settings(max_examples=30, deadline=None)
def test_gaussian_epsilon_solves_the_equation_of_its_delta(mu, delta):
    epsilon = audit.gaussian_epsilon(mu, delta)
    x = np.linspace(-12, mu + 12, 200_001)
    excess = np.exp(-((x - mu) ** 2) / 2) - np.exp(epsilon - x**2 / 2)
    spent = np.maximum(excess, 0).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi)
    if epsilon == 0:
        assert spent <= delta * (1 + 1e-6)
    else:
        assert spent == pytest.approx(delta, rel=1e-4)


def test_the_proven_bound_is_touched_by_randomized_response_and_by_nothing_above():
    for epsilon in (0.1, 1.0, 3.0):
        truth = special.expit(epsilon)
        assert audit.upper_tpr(epsilon, 0.0, 1 - truth) == pytest.approx(truth)
    fpr = np.concatenate([np.geomspace(1e-12, 0.01, 200), np.linspace(0, 1, 101)])
    mu = 1.5
    gaussian = special.ndtr(special.ndtri(fpr) + mu)
    for delta in (1e-6, 1e-3, 0.1):
        epsilon = audit.gaussian_epsilon(mu, delta)
        assert (audit.upper_tpr(epsilon, delta, fpr) >= gaussian - 1e-9).all()
        assert (audit.upper_tpr(0.9 * epsilon, delta, fpr) < gaussian).any()


def test_the_proven_bound_at_its_ends():
    assert audit.upper_tpr(np.inf, 0.0, 0.0) == 1.0
    assert audit.upper_tpr(0.0, 0.0, 0.3) == 0.3
    np.testing.assert_allclose(audit.upper_tpr(1.0, [0.0, 1.0], [0.0, 0.5]), [0.0, 1.0])
    assert audit.upper_tpr(5000.0, 0.0, 0.0) == 0.0


GOOD = np.arange(20.0)
COINS = np.arange(20) % 2 == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: audit.one_run(GOOD, COINS * 1, DELTA), "included must be an array of bool"),
        (lambda: audit.one_run(GOOD[1:], COINS, DELTA), "included has shape"),
        (lambda: audit.one_run(GOOD * np.nan, COINS, DELTA), r"scores\[0\] is nan"),
        (lambda: audit.one_run(GOOD, COINS, 0.0), "delta must be strictly"),
        (lambda: audit.one_run(GOOD, COINS, DELTA, 1.0), "confidence must be strictly"),
        (lambda: audit.many_runs([], GOOD, DELTA), "scores_in has shape"),
        (lambda: audit.many_runs(GOOD, [[1.0]], DELTA), "scores_out has shape"),
        (lambda: audit.many_runs(GOOD, GOOD, 1.0), "delta must be strictly"),
        (lambda: audit.many_runs(GOOD, GOOD, DELTA, 0.0), "confidence must be strictly"),
        (lambda: audit.many_runs(GOOD, GOOD, DELTA, bound="exact"), "bound is 'exact'"),
        (lambda: audit.upper_tpr(-1.0, 0.0, 0.5), "epsilon must be at least 0"),
        (lambda: audit.upper_tpr(1.0, 2.0, 0.5), "delta must be within"),
        (lambda: audit.upper_tpr(1.0, 0.0, np.nan), "fpr must be within"),
        (lambda: audit.gaussian_epsilon(-1.0, 0.1), "mu must be finite"),
        (lambda: audit.gaussian_epsilon(1.0, 0.0), "delta must be strictly"),
    ],
)
def test_a_bad_argument_is_named(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_a_single_score_concludes_nothing():
    assert audit.one_run([1.0], [True], DELTA) == 0.0
    for bound in audit.BOUNDS:
        assert audit.many_runs([1.0], [0.0], DELTA, bound=bound) == 0.0


def test_examples_in_docstrings():
    assert doctest.testmod(audit).failed == 0
