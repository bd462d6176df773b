import doctest
import math
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dpfinjax import accounting
from dpfinjax.errors import InputError


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


RATES = log_uniform(1e-4, 1.0).map(lambda rate: min(rate, 1.0))
NOISES = log_uniform(0.3, 50.0)
STEPS = log_uniform(1.0, 1e6).map(round)
DELTAS = log_uniform(1e-9, 1e-2)
MODEST = settings(max_examples=25, deadline=None)


def log_mean_power(log_base, log_ratio, order, z):
    """Log E[ratio^order] under a density on a grid: the slow, obviously right Rényi integral."""
    width, log_powers = z[1] - z[0], log_base + order * log_ratio
    log_mean = special.logsumexp(log_powers) + math.log(width)
    if log_mean > 0.1:
        return log_mean
    # Near 0 the logarithm of a sum near 1 loses digits that the sum of differences keeps.
    return math.log1p((np.exp(log_powers) - np.exp(log_base)).sum() * width)


def quadrature(rate, noise, order):
    """RDP of one step in both directions (add, remove), by the trapezoidal rule on a fine grid."""
    z = np.linspace(-40 * noise - 5, order + 40 * noise + 5, 400_001)
    log_without = -(z**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * z - 1) / (2 * noise**2))
    remove = log_mean_power(log_without, log_ratio, order, z)
    add = log_mean_power(log_without + log_ratio, -log_ratio, order, z)
    return add / (order - 1), remove / (order - 1)


def rdp_accountant(rate, noise, steps, orders):
    accountant = dp_accounting.rdp.RdpAccountant(orders)
    gaussian = dp_accounting.GaussianDpEvent(noise)
    step = dp_accounting.PoissonSampledDpEvent(rate, gaussian)
    return accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))


def hockey_stick(p, q, epsilon, width):
    return np.maximum(p - math.exp(epsilon) * q, 0).sum() * width


@pytest.mark.parametrize("rate", [0.01, 0.12, 0.6])
@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("order", [2.0, 3.0, 17.0, 64.0])
def test_integer_orders_equal_the_larger_integral_of_both_directions(rate, noise, order):
    add, remove = quadrature(rate, noise, order)
    assert add <= remove * (1 + 1e-9)
    np.testing.assert_allclose(accounting.rdp(rate, noise, 1, [order])[0], remove, rtol=1e-9)


@pytest.mark.parametrize(
    ("rate", "noise", "order"),
    [(1e-2, 0.5, 6.3), (1e-2, 1.0, 10.9), (0.12, 0.5, 5.7), (0.12, 1.0, 10.3), (0.6, 1.0, 7.5)],
)
def test_fractional_orders_above_five_equal_the_integral(rate, noise, order):
    largest = max(quadrature(rate, noise, order))
    np.testing.assert_allclose(accounting.rdp(rate, noise, 1, [order])[0], largest, rtol=1e-7)


