"""The price of choosing: dp_accounting's for equal candidates, true of what is known exactly."""

import math

import numpy as np
import pytest
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant, compute_delta
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from dpfinjax import accounting, tuning
from dpfinjax.accounting import DEFAULT_ORDERS
from dpfinjax.errors import InputError

ORDERS = np.array(DEFAULT_ORDERS)
SHAPES = (0.0, 0.5, 1.0, 3.0, math.inf)


def truncated(shape, gamma):
    """P[K = k] for k = 0 .. 4999, as Papernot and Steinke (2022) write it."""
    if shape == 0:
        return stats.logser(1 - gamma).pmf(np.arange(5000))
    mass = stats.nbinom(shape, gamma).pmf(np.arange(5000))
    return np.where(np.arange(5000) > 0, mass / (1 - gamma**shape), 0)


def gamma_of(mean, shape):
    """By search, from the masses themselves."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        too_small = truncated(shape, middle) @ np.arange(5000) < mean
        low, high = (low, middle) if too_small else (middle, high)
    return low


def masses(mean, shape):
    """P[K = k] for k = 0 .. 4999."""
    if math.isinf(shape):
        return stats.poisson(mean).pmf(np.arange(5000))
    return truncated(shape, gamma_of(mean, shape))


def slow_rdp(curve, orders, mean, shape):
    """The two theorems as they stand, and that the divergence grows with the order."""
    found = []
    for one, order in zip(curve, orders, strict=True):
        if math.isinf(shape):
            delta = compute_delta(orders, curve, math.log(1 + 1 / (order - 1)))[0]
            found.append(one + mean * delta + math.log(mean) / (order - 1))
            continue
        log_inverse = -math.log(gamma_of(mean, shape))
        least = min(
            [log_inverse]
            + [(1 - 1 / b) * r + log_inverse / b for b, r in zip(orders, curve, strict=True)]
        )
        found.append(one + (1 + shape) * least + math.log(mean) / (order - 1))
    return [min(found[i:]) for i in range(len(found))]


@hypothesis_settings(max_examples=15, phases=(Phase.explicit, Phase.generate))  # no shrinking
@given(st.floats(0.4, 20), st.floats(1.1, 60), st.sampled_from(SHAPES))
def test_the_divergence_is_that_of_the_theorems(noise, mean, shape):
    orders = np.array([1.1, 1.5, 2.0, 3.0, 8.0, 64.0])
    curve = accounting.rdp(0.1, noise, 100, orders)
    expected = slow_rdp(curve, orders, mean, shape)
    np.testing.assert_allclose(tuning.rdp(curve, orders, mean, shape), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 8.0, 40.0])
@pytest.mark.parametrize("base", [0.5, 2.0])
def test_equal_candidates_cost_what_dp_accounting_says(base, mean, shape):
    noise = accounting.noise_multiplier(base, 0.17, 60, 1e-5)
    event = RepeatAndSelectDpEvent(accounting.event(0.17, noise, 60), mean, shape)
    expected = RdpAccountant(DEFAULT_ORDERS).compose(event).get_epsilon(1e-5)
    found = tuning.epsilon([0.17] * 3, noise, 60, 1e-5, mean, shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found > base


def test_large_epsilons_cost_less_than_dp_accounting_says():
    """The theorem's second order may be 1, which dp_accounting is not given."""
    event = RepeatAndSelectDpEvent(accounting.event(1.0, 0.5, 1), 1.2, 1.0)
    expected = RdpAccountant(DEFAULT_ORDERS).compose(event).get_epsilon(1e-5)
    assert tuning.epsilon(1.0, 0.5, 1, 1e-5, 1.2, 1.0) < expected - 0.01


def test_one_run_costs_what_one_run_costs():
    noise = accounting.noise_multiplier(3.0, 0.1, 100, 1e-5)
    for shape in SHAPES[:-1]:
        total = tuning.epsilon(0.1, noise, 100, 1e-5, 1.0, shape)
        assert total == accounting.epsilon(0.1, noise, 100, 1e-5)
        assert tuning.number_of_runs(np.random.default_rng(0), 1.0, shape) == 1


