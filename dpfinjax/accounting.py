"""How much privacy a DP-SGD run spends, and how much noise a privacy target needs.

Everything here runs on the host in float64 and broadcasts over arrays of settings. The mechanism
is the Poisson-subsampled Gaussian, composed over the steps of a run: each step takes every example
with probability `sample_rate`, sums the clipped gradients and adds Gaussian noise whose standard
deviation is `noise_multiplier` times the clip norm. Two data sets are neighbours when one holds one
record more than the other (add-or-remove-one).

Two accountants are offered. "rdp" is Rényi differential privacy: fast, vectorised, agreeing with
`dp_accounting`. "pld" is the privacy loss distribution of `dp_accounting`: slower, and the tighter
of the two by about a tenth of epsilon.
"""

import functools
import math
from collections.abc import Callable, Iterator

import dp_accounting
import numpy as np
from dp_accounting import pld
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.optimize import elementwise

from dpfinjax.errors import InputError

FloatArray = NDArray[np.float64]

DEFAULT_ORDERS: tuple[float, ...] = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *map(float, range(11, 64)),
    128.0,
    256.0,
    512.0,
    1024.0,
)
"""Rényi orders for `epsilon`: those of dp_accounting's RdpAccountant, so that both agree.

Steps of a tenth serve large epsilons, whose best order is low; the powers of two serve small ones.
"""

PAPER_ORDERS: tuple[float, ...] = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *map(float, range(12, 64)),
)
"""Rényi orders of Wang and Tsai (2022): 1.1 to 10.9 in steps of 0.1, and the integers 12 to 63."""

MAX_NOISE_MULTIPLIER = 1e5
"""The largest noise that `noise_multiplier` tries before it calls a target unreachable."""

# The fractional series of dp_accounting: its length, and the logarithm of a negligible term.
_MAX_TERMS = 1000
_NEGLIGIBLE = 30.0
_TERMS_PER_BLOCK = 40
_ELEMENTS_PER_CHUNK = 2**18

# Rounding leaves noise of about 1e-14 q alpha in log A, found against exact sums. A log A below ten
# times that has lost its digits, may even be negative, and is replaced by this much q alpha.
_LOG_A_FLOOR = 1e-13

# Calibration aims below the target by this much (in log epsilon) and accepts as much either side.
_MARGIN = {"rdp": 1e-6, "pld": 5e-5}
_BRACKET_FACTOR = {"rdp": 2.0, "pld": 1.15}

_PLD_INTERVAL = 1e-4
_PLD_INTERVAL_PER_EPSILON = 1e-6


def rdp(
    sample_rate: ArrayLike, noise_multiplier: ArrayLike, steps: ArrayLike, orders: ArrayLike
) -> FloatArray:
    """Bounds the Rényi divergence of a DP-SGD run at each order, add-or-remove-one.

    With q the sample rate and sigma the noise multiplier, one step has
    RDP(alpha) = log(A) / (alpha - 1), A = E_{z ~ N(0, sigma^2)} [((1 - q) + q exp((2z - 1) / (2
    sigma^2)))^alpha], which dominates the opposite direction, and steps add up: Mironov, Talwar and
    Zhang (2019), section 3.3, a finite sum for integer orders and two infinite series for others.

    Integer orders are exact. For the others this is an upper bound, the same as dp_accounting's: it
    adds the absolute values of terms that alternate in sign. The bound is loose at orders below
    about 4 (at q = 0.01, sigma = 0.5 by 21 % at order 1.1 and 0.2 % at order 2.5) and the more so
    the larger sigma is. Where the terms are not negligible after 1,000 of them the bound is inf,
    and the order then takes no part in `epsilon`. As integer orders are exact this costs little: in
    settings that were tried against quadrature, at delta 1e-5, at most 0.4 % of an epsilon of 6,
    2 % of 10, 4 % of 20, but 19 % of 100. The "pld" accountant is free of it.

    Args:
        sample_rate: Probability that an example is in a batch, in [0, 1], any shape.
        noise_multiplier: Noise standard deviation over clip norm, finite and >= 0, any shape.
        steps: Whole number of steps >= 0, any shape.
        orders: Rényi orders [k], finite and > 1.

    Returns:
        RDP in nats, [..., k] where ... is the broadcast shape of the first three. 0 where nothing
        is sampled or no step is made, else inf where there is no noise.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> rdp(1.0, 2.0, 10, [2.0, 4.0])
        array([2.5, 5. ])
    """
    rate, noise, count = _sample_rate(sample_rate), _noise(noise_multiplier), _steps(steps)
    alpha = _orders(orders)
    settings = np.stack(np.broadcast_arrays(rate, noise), axis=-1)
    distinct, place = np.unique(settings.reshape(-1, 2), axis=0, return_inverse=True)
    step = _rdp_of_a_step(distinct[:, 0], distinct[:, 1], alpha)
    step = step[place.reshape(-1)].reshape(*settings.shape[:-1], alpha.size)
    count = count[..., None]
    return np.multiply(count, step, where=count > 0, out=np.zeros(np.broadcast(count, step).shape))