@pytest.mark.parametrize("rate", [0.002, 0.12, 0.6])
@pytest.mark.parametrize("noise", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("order", [1.1, 1.7, 2.5, 3.9, 5.1])
def test_fractional_orders_never_fall_below_either_integral(rate, noise, order):
    add, remove = quadrature(rate, noise, order)
    assert accounting.rdp(rate, noise, 1, [order])[0] >= max(add, remove) * (1 - 1e-7)


@MODEST
@given(
    rate=RATES,
    noise=NOISES,
    steps=STEPS,
    delta=DELTAS,
    fractional=st.lists(st.floats(1.1, 60.0), max_size=6),
    whole=st.lists(st.integers(2, 512), max_size=6),
)
def test_rdp_and_epsilon_agree_with_dp_accounting(rate, noise, steps, delta, fractional, whole):
    orders = np.array([*fractional, *whole, 1.1, 2.5, 10.9, 12.0, 63.0, 512.0])
    theirs = rdp_accountant(rate, noise, steps, orders)
    ours = accounting.rdp(rate, noise, steps, orders)
    # dp_accounting sums numbers near 1 to a logarithm near 0: its own rounding is the second term.
    allowed = 1e-9 * theirs._rdp + steps * 2e-13 / (orders - 1)
    finite = np.isfinite(theirs._rdp)
    np.testing.assert_array_equal(np.isfinite(ours), finite)
    assert (np.abs(ours[finite] - theirs._rdp[finite]) <= allowed[finite]).all()
    expected = theirs.get_epsilon(delta)
    # The most that `allowed` can move an epsilon, where a jump to 0 is not near.
    slack = 1e-9 * expected + (allowed[finite].max() if expected else 0.0)
    assert abs(accounting.epsilon(rate, noise, steps, delta, orders=orders) - expected) <= slack


@pytest.mark.parametrize(
    ("rate", "noise", "steps"),
    [(100 / 13170, 1.0, 15804), (30 / 13170, 0.5, 52680), (0.12, 1.5, 500), (1.0, 3.0, 7)],
)
def test_epsilon_is_the_one_dp_accounting_prints_by_default(rate, noise, steps):
    theirs = dp_accounting.rdp.RdpAccountant().compose(accounting.event(rate, noise, steps))
    ours = accounting.epsilon(rate, noise, steps, 1e-5)
    np.testing.assert_allclose(ours, theirs.get_epsilon(1e-5), rtol=1e-9)


def test_paper_orders_are_those_of_the_paper():
    tenths = [round(0.1 * k, 1) for k in range(11, 110)]
    np.testing.assert_allclose(accounting.PAPER_ORDERS, [*tenths, *range(12, 64)], rtol=1e-15)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "expected"),
    [
        (0.0, 1.0, 5, [0.0, 0.0]),
        (0.0, 0.0, 5, [0.0, 0.0]),
        (1.0, 2.0, 10, [1.5 * 10 / 8, 4 * 10 / 8]),
        (1.0, 0.0, 1, [np.inf, np.inf]),
        (0.3, 0.0, 1, [np.inf, np.inf]),
        (0.3, 0.0, 0, [0.0, 0.0]),
        (0.3, 1.0, 0, [0.0, 0.0]),
    ],
)
def test_rdp_at_the_edges(rate, noise, steps, expected):
    np.testing.assert_allclose(accounting.rdp(rate, noise, steps, [1.5, 4.0]), expected)


@pytest.mark.parametrize("method", ["rdp", "pld"])
def test_epsilon_at_the_edges(method):
    rate, noise, steps = np.array([[0.2, 0.0, 3], [0.2, 0.0, 0], [0.0, 0.0, 3], [0.2, 1.0, 0]]).T
    spent = accounting.epsilon(rate, noise, steps, 1e-5, method)
    np.testing.assert_array_equal(spent, [np.inf, 0.0, 0.0, 0.0])


def test_a_tiny_sample_rate_never_rounds_to_less_than_it_spends():
    # Here log A is below the rounding of its terms, and the bare sum at order 1.5 is negative.
    rate, noise, orders = 1e-12, 50.0, np.array([1.5, 2.0, 10.0])
    leading = orders / 2 * rate**2 * math.expm1(1 / noise**2)
    assert (accounting.rdp(rate, noise, 1, orders) >= leading * (1 - 1e-9)).all()


def test_settings_broadcast_and_equal_one_at_a_time():
    rates, noises, steps = np.array([[0.01], [0.2], [1.0]]), np.array([0.7, 1.0, 4.0]), 120
    orders = [1.3, 2.0, 7.7, 40.0]
    together = accounting.rdp(rates, noises, steps, orders)
    alone = [[accounting.rdp(q, s, steps, orders) for s in noises] for q in rates[:, 0]]
    np.testing.assert_array_equal(together, alone)
    spent = accounting.epsilon(rates, noises, steps, 1e-6)
    np.testing.assert_array_equal(
        spent, [[*accounting.epsilon(q, noises, steps, 1e-6)] for q in rates[:, 0]]
    )


