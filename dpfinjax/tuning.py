"""What it costs to choose the best of several private runs, and how many runs there may be.

Whoever trains K models privately and shares the best spends more than one training does: the choice
tells something about the losers' data too. Papernot and Steinke (2022), "Hyperparameter Tuning with
Rényi Differential Privacy", bound it for a number of runs K that is drawn at random, whatever the
runs are scored by. A run here draws one of the candidate settings uniformly and independently of
the others, with replacement, and trains with it: so all runs are the same mechanism.

The shape says how K is distributed around its mean. inf is Poisson, whose K may be 0: then nothing
is released. A finite shape is the negative binomial without its 0: 1 is geometric, 0 logarithmic.
At a mean of 8 Poisson costs about what geometric does (of one training at epsilon 1 it makes 2.07,
geometric 2.06; of 4 it makes 7.8, geometric 7.2) and its K is nearly always 2 to 16, where
geometric draws 1 one time in eight and more than 35 one time in a hundred. Of much larger means
Poisson is the dearest, and shape 0 the cheapest.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from dpfinjax import accounting
from dpfinjax.accounting import DEFAULT_ORDERS, FloatArray
from dpfinjax.errors import InputError

LARGEST_MEAN = 10_000.0
"""The largest expected number of runs, and far above what anybody trains."""

LARGEST_SHAPE = 10.0
"""The largest finite shape; the cost grows with it, and 10 costs more than Poisson does."""

_PRECISION = 1e-5  # relative, of calibrated noise; the noise is never below what the target needs


def number_of_runs(rng: np.random.Generator, mean_runs: float, shape: float) -> int:
    """Draws how many runs to make: K of Papernot and Steinke (2022), definition 1 and section 3.4.

    P[K = k] is, for k >= 1 and with g solved for the mean, proportional to (1 - g)^k
    Gamma(k + shape) / k!; Poisson's K, of shape inf, may be 0.

    Args:
        rng: A generator used for nothing that is shared: who knows K knows more than is paid for.
        mean_runs: Expected number of runs, in [1, LARGEST_MEAN]; unless with Poisson, 1 draws 1.
        shape: In [0, LARGEST_SHAPE], or inf for Poisson.

    Returns:
        K >= 1, or >= 0 with Poisson.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> number_of_runs(np.random.default_rng(0), 1.0, 1.0)
        1
    """
    _check(mean_runs, shape)
    if math.isinf(shape):
        return int(rng.poisson(mean_runs))
    if mean_runs == 1:
        return 1
    log_inverse, uniform = _log_inverse_gamma(mean_runs, shape), rng.random()
    ratio, power = -math.expm1(-log_inverse), shape * log_inverse  # 1 - gamma, -log(gamma^shape)
    mass = ratio / log_inverse * (power / math.expm1(power) if power else 1)
    runs, below = 1, mass
    while below <= uniform and mass > 0:  # rounding may leave the sum of all masses below 1
        mass *= ratio * (runs + shape) / (runs + 1)
        runs, below = runs + 1, below + mass
    return runs


def rdp(curve: ArrayLike, orders: ArrayLike, mean_runs: float, shape: float) -> FloatArray:
    """Bounds the Rényi divergence of running K times and releasing only the best run.

    With one run's RDP r and a finite shape, theorem 2 of Papernot and Steinke (2022) gives at order
    alpha: r(alpha) + log(mean) / (alpha - 1) + (1 + shape) min over b >= 1 of [(1 - 1/b) r(b) +
    log(1/gamma) / b], gamma being that of `number_of_runs`. For Poisson their theorem 6 gives
    r(alpha) + mean d + log(mean) / (alpha - 1), d being a delta of one run at epsilon
    log(1 + 1/(alpha - 1)), here from r by Canonne, Kamath and Steinke (2020), Proposition 12. RDP
    grows with the order, so the bound of a higher order holds too.

    It is what dp_accounting's RdpAccountant computes for its RepeatAndSelectDpEvent, and a little
    less where b = 1 or a higher order is the best: dp_accounting tries only the orders it is given.

    Args:
        curve: RDP of one run in nats [k], at least 0; inf where an order takes no part. Where runs
            differ in privacy, the largest of them at each order.
        orders: Rényi orders [k], finite and > 1.
        mean_runs: Expected number of runs, in [1, LARGEST_MEAN].
        shape: In [0, LARGEST_SHAPE], or inf for Poisson.

    Returns:
        RDP in nats [k].

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> rdp([0.5, 2.0], [2.0, 8.0], 1.0, 1.0)
        array([0.5, 2. ])
    """
    _check(mean_runs, shape)
    one, alpha = np.asarray(curve, dtype=np.float64), np.asarray(orders, dtype=np.float64)
    if math.isinf(shape):
        added = mean_runs * _delta(one, alpha, np.log1p(1 / (alpha - 1)))
    else:
        log_inverse = _log_inverse_gamma(mean_runs, shape)
        others = (1 - 1 / alpha) * one + log_inverse / alpha
        added = (1 + shape) * min(log_inverse, others.min())
    bound = one + math.log(mean_runs) / (alpha - 1) + added
    return np.where(alpha >= alpha[:, None], bound, np.inf).min(axis=-1)


def epsilon(
    sample_rate: ArrayLike,
    noise_multiplier: ArrayLike,
    steps: ArrayLike,
    delta: float,
    mean_runs: float,
    shape: float,
    overflow_probability: ArrayLike = 0.0,
) -> float:
    """Gives epsilon of choosing among DP-SGD runs: draw K, train K times, release only the best.

    Each run takes one of the candidates uniformly and independently of the others. A run tells
    which candidate it has, so its RDP is at most the largest of the candidates' at each order.

    The sampler's capacity is paid out of delta, mean_runs times a run's `overflow_probability` p,
    without a factor exp(epsilon). Proof. Fix two neighbours and let a run whose batches take as
    many shared examples as fit, or more, in some step give a mark instead of a model. Truncation
    changes no other run, and by quasi-convexity over the batches (see
    `accounting.overflow_probability`) such a run has the RDP of the untruncated one. Rank the mark
    above every model. Then choosing among these runs obeys some (epsilon, d), and wherever it
    gives a model there was no mark, and choosing among the real runs gives the same. Let v(S) be
    the chance that it gives a model in S, on one data set, and v'(S) on the other. The real chance
    on the first is at most v(S) + P[some mark] <= exp(epsilon) v'(S) + d + P[some mark], and v'(S)
    is at most the real chance on the second. K does not depend on the runs, so P[some mark] is at
    most the mean of K p.

    Args:
        sample_rate: Probability that an example is in a batch, in [0, 1], of each candidate [c].
        noise_multiplier: Noise standard deviation over clip norm, finite and >= 0 [c].
        steps: Whole number of steps >= 0 [c].
        delta: Probability in (0, 1), of the whole choice.
        mean_runs: Expected number of runs, in [1, LARGEST_MEAN].
        shape: In [0, LARGEST_SHAPE], or inf for Poisson.
        overflow_probability: Of one run, see `accounting.overflow_probability` [c].

    Returns:
        Epsilon in nats; inf where a candidate has no noise.

    Raises:
        InputError: An argument is outside its range, or delta is spent on overflow.

    Example:
        >>> print(f"{epsilon(0.01, 1.022, 1000, 1e-5, 8, 1):.3f}")
        3.810
    """
    _check(mean_runs, shape)
    left = _delta_left(delta, mean_runs, overflow_probability)
    curves = accounting.rdp(sample_rate, noise_multiplier, steps, DEFAULT_ORDERS)
    curve = curves.reshape(-1, len(DEFAULT_ORDERS)).max(axis=0)
    total = rdp(curve, DEFAULT_ORDERS, mean_runs, shape)
    return float(accounting.rdp_to_epsilon(total, DEFAULT_ORDERS, left))


def noise_multiplier(
    target_epsilon: float,
    sample_rate: ArrayLike,
    steps: ArrayLike,
    delta: float,
    mean_runs: float,
    shape: float,
    overflow_probability: ArrayLike = 0.0,
) -> FloatArray:
    """Finds the noise of each candidate with which choosing among them stays within a target.

    It is the noise that one training of the candidate would need for the target, times one factor
    for all of them, found by bisection: what is returned was evaluated, never overshoots, and is
    above the least factor by at most 1e-5 relative.

    Args:
        target_epsilon: Epsilon of the whole choice to stay within, in nats, finite and > 0.
        sample_rate: Probability that an example is in a batch, in [0, 1], of each candidate [c].
        steps: Whole number of steps >= 0 [c].
        delta: Probability in (0, 1), of the whole choice.
        mean_runs: Expected number of runs, in [1, LARGEST_MEAN].
        shape: In [0, LARGEST_SHAPE], or inf for Poisson.
        overflow_probability: Of one run [c].

    Returns:
        Noise multipliers [c].

    Raises:
        InputError: An argument is outside its range, or no noise up to
            accounting.MAX_NOISE_MULTIPLIER reaches the target.

    Example:
        >>> noise = noise_multiplier(4.0, [0.01, 0.02], 1000, 1e-5, 8, 1)
        >>> print(noise.round(2), f"{epsilon([0.01, 0.02], noise, 1000, 1e-5, 8, 1):.3f}")
        [1.15 1.54] 4.000
    """
    _check(mean_runs, shape)
    left = _delta_left(delta, mean_runs, overflow_probability)
    alone = accounting.noise_multiplier(target_epsilon, sample_rate, steps, left)

    def within(factor: float) -> bool:
        settings = sample_rate, factor * alone, steps, left, mean_runs, shape
        return epsilon(*settings) <= target_epsilon

    low = high = 1.0
    while not within(high):
        low, high = high, 2 * high
        if not 0 < high * alone.max() <= accounting.MAX_NOISE_MULTIPLIER:
            raise InputError(
                f"target_epsilon {target_epsilon:g} is out of reach of any noise_multiplier up to "
                f"{accounting.MAX_NOISE_MULTIPLIER:g} when the best of {mean_runs:g} runs is "
                "chosen: raise target_epsilon or delta, or lower mean_runs."
            )
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if within(middle) else (middle, high)
    return high * alone


def _check(mean_runs: float, shape: float) -> None:
    """Raises InputError for a distribution of K that does not exist."""
    if not 1 <= mean_runs <= LARGEST_MEAN:
        raise InputError(f"mean_runs must be from 1 to {LARGEST_MEAN:g}, but it is {mean_runs}.")
    if not (0 <= shape <= LARGEST_SHAPE or shape == math.inf):
        raise InputError(f"shape must be from 0 to {LARGEST_SHAPE:g}, or inf, but it is {shape}.")


def _delta_left(delta: float, mean_runs: float, overflow_probability: ArrayLike) -> float:
    """Delta without what the sampler's capacity takes of it in all runs."""
    left = delta - mean_runs * float(np.max(overflow_probability))
    if not left > 0:
        raise InputError(
            f"delta must be above {delta - left:g}, the chance that a batch overflows in one of "
            f"{mean_runs:g} runs, but it is {delta:g}."
        )
    return left


def _log_inverse_gamma(mean_runs: float, shape: float) -> float:
    """log(1/gamma) of the negative binomial without 0 that has the mean."""
    if mean_runs == 1:
        return 0.0

    def excess(x: float) -> float:
        """The mean, shape (1/gamma - 1) / (1 - gamma^shape), over the wanted one, less 1."""
        power = shape * x
        return math.expm1(x) / x * (power / -math.expm1(-power) if power else 1) / mean_runs - 1

    # The logarithmic mean, (e^x - 1) / x, is the smallest of all.
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return optimize.brentq(excess, 1e-20, high, xtol=1e-30, rtol=1e-14)


def _delta(curve: FloatArray, orders: FloatArray, epsilons: FloatArray) -> FloatArray:
    """Delta at each of some epsilons, by the rules of dp_accounting's compute_delta."""
    with np.errstate(divide="ignore"):
        by_variation = np.log1p(-np.exp(-curve)) / 2
    converted = (orders - 1) * (curve - epsilons[:, None] + np.log1p(-1 / orders)) - np.log(orders)
    usable = np.where(orders > 1.01, converted, np.inf)
    return np.exp(np.minimum(np.minimum(by_variation, usable).min(axis=-1), 0.0))