def epsilon(
    sample_rate: ArrayLike,
    noise_multiplier: ArrayLike,
    steps: ArrayLike,
    delta: ArrayLike,
    method: str = "rdp",
    *,
    orders: ArrayLike = DEFAULT_ORDERS,
) -> FloatArray:
    """Gives an epsilon for which a DP-SGD run is (epsilon, delta)-differentially private.

    Method "rdp" takes the least over the orders alpha of RDP(alpha) + log(1 - 1/alpha) -
    log(delta alpha) / (alpha - 1), Canonne, Kamath and Steinke (2020), Proposition 12; it is 0
    where already delta^2 > 1 - exp(-RDP), the bound of total variation by divergence (Bretagnolle
    and Huber 1979). Method "pld" asks dp_accounting's PLDAccountant (Doroshenko et al. 2022), whose
    discretised privacy loss is always rounded to the safe side. Its grid is 1e-4 as in
    dp_accounting, and a millionth of the RDP epsilon where that is above 100, because a fixed grid
    needs gigabytes there. It takes some tenths of a second to some seconds a setting, more where
    epsilon is large; equal settings are computed once.

    Args:
        sample_rate: Probability that an example is in a batch, in [0, 1], any shape.
        noise_multiplier: Noise standard deviation over clip norm, finite and >= 0, any shape.
        steps: Whole number of steps >= 0, any shape.
        delta: Probability in (0, 1), any shape.
        method: "rdp" or "pld".
        orders: Rényi orders [k] of method "rdp", finite and > 1.

    Returns:
        Epsilon in nats, of the broadcast shape; inf where there is no noise.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{epsilon(0.01, 1.0, 1000, 1e-5):.3f}")
        2.101
    """
    _check_method(method)
    rate, noise = _sample_rate(sample_rate), _noise(noise_multiplier)
    count, probability = _steps(steps), _probability("delta", delta)
    alpha = _orders(orders if method == "rdp" else DEFAULT_ORDERS)
    by_rdp = _rdp_to_epsilon(rdp(rate, noise, count, alpha), alpha, probability)
    if method == "rdp":
        return by_rdp
    return _pld_epsilons(by_rdp, rate, noise, count, probability)[()]


def noise_multiplier(
    target_epsilon: ArrayLike,
    sample_rate: ArrayLike,
    steps: ArrayLike,
    delta: ArrayLike,
    method: str = "rdp",
    *,
    orders: ArrayLike = DEFAULT_ORDERS,
) -> FloatArray:
    """Finds the smallest noise whose epsilon does not exceed a target.

    The root of log(epsilon / target) in log(noise) is bracketed and found by Chandrupatla's method
    (1997), all settings at once. What is returned was evaluated: its epsilon is at most the target,
    and short of it by less than 1e-4 relative ("rdp": 1e-5) unless epsilon jumps there.

    Args:
        target_epsilon: Epsilon to stay within, in nats, finite and > 0, any shape.
        sample_rate: Probability that an example is in a batch, in [0, 1], any shape.
        steps: Whole number of steps >= 0, any shape.
        delta: Probability in (0, 1), any shape.
        method: "rdp" or "pld", as in `epsilon`.
        orders: Rényi orders [k] of method "rdp", finite and > 1.

    Returns:
        Noise multiplier of the broadcast shape; 0 where nothing is sampled or no step is made.

    Raises:
        InputError: An argument is outside its range, or no noise up to MAX_NOISE_MULTIPLIER reaches
            the target.

    Example:
        >>> noise = noise_multiplier(2.0, 0.01, 1000, 1e-5)
        >>> print(f"{noise:.3f} {epsilon(0.01, noise, 1000, 1e-5):.3f}")
        1.022 2.000
    """
    _check_method(method)
    settings = np.broadcast_arrays(
        _checked("target_epsilon", target_epsilon, lambda x: x > 0, "a finite number above 0"),
        _sample_rate(sample_rate),
        _steps(steps),
        _probability("delta", delta),
    )
    spends = (settings[1] > 0) & (settings[2] > 0)
    noise = np.zeros(spends.shape)
    if spends.any():
        noise[spends] = _calibrate([x[spends] for x in settings], method, orders)
    return noise[()]