def test_a_small_chunk_changes_nothing(monkeypatch):
    rates, orders = np.geomspace(1e-3, 0.9, 30), accounting.PAPER_ORDERS
    whole = accounting.rdp(rates, 1.1, 10, orders)
    monkeypatch.setattr(accounting, "_ELEMENTS_PER_CHUNK", 300)
    np.testing.assert_array_equal(accounting.rdp(rates, 1.1, 10, orders), whole)


@MODEST
@given(rate=RATES, noise=NOISES, steps=STEPS, delta=DELTAS, factor=log_uniform(1.01, 3.0))
def test_more_sampling_more_steps_or_less_noise_never_spends_less(
    rate, noise, steps, delta, factor
):
    # Integer orders are exact; the fractional bound need not be monotone in its looseness.
    orders = np.arange(2.0, 65.0)
    rates = np.array([rate, min(rate * factor, 1.0), rate, rate])
    noises = np.array([noise, noise, noise / factor, noise])
    counts = np.array([steps, steps, steps, math.ceil(steps * factor)])
    spent = accounting.rdp(rates, noises, counts, orders)
    assert (spent[1:] >= spent[0] * (1 - 1e-9) - steps * 1e-13).all()
    epsilons = accounting.epsilon(rates, noises, counts, delta, orders=orders)
    assert (epsilons[1:] >= epsilons[0] * (1 - 1e-9) - steps * 1e-13).all()
    assert accounting.epsilon(rate, noise, steps, delta / factor) >= accounting.epsilon(
        rate, noise, steps, delta
    )


@pytest.mark.parametrize(
    ("rate", "noise", "steps"), [(0.12, 3.0, 500), (30 / 13170, 1.0, 5000), (0.01, 0.8, 300)]
)
def test_pld_is_dp_accountings_and_at_most_rdp(rate, noise, steps):
    spent = accounting.epsilon(rate, noise, steps, 1e-5, "pld")
    theirs = pld.PLDAccountant().compose(accounting.event(rate, noise, steps))
    assert spent == theirs.get_epsilon(1e-5)
    assert 0 < spent <= accounting.epsilon(rate, noise, steps, 1e-5)


def gaussian_delta(epsilon, noise):
    """The exact delta of the Gaussian mechanism, Balle and Wang (2018)."""
    half, cut = 1 / (2 * noise), epsilon * noise
    return special.ndtr(half - cut) - math.exp(epsilon + special.log_ndtr(-half - cut))


@pytest.mark.parametrize(("noise", "steps"), [(1.7, 1), (3.0, 20), (0.5, 100)])
def test_pld_is_safe_and_close_where_the_truth_is_known(noise, steps):
    # The last case has an RDP epsilon above 100, so that its grid is coarser than dp_accounting's.
    spent = accounting.epsilon(1.0, noise, steps, 1e-5, "pld")
    assert gaussian_delta(spent, noise / math.sqrt(steps)) <= 1e-5
    assert gaussian_delta(spent * (1 - 1e-4), noise / math.sqrt(steps)) > 1e-5