def test_candidates_without_noise_promise_nothing():
    for shape in SHAPES:
        assert tuning.epsilon(0.1, [1.0, 0.0], 10, 1e-5, 8.0, shape) == math.inf


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.2, 8.0])
def test_the_number_of_runs_has_its_distribution(mean, shape):
    rng, draws = np.random.default_rng(1), 20_000
    drawn = np.array([tuning.number_of_runs(rng, mean, shape) for _ in range(draws)])
    mass = masses(mean, shape)
    variance = mass @ (np.arange(5000) - mean) ** 2
    assert abs(drawn.mean() - mean) < 4 * math.sqrt(variance / draws)
    common = np.flatnonzero(draws * mass > 10)
    expected = np.append(draws * mass[common], draws * (1 - mass[common].sum()))
    seen = np.array([(drawn == k).sum() for k in common])
    seen = np.append(seen, draws - seen.sum())
    enough = expected > 1e-6 * draws
    assert seen[~enough].sum() == 0
    statistic = ((seen - expected)[enough] ** 2 / expected[enough]).sum()
    assert stats.chi2(enough.sum() - 1).sf(statistic) > 1e-3


def chosen_delta(epsilon, centres, noises, mean, shape):
    """Exact delta of choosing the largest output among Gaussians, by summing over a grid.

    Each run draws one of the noises, tells which, and adds it to the data set's centre. Of the best
    the density is p(y) sum over k of P[K = k] k F(y)^(k - 1), F being one run's distribution.
    """
    y = np.linspace(-14, 15, 40_001) * max(noises)
    mass = masses(mean, shape)[:600]
    derivative = np.polynomial.Polynomial(mass).deriv()
    densities = []
    for centre in centres:
        below = np.mean([stats.norm(centre, s).cdf(y) for s in noises], axis=0)
        own = [stats.norm(centre, s).pdf(y) / len(noises) for s in noises]
        densities.append(np.array(own) * derivative(below))
    first, second = densities
    return np.maximum(first - math.exp(epsilon) * second, 0).sum() * (y[1] - y[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("centres", [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize(("sigma", "mean"), [(0.5, 1.2), (1.0, 8.0), (4.0, 8.0)])
def test_the_claim_is_true_of_a_mechanism_known_exactly(sigma, mean, centres, shape):
    delta = 1e-5
    claimed = tuning.epsilon(1.0, sigma, 1, delta, mean, shape)
    assert chosen_delta(claimed, centres, [sigma], mean, shape) <= delta


@pytest.mark.parametrize("shape", SHAPES)
def test_forgetting_the_choice_is_a_false_claim(shape):
    sigma, delta, mean = 4.0, 1e-5, 32.0
    forgotten = accounting.epsilon(1.0, sigma, 1, delta)
    assert chosen_delta(forgotten, (1.0, 0.0), [sigma], mean, shape) > 2 * delta
    # The sum itself is right: of one run it is what the Gaussian mechanism is known to give.
    x = sigma * forgotten
    exact = stats.norm.sf(x - 0.5 / sigma) - math.exp(forgotten) * stats.norm.sf(x + 0.5 / sigma)
    alone = chosen_delta(forgotten, (1.0, 0.0), [sigma], 1.0 + 1e-9, 1.0)
    np.testing.assert_allclose(alone, exact, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_candidates_are_charged_by_the_one_that_protects_least(shape):
    delta, mean, noises = 1e-5, 8.0, [1.0, 4.0]
    claimed = tuning.epsilon(1.0, noises, 1, delta, mean, shape)
    assert chosen_delta(claimed, (1.0, 0.0), noises, mean, shape) <= delta
    assert claimed == tuning.epsilon(1.0, 1.0, 1, delta, mean, shape)
    of_the_other = tuning.epsilon(1.0, 4.0, 1, delta, mean, shape)
    assert chosen_delta(of_the_other, (1.0, 0.0), noises, mean, shape) > 100 * delta


def test_each_order_is_charged_by_its_own_worst_candidate():
    """A rare, nearly complete look and frequent faint ones: neither is the worse at every order."""
    rates, noises, steps = np.array([0.001, 1.0]), np.array([0.5, 30.0]), np.array([200, 300])
    curves = accounting.rdp(rates, noises, steps, ORDERS)
    assert (curves[0] > curves[1]).any()
    assert (curves[1] > curves[0]).any()
    together = tuning.epsilon(rates, noises, steps, 1e-5, 8.0, 1.0)
    apart = [
        tuning.epsilon(*setting, 1e-5, 8.0, 1.0)
        for setting in zip(rates, noises, steps, strict=True)
    ]
    expected = accounting.rdp_to_epsilon(
        tuning.rdp(np.maximum(*curves), ORDERS, 8.0, 1.0), ORDERS, 1e-5
    )
    assert together == expected >= max(apart)


def test_an_adversary_s_count_refutes_the_forgotten_choice_and_not_the_claim():
    """Trainings that are drawn as ours are: who sees the best tells the neighbours apart."""
    sigma, delta, mean, shape, games = 1.0, 0.01, 64.0, 1.0, 30_000
    rng, best = np.random.default_rng(2), []
    for centre in (1.0, 0.0):
        runs = [tuning.number_of_runs(rng, mean, shape) for _ in range(games)]
        best.append(np.array([centre + sigma * rng.standard_normal(k).max() for k in runs]))

    def ends(outputs, threshold):
        count = int((outputs > threshold).sum())
        return stats.binomtest(count, games).proportion_ci(0.9999)

    shown = max(
        math.log((ends(best[0], threshold).low - delta) / ends(best[1], threshold).high)
        for threshold in (3.0, 3.5, 4.0)
    )
    forgotten = accounting.epsilon(1.0, sigma, 1, delta)
    claimed = tuning.epsilon(1.0, sigma, 1, delta, mean, shape)
    assert forgotten < shown < claimed


def test_overflow_is_paid_for_each_expected_run():
    settings = 0.1, 1.0, 50
    for shape in SHAPES:
        paid = tuning.epsilon(*settings, 1e-5, 8.0, shape, [1e-7, 5e-7])
        assert paid == tuning.epsilon(*settings, 1e-5 - 8 * 5e-7, 8.0, shape)
        assert paid > tuning.epsilon(*settings, 1e-5 - 5e-7, 8.0, shape)
    with pytest.raises(InputError, match="overflows in one of 8 runs"):
        tuning.epsilon(*settings, 1e-5, 8.0, 1.0, 2e-6)


def test_delta_pays_for_batches_that_overflow_exactly():
    """Runs that, by a chance p, give the secret away: the proof's marks, played to the end."""
    sigma, p, mean, shape = 2.0, 1e-4, 8.0, 1.0
    delta = 1e-5 + mean * p
    claimed = tuning.epsilon(1.0, sigma, 1, delta, mean, shape, p)
    mass = masses(mean, shape)
    some_secret = 1 - mass @ (1 - p) ** np.arange(5000)
    # With the secret ranked first, no more than that is lost beyond the choice among the others.
    among_others = chosen_delta(claimed, (1.0, 0.0), [sigma], mean, shape)
    assert among_others + some_secret <= delta
    assert some_secret > 1e-5 + p  # what one run's share would have to pay for


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", [0.5, 4.0])
def test_calibrated_noise_spends_the_target_and_no_more(target, shape):
    rates, steps = np.array([0.17, 0.05, 0.17]), np.array([60, 200, 90])
    settings = 1e-5, 8.0, shape, 1e-8
    noise = tuning.noise_multiplier(target, rates, steps, *settings)
    assert target * (1 - 1e-4) <= tuning.epsilon(rates, noise, steps, *settings) <= target
    alone = accounting.noise_multiplier(target, rates, steps, 1e-5)
    np.testing.assert_allclose(noise / alone, (noise / alone)[0], rtol=1e-3)
    assert (noise > alone).all()


def test_a_target_below_the_price_of_choosing_is_refused():
    with pytest.raises(InputError, match="out of reach of any noise_multiplier"):
        tuning.noise_multiplier(0.005, 0.1, 100, 1e-5, 1000.0, 1.0)
    with pytest.raises(InputError, match="out of reach"):
        tuning.noise_multiplier(0.001, 0.1, 0, 1e-5, 1000.0, 1.0)


@pytest.mark.parametrize(
    ("mean", "shape", "sentence"),
    [
        (0.99, 1.0, "mean_runs must be from 1 to 10000, but it is 0.99"),
        (math.nan, 1.0, "mean_runs .* but it is nan"),
        (math.inf, 1.0, "mean_runs .* but it is inf"),
        (8.0, -1.0, "shape must be from 0 to 10, or inf, but it is -1.0"),
        (8.0, -0.5, "shape"),
        (8.0, math.nan, "shape .* but it is nan"),
        (8.0, 11.0, "shape"),
    ],
)
def test_a_number_of_runs_that_cannot_be_is_refused(mean, shape, sentence):
    for use in (
        lambda: tuning.number_of_runs(np.random.default_rng(0), mean, shape),
        lambda: tuning.rdp([1.0], [2.0], mean, shape),
        lambda: tuning.epsilon(0.1, 1.0, 1, 0.5, mean, shape),
    ):
        with pytest.raises(InputError, match=sentence):
            use()