def rdp_to_epsilon(curve: ArrayLike, orders: ArrayLike, delta: ArrayLike) -> FloatArray:
    """Converts Rényi divergences of any mechanism to epsilon, by the rules of `epsilon`.

    Args:
        curve: RDP in nats, [..., k], at least 0; inf where an order takes no part.
        orders: Rényi orders [k], finite and > 1.
        delta: Probability in (0, 1), of a shape that broadcasts with the ... of `curve`.

    Returns:
        Epsilon in nats, of the broadcast shape.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{rdp_to_epsilon([0.5, 2.0], [2.0, 8.0], 1e-5):.3f}")
        3.214
    """
    alpha, divergence = _orders(orders), np.asarray(curve, dtype=np.float64)
    if divergence.shape[-1:] != alpha.shape:
        raise InputError(
            f"curve must have {alpha.size} numbers, one an order, along its last axis, but its "
            f"shape is {divergence.shape}."
        )
    if not (divergence >= 0).all():
        raise InputError(f"curve must be at least 0, but it is {divergence.min():g} somewhere.")
    return _rdp_to_epsilon(divergence, alpha, _probability("delta", delta))


def event(
    sample_rate: float, noise_multiplier: float, steps: int
) -> dp_accounting.SelfComposedDpEvent:
    """Describes one DP-SGD run as an event that any accountant of dp_accounting understands.

    Args:
        sample_rate: Probability that an example is in a batch, in [0, 1].
        noise_multiplier: Noise standard deviation over clip norm, finite and >= 0.
        steps: Whole number of steps >= 0.

    Returns:
        The Poisson-sampled Gaussian, composed with itself `steps` times.

    Raises:
        InputError: An argument is outside its range.
    """
    gaussian = dp_accounting.GaussianDpEvent(float(_noise(noise_multiplier)))
    step = dp_accounting.PoissonSampledDpEvent(float(_sample_rate(sample_rate)), gaussian)
    return dp_accounting.SelfComposedDpEvent(step, int(_steps(steps)))


def published_epsilon(
    examples: ArrayLike,
    epochs: ArrayLike,
    noise_multiplier: ArrayLike,
    delta: ArrayLike = 1e-5,
    batch_size: ArrayLike = 100,
) -> FloatArray:
    """Evaluates the formula that Wang and Tsai (2022) print, which is not what their run spends.

    Their program computes epsilon for batches of 100 (q = 100/n, steps = epochs n / 100) while it
    trains with batches of 30. Show this beside the epsilon of a run, never instead of it. Of the
    two usual conversions at PAPER_ORDERS, that of Canonne, Kamath and Steinke (2020), used here,
    gives 6.3 at noise 1 and 47.9 at noise 0.5 for 13,170 examples and 120 epochs; RDP +
    log(1/delta) / (alpha - 1) of Mironov (2017) would give 7.0 and 49.7.

    Args:
        examples: Number of training examples n, a whole number >= 1, any shape.
        epochs: Number of epochs >= 0, any shape.
        noise_multiplier: Noise standard deviation over clip norm, finite and >= 0, any shape.
        delta: Probability in (0, 1), any shape.
        batch_size: The batch size in the formula, a whole number in 1..n, any shape.

    Returns:
        Epsilon in nats, of the broadcast shape.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{published_epsilon(13_170, 120, 1.0):.1f}")
        6.3
    """
    n, batch = _whole("examples", examples, 1), _whole("batch_size", batch_size, 1)
    if (over := batch > n).any():
        largest = np.broadcast_to(batch, over.shape)[over].max()
        raise InputError(
            f"batch_size must be at most the number of examples, but it is {largest:g}."
        )
    count = _checked("epochs", epochs, lambda x: x >= 0, "at least 0")
    steps = np.ceil(count * n / batch)
    return epsilon(batch / n, noise_multiplier, steps, delta, orders=PAPER_ORDERS)