def test_the_published_figures_and_the_true_ones():
    published = accounting.published_epsilon(13_170, 120, [1.0, 0.5])
    np.testing.assert_allclose(published, [6.3, 47.9], atol=0.05)
    orders = accounting.PAPER_ORDERS
    true = accounting.epsilon(30 / 13_170, [1.0, 0.5], 120 * 13_170 // 30, 1e-5, orders=orders)
    np.testing.assert_allclose(true, [3.1, 24.8], atol=0.05)


def test_the_published_figures_are_not_those_of_the_older_conversion():
    orders = np.array(accounting.PAPER_ORDERS)
    divergence = accounting.rdp(100 / 13_170, [1.0, 0.5], 15_804, orders)
    older = (divergence + math.log(1e5) / (orders - 1)).min(axis=-1)
    np.testing.assert_allclose(older, [7.0, 49.7], atol=0.05)


def test_the_published_formula_rounds_a_part_step_up_and_keeps_the_papers_orders():
    noises = [0.8, 200.0]  # The second would do better with an order above 63.
    spent = accounting.published_epsilon(1234, 7, noises, 1e-4, batch_size=100)
    orders = accounting.PAPER_ORDERS
    expected = accounting.epsilon(100 / 1234, noises, 87, 1e-4, orders=orders)
    np.testing.assert_array_equal(spent, expected)


def test_an_event_for_another_batch_size_gives_another_epsilon():
    def spent(batch):
        event = accounting.event(batch / 13_170, 1.0, 120 * 13_170 // batch)
        return dp_accounting.rdp.RdpAccountant().compose(event).get_epsilon(1e-5)

    trained, claimed = 30, 100
    own = accounting.epsilon(trained / 13_170, 1.0, 120 * 13_170 // trained, 1e-5)
    np.testing.assert_allclose(own, spent(trained), rtol=1e-9)
    assert spent(claimed) > 1.9 * own


@MODEST
@given(
    rate=RATES,
    steps=STEPS,
    delta=DELTAS,
    targets=st.lists(log_uniform(0.2, 40.0), min_size=1, max_size=3),
)
def test_the_calibrated_noise_never_overshoots_and_wastes_little(rate, steps, delta, targets):
    noise = accounting.noise_multiplier(targets, rate, steps, delta)
    spent = accounting.epsilon(rate, noise, steps, delta)
    assert (spent <= targets).all()
    # Less noise overshoots; where epsilon is continuous the target is also nearly used up.
    assert (accounting.epsilon(rate, noise * (1 - 1e-3), steps, delta) > targets).all()


def test_the_calibrated_noise_is_on_the_safe_side_where_epsilon_jumps():
    # With much noise the total variation is below delta, and epsilon jumps from about 0.004 to 0.
    noise = accounting.noise_multiplier(0.001, 0.01, 1000, 1e-5)
    assert accounting.epsilon(0.01, noise, 1000, 1e-5) == 0
    assert accounting.epsilon(0.01, noise * (1 - 1e-6), 1000, 1e-5) > 0.001


def test_the_calibrated_noise_uses_the_target_up():
    targets = np.geomspace(0.5, 100, 40)
    noise = accounting.noise_multiplier(targets, 0.02, 3000, 1e-5)
    ratio = accounting.epsilon(0.02, noise, 3000, 1e-5) / targets
    assert (ratio <= 1).all()
    assert (ratio >= 1 - 1e-5).all()


def test_the_pld_calibration_never_overshoots_and_needs_less_noise():
    targets, arguments = np.array([1.0, 3.0]), (0.12, 500, 1e-5)
    noise = accounting.noise_multiplier(targets, *arguments, "pld")
    ratio = accounting.epsilon(0.12, noise, 500, 1e-5, "pld") / targets
    assert (ratio <= 1).all()
    assert (ratio >= 1 - 1e-3).all()
    assert (noise < accounting.noise_multiplier(targets, *arguments)).all()


def test_a_pld_calibration_takes_few_evaluations(monkeypatch):
    made = []

    class Counted(pld.PLDAccountant):
        def __init__(self, *arguments, **keywords):
            made.append(1)
            super().__init__(*arguments, **keywords)

    monkeypatch.setattr(accounting.pld, "PLDAccountant", Counted)
    accounting.noise_multiplier(2.03, 0.12, 700, 1e-5, "pld")
    assert 1 <= len(made) <= 7
    made.clear()
    accounting.noise_multiplier(2.03, 0.12, 700, 1e-5, "pld")
    assert not made


def test_no_noise_is_needed_where_nothing_is_spent():
    noise = accounting.noise_multiplier(1.0, [0.0, 0.1], [5, 0], 1e-5)
    np.testing.assert_array_equal(noise, [0.0, 0.0])


@pytest.mark.parametrize("method", ["rdp", "pld"])
def test_an_unreachable_target_is_refused(method):
    with pytest.raises(InputError, match=r"target_epsilon 0\.001 is out of reach"):
        accounting.noise_multiplier([1.0, 0.001], 1.0, 1000, 1e-5, method)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: accounting.epsilon(1.5, 1, 1, 1e-5), r"sample_rate must be within \[0, 1\].*1.5"),
        (lambda: accounting.epsilon([0.1, -0.1], 1, 1, 1e-5), r"sample_rate.*-0.1"),
        (lambda: accounting.epsilon("all", 1, 1, 1e-5), "sample_rate.*'all'"),
        (lambda: accounting.rdp(0.1, -1, 1, [2.0]), "noise_multiplier must be .* at least 0"),
        (lambda: accounting.rdp(0.1, np.nan, 1, [2.0]), "noise_multiplier.*nan"),
        (lambda: accounting.rdp(0.1, np.inf, 1, [2.0]), "noise_multiplier.*inf"),
        (lambda: accounting.rdp(0.1, 1, -1, [2.0]), "steps must be a whole number of at least 0"),
        (lambda: accounting.rdp(0.1, 1, 2.5, [2.0]), "steps.*2.5"),
        (lambda: accounting.rdp(0.1, 1, 1, [2.0, 1.0]), "orders must be .* above 1"),
        (lambda: accounting.rdp(0.1, 1, 1, 2.0), "orders must be a list"),
        (lambda: accounting.rdp(0.1, 1, 1, []), "orders must be a list"),
        (lambda: accounting.epsilon(0.1, 1, 1, 0), "delta must be strictly between 0 and 1"),
        (lambda: accounting.epsilon(0.1, 1, 1, 1), "delta must be strictly between 0 and 1"),
        (lambda: accounting.epsilon(0.1, 1, 1, 1e-5, "zcdp"), 'method must be "rdp" or "pld"'),
        (lambda: accounting.noise_multiplier(0, 0.1, 1, 1e-5), "target_epsilon must be .* above 0"),
        (lambda: accounting.noise_multiplier(np.inf, 0.1, 1, 1e-5), "target_epsilon.*inf"),
        (lambda: accounting.noise_multiplier(1, 0.1, 1, 1e-5, "x"), 'method must be "rdp"'),
        (lambda: accounting.event(2.0, 1.0, 1), "sample_rate"),
        (lambda: accounting.published_epsilon(50, 1, 1.0), "batch_size must be at most"),
        (lambda: accounting.overflow_probability(0, 0.1, 1, 8), "examples must be a whole number"),
        (lambda: accounting.overflow_probability(9, 0.1, 1, 0), "capacity must be a whole number"),
        (lambda: accounting.capacity(9, 0.1, 1, 0.0), "probability must be strictly"),
        (lambda: accounting.capacity(9, 0.1, 1, 0.1, 0), "multiple must be a whole number"),
    ],
)
def test_bad_arguments_are_named_with_the_right_range(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


@MODEST
@given(
    examples=st.integers(1, 60), rate=st.floats(0.0, 1.0), steps=st.integers(0, 9), data=st.data()
)
def test_overflow_is_the_exact_binomial_tail_times_the_steps(examples, rate, steps, data):
    held = data.draw(st.integers(1, examples + 3))
    q = Fraction(rate)
    terms = (
        math.comb(examples, k) * q**k * (1 - q) ** (examples - k) for k in range(held, examples + 1)
    )
    exact = min(1.0, float(steps * sum(terms)))
    ours = accounting.overflow_probability(examples, rate, steps, held)
    np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-300)


def test_overflow_far_in_the_tail_agrees_with_scipy():
    held = np.arange(1100, 2400, 50)
    ours = accounting.overflow_probability(10**6, 1e-3, 1000, held)
    np.testing.assert_allclose(ours, 1000 * stats.binom.sf(held - 1, 10**6, 1e-3), rtol=1e-6)


def test_overflow_is_impossible_above_the_number_of_examples_only():
    spilled = accounting.overflow_probability(20, 0.5, 3, [20, 21, 22])
    np.testing.assert_array_equal(spilled, [3 * 0.5**20, 0.0, 0.0])


@MODEST
@given(
    examples=st.integers(1, 400),
    rate=st.floats(0.0, 1.0),
    steps=st.integers(0, 1000),
    probability=log_uniform(1e-12, 0.5),
    multiple=st.integers(1, 16),
)
def test_capacity_is_the_smallest_multiple_that_suffices(
    examples, rate, steps, probability, multiple
):
    ours = accounting.capacity(examples, rate, steps, probability, multiple)
    candidates = np.arange(multiple, examples + 2 * multiple + 1, multiple)
    spilled = accounting.overflow_probability(examples, rate, steps, candidates)
    assert ours == candidates[spilled <= probability][0]


def test_capacity_broadcasts():
    ours = accounting.capacity([1000, 50], [[0.1], [1.0]], 100, 1e-6)
    np.testing.assert_array_equal(ours, [[160, 24], [1008, 56]])