def overflow_probability(
    examples: ArrayLike, sample_rate: ArrayLike, steps: ArrayLike, capacity: ArrayLike
) -> FloatArray:
    """Bounds the chance that truncating Poisson batches to a capacity matters; add it to delta.

    Gives p = min(1, steps P[Binomial(n, q) >= capacity]), a union bound over the steps. Suppose an
    accountant of this module certifies (epsilon, delta) for the untruncated run. Then the run that
    keeps at most `capacity` examples of each batch, chosen without a look at the data's values, is
    (epsilon, delta + p)-differentially private, without a factor exp(epsilon).

    Proof. Let D and D' differ in one record and share the others, at most n of them. Let T be what
    the batches of all steps take of the shared records; its law is the same under D and D'. Given
    T, each step is a Gaussian whose mean moves by at most the clip norm, and moves with probability
    q: the very pair of distributions that the accountant composes. So given any T the untruncated
    run obeys (epsilon, delta). Let v and v' be the runs' output measures restricted to the event E
    that T takes fewer than `capacity` records in every step. They are sub-probability mixtures over
    T with equal weights, so by the joint convexity of the hockey-stick divergence v(S) <=
    exp(epsilon) v'(S) + delta. On E a batch with the one further record still fits, so truncation
    changes nothing there; outside E lies mass at most p. With M the truncated run: P[M(D) in S] <=
    v(S) + p <= exp(epsilon) v'(S) + delta + p <= exp(epsilon) P[M(D') in S] + delta + p.

    A run calls this with its own number of examples. That covers a neighbour with one record more,
    where all n are shared, and one with a record fewer, where n - 1 are.

    Args:
        examples: Number of training examples n of the run, a whole number >= 1, any shape.
        sample_rate: Probability q that an example is in a batch, in [0, 1], any shape.
        steps: Whole number of steps >= 0, any shape.
        capacity: Most examples that a batch can hold, a whole number >= 1, any shape.

    Returns:
        The probability p of the broadcast shape; exactly 0 where capacity > n. At capacity = n it
        is not: a neighbour with n + 1 records may overflow.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{overflow_probability(1000, 0.1, 100, 160):.1e}")
        2.6e-07
    """
    n, rate = _whole("examples", examples, 1), _sample_rate(sample_rate)
    count, held = _steps(steps), _whole("capacity", capacity, 1)
    tail = np.where(held > n, 0.0, special.betainc(held, np.maximum(n - held + 1, 1), rate))
    return np.minimum(1.0, count * tail)[()]