def truncated_pair(rate, noise, z):
    """Output densities of one step with capacity 2 on {1, -1, -1} and on its neighbour {-1, -1}.

    The record that the neighbour lacks comes first, and the last of a full batch is dropped.
    """

    def density(values):
        total = np.zeros_like(z)
        for taken in np.ndindex(*(2,) * len(values)):
            kept = [value for value, is_in in zip(values, taken, strict=True) if is_in][:2]
            weight = math.prod(rate if is_in else 1 - rate for is_in in taken)
            total += weight * stats.norm.pdf(z, sum(kept), noise)
        return total

    return density([1.0, -1.0, -1.0]), density([-1.0, -1.0])


@pytest.mark.parametrize(("rate", "noise"), [(0.5, 1.5), (0.8, 0.8), (0.95, 0.6)])
def test_truncation_costs_at_most_the_overflow_probability(rate, noise):
    width = 1e-3
    z = np.arange(-12, 12, width)
    added, base = stats.norm.pdf(z, 1, noise), stats.norm.pdf(z, 0, noise)
    sampled = rate * added + (1 - rate) * base
    overflow = accounting.overflow_probability(2, rate, 1, 2)
    with_record, without = truncated_pair(rate, noise, z)
    excess = []
    for epsilon in np.linspace(0.0, 12.0, 25):
        promised = max(
            hockey_stick(sampled, base, epsilon, width), hockey_stick(base, sampled, epsilon, width)
        )
        truncated = max(
            hockey_stick(with_record, without, epsilon, width),
            hockey_stick(without, with_record, epsilon, width),
        )
        assert truncated <= promised + overflow + 1e-9
        excess.append(truncated - promised)
    # Counting from one record later, where overflow is called impossible, would break the promise.
    assert max(excess) > accounting.overflow_probability(2, rate, 1, 3) + 0.05 * overflow


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(accounting)
    assert result.attempted >= 6
    assert result.failed == 0


def test_a_curve_of_dpsgd_converts_to_the_epsilon_of_dpsgd():
    orders = accounting.DEFAULT_ORDERS
    curve = accounting.rdp(0.01, [0.8, 2.0], 1000, orders)
    expected = accounting.epsilon(0.01, [0.8, 2.0], 1000, 1e-5)
    np.testing.assert_array_equal(accounting.rdp_to_epsilon(curve, orders, 1e-5), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [2.0, 3.0], 1e-5), "curve must have 2 numbers"),
        (([-1.0], [2.0], 1e-5), "curve must be at least 0, but it is -1"),
        (([np.nan], [2.0], 1e-5), "curve must be at least 0"),
        (([1.0], [1.0], 1e-5), "orders must be finite numbers above 1"),
        (([1.0], [2.0], 0.0), "delta must be strictly between 0 and 1"),
    ],
)
def test_a_curve_that_is_none_is_told_in_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        accounting.rdp_to_epsilon(*arguments)