def capacity(
    examples: ArrayLike,
    sample_rate: ArrayLike,
    steps: ArrayLike,
    probability: ArrayLike,
    multiple: ArrayLike = 8,
) -> NDArray[np.int64]:
    """Finds the smallest batch capacity whose `overflow_probability` is within a bound.

    The search ends at the first multiple above the number of examples: no batch overflows there.

    Args:
        examples: Number of training examples n of the run, a whole number >= 1, any shape.
        sample_rate: Probability that an example is in a batch, in [0, 1], any shape.
        steps: Whole number of steps >= 0, any shape.
        probability: Largest overflow probability allowed, in (0, 1), any shape.
        multiple: The capacity is a multiple of this whole number >= 1, any shape.

    Returns:
        Capacity of the broadcast shape.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(capacity(1000, 0.1, 100, 1e-6))
        160
    """
    n, unit = _whole("examples", examples, 1), _whole("multiple", multiple, 1)
    rate, count, allowed, n, unit = np.broadcast_arrays(
        _sample_rate(sample_rate), _steps(steps), _probability("probability", probability), n, unit
    )
    too_few, enough = np.zeros(n.shape), n // unit + 1
    while (enough - too_few > 1).any():
        middle = np.maximum((too_few + enough) // 2, 1)
        fits = overflow_probability(n, rate, count, middle * unit) <= allowed
        too_few, enough = np.where(fits, too_few, middle), np.where(fits, middle, enough)
    return (enough * unit).astype(np.int64)[()]


def _checked(
    name: str, values: ArrayLike, valid: Callable[[FloatArray], NDArray[np.bool_]], wanted: str
) -> FloatArray:
    """Turns an argument into float64 and names the first value that is nan or not valid."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be {wanted}, but it is {values!r}.") from None
    bad = ~(valid(array) & np.isfinite(array))
    if bad.any():
        raise InputError(f"{name} must be {wanted}, but it is {array[bad][0]:g}.")
    return array


def _sample_rate(values: ArrayLike) -> FloatArray:
    return _checked("sample_rate", values, lambda x: (x >= 0) & (x <= 1), "within [0, 1]")


def _noise(values: ArrayLike) -> FloatArray:
    return _checked("noise_multiplier", values, lambda x: x >= 0, "a finite number of at least 0")


def _steps(values: ArrayLike) -> FloatArray:
    return _whole("steps", values, 0)


def _probability(name: str, values: ArrayLike) -> FloatArray:
    return _checked(name, values, lambda x: (x > 0) & (x < 1), "strictly between 0 and 1")


def _whole(name: str, values: ArrayLike, least: int) -> FloatArray:
    wanted = f"a whole number of at least {least}"
    return _checked(name, values, lambda x: (x >= least) & (x == np.floor(x)), wanted)


def _orders(values: ArrayLike) -> FloatArray:
    array = _checked("orders", values, lambda x: x > 1, "finite numbers above 1")
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"orders must be a list of numbers, but it has shape {array.shape}.")
    return array


def _check_method(method: str) -> None:
    if method not in _MARGIN:
        raise InputError(f'method must be "rdp" or "pld", but it is {method!r}.')


def _rdp_of_a_step(rate: FloatArray, noise: FloatArray, orders: FloatArray) -> FloatArray:
    """RDP of one step for rate [s] and noise [s] at orders [k]: [s, k]."""
    result = np.full((rate.size, orders.size), np.inf)
    all_sampled, series = rate == 1, (rate > 0) & (rate < 1) & (noise > 0)
    with np.errstate(over="ignore", divide="ignore"):
        result[all_sampled] = orders / (2 * noise[all_sampled, None] ** 2)
    # Noise beyond about 1e150 either way overflows to nan, which the next line makes inf.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        log_a = _log_a(rate[series], noise[series], orders)
    floor = _LOG_A_FLOOR * rate[series, None] * orders
    bound = np.where(np.isnan(log_a), np.inf, np.maximum(log_a, floor))
    result[series] = bound / (orders - 1)
    result[rate == 0] = 0.0
    return result


def _log_a(rate: FloatArray, noise: FloatArray, orders: FloatArray) -> FloatArray:
    """Log A of Mironov, Talwar and Zhang (2019), [s, k], by the series that fits each order."""
    result = np.empty((rate.size, orders.size))
    constants = _constants(rate, noise)
    is_whole = orders == np.floor(orders)
    for k in np.flatnonzero(is_whole):
        for chunk in _chunks(rate.size, _ELEMENTS_PER_CHUNK // (int(orders[k]) + 1)):
            result[chunk, k] = _log_a_integer(constants[:, chunk], float(orders[k]))
    row, column = np.nonzero(np.broadcast_to(~is_whole, result.shape))
    for chunk in _chunks(row.size, _ELEMENTS_PER_CHUNK // _TERMS_PER_BLOCK):
        at = row[chunk], column[chunk]
        result[at] = _log_a_fractional(constants[:, at[0]], orders[at[1]])
    return result


def _constants(rate: FloatArray, noise: FloatArray) -> FloatArray:
    """[5, s]: log q, log(1 - q), sigma, sigma^2 and the point z0 at which the two series meet.

    They and the sums keep dp_accounting's operations in its order: where q / sigma is small, log A
    is what rounding leaves of numbers near 1, and another order would agree to five digits only.
    """
    variance = np.float_power(noise, 2.0)
    meeting = variance * _libm(math.log, 1 / rate - 1) + 0.5
    return np.stack([_libm(math.log, rate), _libm(math.log1p, -rate), noise, variance, meeting])


def _libm(function: Callable[[float], float], values: FloatArray) -> FloatArray:
    """Applies the C library's function, whose last bit NumPy's vector version may not share."""
    return np.asarray(np.frompyfunc(function, 1, 1)(values), dtype=np.float64)


def _chunks(size: int, chunk: int) -> Iterator[slice]:
    """Slices that cover range(size) in pieces of at most `chunk`, which bounds memory."""
    chunk = max(chunk, 1)
    return (slice(start, start + chunk) for start in range(0, size, chunk))


def _log_binomial(order: FloatArray | float, i: FloatArray) -> FloatArray:
    """Log |binomial(order, i)|, also for fractional orders."""
    return special.gammaln(order + 1) - special.gammaln(i + 1) - special.gammaln(order - i + 1)


def _log_a_integer(constants: FloatArray, order: float) -> FloatArray:
    """Log A [s] at one integer order."""
    log_q, log_1mq, _, variance, _ = constants
    i = np.arange(order + 1)[:, None]
    log_terms = _log_binomial(order, i) + i * log_q + (order - i) * log_1mq
    return np.logaddexp.reduce(log_terms + (i * i - i) / (2 * variance), axis=0)


def _log_a_fractional(constants: FloatArray, order: FloatArray) -> FloatArray:
    """A bound of log A for pairs of settings [5, e] and orders [e]; inf where it needs too long."""
    result = np.full(order.shape, np.inf)
    left = np.arange(order.size)
    sums = terms = np.full((2, 1, order.size), -np.inf)
    for start in range(0, _MAX_TERMS, _TERMS_PER_BLOCK):
        i = np.arange(start, start + _TERMS_PER_BLOCK, dtype=np.float64)[:, None]
        terms = np.concatenate([terms[:, -1:], _fractional_terms(constants, order, i)], axis=1)
        sums = np.logaddexp.accumulate(np.concatenate([sums[:, -1:], terms[:, 1:]], axis=1), axis=1)
        total = np.logaddexp(sums[0], sums[1])[1:]
        falls = (terms[:, 1:] < terms[:, :-1]).all(axis=0)
        ends = falls & (terms[:, 1:].max(axis=0) < total - _NEGLIGIBLE)
        done = ends.any(axis=0)
        result[left[done]] = total[ends.argmax(axis=0), np.arange(left.size)][done]
        left, order, constants = left[~done], order[~done], constants[:, ~done]
        sums, terms = sums[:, :, ~done], terms[:, :, ~done]
        if not left.size:
            break
    return result


def _fractional_terms(constants: FloatArray, order: FloatArray, i: FloatArray) -> FloatArray:
    """Log of the i-th terms of both series, [2, i, e]: below and above the point z0."""
    log_q, log_1mq, noise, variance, z0 = constants
    j = order - i
    coefficient = _log_binomial(order, i)
    below = coefficient + i * log_q + j * log_1mq + (i * i - i) / (2 * variance)
    above = coefficient + j * log_q + i * log_1mq + (j * j - j) / (2 * variance)
    scale = math.sqrt(2) * noise
    return np.stack(
        [below + _log_half_erfc((i - z0) / scale), above + _log_half_erfc((z0 - j) / scale)]
    )


def _log_half_erfc(x: FloatArray) -> FloatArray:
    return math.log(0.5) + (math.log(2) + special.log_ndtr(-x * 2**0.5))


def _rdp_to_epsilon(rdp: FloatArray, orders: FloatArray, delta: FloatArray) -> FloatArray:
    """The least epsilon over the orders, by dp_accounting's rules, for rdp [..., k]."""
    delta = delta[..., None]
    converted = rdp + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    # Close to order 1 the conversion is unstable, and never the best.
    usable = np.where(orders > 1.01, converted, np.inf)
    within_delta = delta**2 + np.expm1(-rdp) > 0
    return np.maximum(np.where(within_delta, 0.0, usable).min(axis=-1), 0.0)


@functools.partial(np.vectorize, otypes=[np.float64])
@functools.lru_cache(maxsize=4096)
def _pld_epsilons(by_rdp: float, rate: float, noise: float, steps: float, delta: float) -> float:
    """Epsilon by privacy loss distribution; `by_rdp` decides where it is 0 or inf, and the grid."""
    if by_rdp == 0 or math.isinf(by_rdp):
        return by_rdp
    interval = max(_PLD_INTERVAL, _PLD_INTERVAL_PER_EPSILON * by_rdp)
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    try:
        accountant.compose(event(rate, noise, int(steps)))
        return accountant.get_epsilon(delta)
    except OverflowError:  # beyond what floats hold; the other accountant's bound holds as well
        return by_rdp


def _calibrate(settings: list[FloatArray], method: str, orders: ArrayLike) -> FloatArray:
    """Noise [s] for settings (target, rate, steps, delta), each [s], all of which spend privacy."""
    start = np.zeros(settings[0].shape)
    if method == "pld":
        # RDP's answer holds for the tighter accountant too, and lies a few percent above its own.
        start = np.log(_calibrate(settings, "rdp", DEFAULT_ORDERS))
    excess = functools.partial(_excess, method=method, orders=orders)
    bracket = _bracket(excess, start, math.log(_BRACKET_FACTOR[method]), settings)
    accepted = 0.9 * _MARGIN[method]
    tolerances = {"xatol": 1e-9, "xrtol": 0.0, "fatol": accepted, "frtol": 0.0}
    root = elementwise.find_root(excess, bracket, args=tuple(settings), tolerances=tolerances)
    # Where epsilon jumps no root exists: then the bracket's upper end is the noise that holds.
    return np.exp(np.where(root.f_x <= accepted, root.x, root.bracket[1]))


def _excess(
    log_noise: FloatArray,
    target: FloatArray,
    rate: FloatArray,
    steps: FloatArray,
    delta: FloatArray,
    *,
    method: str,
    orders: ArrayLike,
) -> FloatArray:
    """Log of epsilon over its target, raised by the margin and kept finite for the root finder."""
    spent = epsilon(rate, np.exp(log_noise), steps, delta, method, orders=orders)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(spent / target) + _MARGIN[method], -99, 99)


def _bracket(
    excess: Callable[..., FloatArray], start: FloatArray, stride: float, settings: list[FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Log noises (low, high) with positive and with no excess."""

    def over(log_noise: FloatArray, at: NDArray[np.intp]) -> NDArray[np.bool_]:
        return excess(log_noise, *(x[at] for x in settings)) > 0

    def over_within_reach(log_noise: FloatArray, at: NDArray[np.intp]) -> NDArray[np.bool_]:
        result = over(log_noise, at)
        lost = at[result & (log_noise >= math.log(MAX_NOISE_MULTIPLIER))]
        if lost.size:
            raise InputError(_unreachable(*(x[lost[0]] for x in settings)))
        return result

    high = _march(start, stride, over_within_reach)
    return _march(high - stride, -stride, lambda log_noise, at: ~over(log_noise, at)), high


def _march(
    start: FloatArray,
    stride: float,
    goes_on: Callable[[FloatArray, NDArray[np.intp]], NDArray[np.bool_]],
) -> FloatArray:
    """Moves each log noise by strides for as long as `goes_on(where it is, its index)`."""
    place, moving = start.copy(), np.arange(start.size)
    while moving.size:
        moving = moving[goes_on(place[moving], moving)]
        place[moving] = np.minimum(place[moving] + stride, math.log(MAX_NOISE_MULTIPLIER))
    return place


def _unreachable(target: float, rate: float, steps: float, delta: float) -> str:
    return (
        f"target_epsilon {target:g} is out of reach of any noise_multiplier up to "
        f"{MAX_NOISE_MULTIPLIER:g} with sample_rate {rate:g}, steps {steps:.0f} and delta "
        f"{delta:g}: raise target_epsilon or delta, or lower sample_rate or steps."
    )
