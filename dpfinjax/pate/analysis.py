"""What the answers of noisy teachers cost: bounds in Rényi differential privacy, and epsilon.

Everything here runs on the host in float64, over all queries and orders at once. Two data sets are
neighbours when one holds one training example more than the other. Partitions are disjoint and stay
where they are, so neighbours differ in one teacher: in every query that teacher's vote may move,
which changes two counts by one each and the largest count by at most one.

A data-independent bound holds for all votes: it is a guarantee, and may be published. A
data-dependent bound is D_alpha(M(D) || M(D')) of the votes at hand, for all neighbours D' of their
data set D. It is lower where teachers agree, and it is itself a function of the private data: it
must not be published, except through `smooth.release`.

Queries are fixed in advance and their costs add up (Mironov 2017, Proposition 1).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dpfinjax import accounting
from dpfinjax.accounting import DEFAULT_ORDERS
from dpfinjax.errors import InputError
from dpfinjax.pate import histograms

FloatArray = NDArray[np.float64]

MAX_SCALE = 1e8
"""The largest noise scale that calibration tries before it calls a target unreachable."""

# Calibration ends when the smallest scale that holds is known to this relative precision.
_PRECISION = 1e-9


def rdp(
    votes: ArrayLike,
    scale: float,
    orders: ArrayLike,
    mechanism: str = "gaussian",
    data_dependent: bool = True,
) -> FloatArray:
    """Bounds the Rényi divergence of answering all queries by `noisy_argmax`.

    Data-independent, one GNMax answer costs alpha / scale^2 (Papernot et al. 2018, Proposition 8)
    and one LNMax answer, which is 2 / scale differentially private, what randomised response of
    that strength costs, the most that any such mechanism can (the proof of Bun and Steinke 2016,
    Proposition 3.3).

    Data-dependent, an answer costs the least of that and of `gnmax_rdp` or `lnmax_rdp` at the
    bound of the chance that the answer is not the plurality's.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        scale: The noise of `noisy_argmax`, finite and > 0, in votes.
        orders: Rényi orders [k], finite and > 1.
        mechanism: "gaussian" or "laplace".
        data_dependent: Whether the bound may depend on the votes; it is then private.

    Returns:
        RDP in nats [k].

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> rdp([[100, 0], [50, 50]], 10.0, [2.0, 4.0], data_dependent=False)
        array([0.04, 0.08])
        >>> rdp([[100, 0], [50, 50]], 10.0, [2.0, 4.0]).round(4)
        array([0.02, 0.04])
    """
    alpha = accounting._orders(orders)
    return _query_rdp(votes, scale, alpha, mechanism, data_dependent).sum(axis=0)


def epsilon(
    votes: ArrayLike,
    scale: float,
    delta: float,
    mechanism: str = "gaussian",
    data_dependent: bool = True,
    *,
    orders: ArrayLike = DEFAULT_ORDERS,
) -> float:
    """Gives epsilon of answering all queries by `noisy_argmax`.

    The conversion is that of `accounting.epsilon`. For "laplace" it is at most 2 / scale a query,
    by composition of pure differential privacy.

    Data-independent, it falls as the scale rises. Data-dependent, it need not: where teachers
    agree, less noise makes the answer surer, and a sure answer says nothing of any one teacher.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        scale: The noise of `noisy_argmax`, finite and > 0, in votes.
        delta: Probability in (0, 1).
        mechanism: "gaussian" or "laplace".
        data_dependent: Whether the bound may depend on the votes; it is then private.
        orders: Rényi orders [k], finite and > 1.

    Returns:
        Epsilon in nats.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{epsilon([[200, 50]] * 100, 40.0, 1e-5):.3f}")
        0.605
    """
    arguments = (votes, scale, delta, mechanism, data_dependent)
    return float(epsilon_curve(*arguments, orders=orders)[-1])


def epsilon_curve(
    votes: ArrayLike,
    scale: float,
    delta: float,
    mechanism: str = "gaussian",
    data_dependent: bool = True,
    *,
    orders: ArrayLike = DEFAULT_ORDERS,
) -> FloatArray:
    """Gives `epsilon` of answering the first query, the first two, and so on.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        scale: The noise of `noisy_argmax`, finite and > 0, in votes.
        delta: Probability in (0, 1).
        mechanism: "gaussian" or "laplace".
        data_dependent: Whether the bound may depend on the votes; it is then private.
        orders: Rényi orders [k], finite and > 1.

    Returns:
        Epsilon in nats [q], never falling.

    Raises:
        InputError: An argument is outside its range.
    """
    alpha = accounting._orders(orders)
    total = np.cumsum(_query_rdp(votes, scale, alpha, mechanism, data_dependent), axis=0)
    spent = accounting.rdp_to_epsilon(total, alpha, delta)
    if mechanism == "laplace":
        spent = np.minimum(spent, np.arange(1, len(spent) + 1) * (2 / scale))
    return spent


def confident_rdp(
    votes: ArrayLike,
    threshold: float,
    threshold_scale: float,
    scale: float,
    orders: ArrayLike,
    data_dependent: bool = True,
    limit: int | None = None,
) -> FloatArray:
    """Bounds the Rényi divergence of `confident`: every check, and the answers that follow.

    Data-independent, a check costs alpha / (2 threshold_scale^2), because the largest count moves
    by at most one, and an answer alpha / scale^2. With q queries and a limit, q checks and `limit`
    answers are charged, which holds whichever queries turn out to be answered, because no run
    spends more (Feldman and Zrnic 2021, on privacy filters); without one, q answers are.

    Data-dependent, a query is one mechanism that refuses with probability r and else answers. A
    neighbour refuses with a probability r' that the largest count plus or minus one gives, so

        RDP(alpha) <= max over r' of log(r^alpha r'^(1-alpha) + (1-r)^alpha (1-r')^(1-alpha)
                      exp((alpha - 1) RDP of the answer)) / (alpha - 1).

    Refused and answered are both in it, each with its chance. It is never more than what Papernot
    et al. (2018) charge, Theorem 6 for the check and again for the answer: theirs bounds the
    divergence of the check that is computed here, and an answer that follows for sure. The total is
    the least of this and of the data-independent bound.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        threshold: Votes asked for, within [0, teachers].
        threshold_scale: Standard deviation of the check's noise, finite and > 0, in votes.
        scale: Standard deviation of the answer's noise, finite and > 0, in votes.
        orders: Rényi orders [k], finite and > 1.
        data_dependent: Whether the bound may depend on the votes; it is then private.
        limit: The limit that `confident` was given.

    Returns:
        RDP in nats [k].

    Raises:
        InputError: An argument is outside its range.
    """
    alpha = accounting._orders(orders)
    arguments = (threshold, threshold_scale, scale, alpha, data_dependent, limit)
    return _confident_total(votes, *arguments)[-1]


def confident_epsilon(
    votes: ArrayLike,
    threshold: float,
    threshold_scale: float,
    scale: float,
    delta: float,
    data_dependent: bool = True,
    limit: int | None = None,
    *,
    orders: ArrayLike = DEFAULT_ORDERS,
) -> float:
    """Gives epsilon of `confident`, from `confident_rdp`.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        threshold: Votes asked for, within [0, teachers].
        threshold_scale: Standard deviation of the check's noise, finite and > 0, in votes.
        scale: Standard deviation of the answer's noise, finite and > 0, in votes.
        delta: Probability in (0, 1).
        data_dependent: Whether the bound may depend on the votes; it is then private.
        limit: The limit that `confident` was given.
        orders: Rényi orders [k], finite and > 1.

    Returns:
        Epsilon in nats.

    Raises:
        InputError: An argument is outside its range.
    """
    arguments = (votes, threshold, threshold_scale, scale, delta, data_dependent, limit)
    return float(confident_epsilon_curve(*arguments, orders=orders)[-1])


def confident_epsilon_curve(
    votes: ArrayLike,
    threshold: float,
    threshold_scale: float,
    scale: float,
    delta: float,
    data_dependent: bool = True,
    limit: int | None = None,
    *,
    orders: ArrayLike = DEFAULT_ORDERS,
) -> FloatArray:
    """Gives `confident_epsilon` of the first query, the first two, and so on.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        threshold: Votes asked for, within [0, teachers].
        threshold_scale: Standard deviation of the check's noise, finite and > 0, in votes.
        scale: Standard deviation of the answer's noise, finite and > 0, in votes.
        delta: Probability in (0, 1).
        data_dependent: Whether the bound may depend on the votes; it is then private.
        limit: The limit that `confident` was given.
        orders: Rényi orders [k], finite and > 1.

    Returns:
        Epsilon in nats [q], never falling.

    Raises:
        InputError: An argument is outside its range.
    """
    alpha = accounting._orders(orders)
    arguments = (threshold, threshold_scale, scale, alpha, data_dependent, limit)
    return accounting.rdp_to_epsilon(_confident_total(votes, *arguments), alpha, delta)


def calibrate(
    target_epsilon: float, queries: int, delta: float, mechanism: str = "gaussian"
) -> float:
    """Finds the smallest scale of `noisy_argmax` whose data-independent epsilon is within a target.

    Args:
        target_epsilon: Epsilon to stay within, in nats, finite and > 0.
        queries: Number of queries to answer, >= 1.
        delta: Probability in (0, 1).
        mechanism: "gaussian" or "laplace".

    Returns:
        The scale in votes, from above to a relative 1e-9: its epsilon was evaluated and is at most
        the target.

    Raises:
        InputError: An argument is outside its range, or no scale up to MAX_SCALE reaches it.

    Example:
        >>> print(f"{calibrate(1.0, 100, 1e-5):.2f}")
        57.21
    """
    histograms.check_positive("target_epsilon", target_epsilon)
    histograms.check_count("queries", queries)
    histograms.check_mechanism(mechanism, _ANSWER)
    orders = np.array(DEFAULT_ORDERS)

    def spent(scale: float) -> float:
        by_rdp = accounting.rdp_to_epsilon(
            queries * _ANSWER[mechanism](scale, orders), orders, delta
        )
        return min(float(by_rdp), 2 * queries / scale if mechanism == "laplace" else math.inf)

    return _smallest(spent, target_epsilon)


def calibrate_confident(
    target_epsilon: float, queries: int, answers: int, delta: float, ratio: float = 2.0
) -> tuple[float, float]:
    """Finds the least noise of `confident` whose data-independent epsilon is within a target.

    Args:
        target_epsilon: Epsilon to stay within, in nats, finite and > 0.
        queries: Number of queries that are checked, >= 1.
        answers: The limit of answers that `confident` will be given, within 1..queries.
        delta: Probability in (0, 1).
        ratio: The check's noise over the answer's, finite and > 0.

    Returns:
        `threshold_scale` and `scale` in votes; their epsilon was evaluated and is at most the
        target.

    Raises:
        InputError: An argument is outside its range, or no scale up to MAX_SCALE reaches it.

    Example:
        >>> threshold_scale, scale = calibrate_confident(1.0, 1000, 100, 1e-5, ratio=3.0)
        >>> print(f"{threshold_scale:.1f} {scale:.1f}")
        214.1 71.4
    """
    histograms.check_positive("target_epsilon", target_epsilon)
    histograms.check_positive("ratio", ratio)
    histograms.check_count("queries", queries)
    histograms.check_count("answers", answers)
    if answers > queries:
        raise InputError(f"answers must be at most queries, {queries}, but it is {answers}.")
    orders = np.array(DEFAULT_ORDERS)

    def spent(scale: float) -> float:
        total = queries * _check(ratio * scale, orders) + answers * _gaussian(scale, orders)
        return float(accounting.rdp_to_epsilon(total, orders, delta))

    scale = _smallest(spent, target_epsilon)
    return ratio * scale, scale


def gnmax_log_q(gaps: ArrayLike, scale: float) -> FloatArray:
    """Bounds the log of the chance that GNMax does not answer the plurality's class.

    The union bound q = sum over the other classes of erfc(gap / (2 scale)) / 2, and 1 - 1/c if that
    is less, as the plurality's class is the likeliest: Papernot et al. (2018), Proposition 7.

    Args:
        gaps: Votes [..., c - 1] by which the largest count is above each other count, >= 0.
        scale: Standard deviation of the noise, in votes.

    Returns:
        log q [...], below 0.
    """
    gaps = np.asarray(gaps, dtype=np.float64)
    return _capped(special.log_ndtr(gaps / (-math.sqrt(2) * scale)))


def lnmax_log_q(gaps: ArrayLike, scale: float) -> FloatArray:
    """Bounds the log of the chance that LNMax does not answer the plurality's class.

    The union bound q = sum over the other classes of (2 + gap / b) exp(-gap / b) / 4, and 1 - 1/c
    if that is less: Papernot et al. (2017), Lemma 4, with gamma = 1 / b.

    Args:
        gaps: Votes [..., c - 1] by which the largest count is above each other count, >= 0.
        scale: The scale b of the noise, in votes.

    Returns:
        log q [...], below 0.
    """
    steps = np.asarray(gaps, dtype=np.float64) / scale
    return _capped(np.log((2 + steps) / 4) - steps)


def gnmax_rdp(log_q: ArrayLike, scale: float, orders: ArrayLike) -> FloatArray:
    """Bounds one GNMax answer whose chance of not being the plurality's is at most q.

    Papernot et al. (2018), Theorem 6, at the two orders of their Proposition 10, mu1 = mu2 + 1 and
    mu2 = u = scale sqrt(log(1/q)), which minimise both of its terms. With RDP(mu) = mu / scale^2
    and k = alpha - 1 the theorem's A and B are then

        q = exp(-u^2 / scale^2), A = (1 - q) / (1 - exp(-(u - 1)^2 / scale^2)),
        q B^k = exp((k (k + 1) - (u - k)^2) / scale^2),
        RDP(alpha) <= log((1 - q) A^k + q B^k) / k

    wherever u > 1, k <= u and log((u + 1) / (u - 1)) <= (2 u - 1) / scale^2; elsewhere, and
    wherever it is lower, the bound is alpha / scale^2. Once those conditions hold they hold for
    every smaller q, and where the first bound is the lower one, B >= A and it rises with q (the
    argument of their Lemma 9). So the least of both never falls as q rises, and q may be replaced
    by anything above it.

    Args:
        log_q: log q, any shape, at most 0, -inf included.
        scale: Standard deviation of the noise, in votes.
        orders: Rényi orders [k], > 1.

    Returns:
        RDP in nats [..., k].
    """
    alpha = np.asarray(orders, dtype=np.float64)
    k, log_q = alpha - 1, np.asarray(log_q, dtype=np.float64)[..., None]
    u = scale * np.sqrt(-log_q)
    independent = np.broadcast_to(_gaussian(scale, alpha), np.broadcast(u, alpha).shape)
    # Where it does not apply, u = inf gives numbers that are not used.
    applies = (u > 1) & (2 * np.arctanh(1 / np.maximum(u, 1.0 + 1e-9)) <= (2 * u - 1) / scale**2)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        log_r = -(((u - 1) / scale) ** 2)
        likely = alpha * _log1mexp(log_q) - k * _log1mexp(log_r)
        unlikely = (k * alpha - (u - k) ** 2) / scale**2
        dependent = _log_add(likely, unlikely) / k
    valid = applies & (k <= u) & ~np.isnan(dependent)
    return np.minimum(independent, np.where(valid, np.maximum(dependent, 0.0), np.inf))


def lnmax_rdp(log_q: ArrayLike, scale: float, orders: ArrayLike) -> FloatArray:
    """Bounds one LNMax answer whose chance of not being the plurality's is at most q.

    Papernot et al. (2017), Theorem 3, with the moment l = alpha - 1 and epsilon = 2 / scale: where
    q < 1 / (1 + exp(epsilon)),

        RDP(alpha) <= log((1 - q) ((1 - q) / (1 - exp(epsilon) q))^l + q exp(epsilon l)) / l;

    elsewhere, and wherever it is lower, the bound is that of randomised response.

    Args:
        log_q: log q, any shape, at most 0, -inf included.
        scale: The scale b of the noise, in votes.
        orders: Rényi orders [k], > 1.

    Returns:
        RDP in nats [..., k].
    """
    alpha, pure = np.asarray(orders, dtype=np.float64), 2 / scale
    k, log_q = alpha - 1, np.asarray(log_q, dtype=np.float64)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        likely = alpha * _log1mexp(log_q) - k * _log1mexp(np.minimum(log_q + pure, 0.0))
        dependent = _log_add(likely, log_q + pure * k) / k
    valid = (log_q < -np.logaddexp(0.0, pure)) & ~np.isnan(dependent)
    return np.minimum(_laplace(scale, alpha), np.where(valid, np.maximum(dependent, 0.0), np.inf))


def _gaussian(scale: float, orders: FloatArray) -> FloatArray:
    """One GNMax answer, data-independent [k]."""
    return orders / scale**2


def _laplace(scale: float, orders: FloatArray) -> FloatArray:
    """One LNMax answer, data-independent [k]: log(cosh((alpha - 1/2) e) / cosh(e / 2)) / k."""
    pure, k = 2 / scale, orders - 1
    # The difference of the two cosines is a product, which keeps the digits where they are close.
    small = np.minimum(pure * orders / 2, 1.0)
    product = 2 * np.sinh(small) * np.sinh(small * k / orders) / np.cosh(min(pure / 2, 1.0))
    apart = _log_cosh((orders - 0.5) * pure) - _log_cosh(pure / 2)
    return np.minimum(np.where(pure * orders < 2, np.log1p(product), apart) / k, pure)


def _check(threshold_scale: float, orders: FloatArray) -> FloatArray:
    """One check of Confident GNMax, data-independent [k]."""
    return orders / (2 * threshold_scale**2)


_ANSWER: dict[str, Callable[[float, FloatArray], FloatArray]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
}


def _query_rdp(
    votes: ArrayLike, scale: float, orders: FloatArray, mechanism: str, data_dependent: bool
) -> FloatArray:
    """RDP of each query [q, k]."""
    histograms.check_mechanism(mechanism, _ANSWER)
    histograms.check_positive("scale", scale)
    gaps = gaps_of(histograms.checked(votes))
    if not data_dependent:
        return np.tile(_ANSWER[mechanism](scale, orders), (len(gaps), 1))
    if mechanism == "laplace":
        return lnmax_rdp(lnmax_log_q(gaps, scale), scale, orders)
    return gnmax_rdp(gnmax_log_q(gaps, scale), scale, orders)


def _confident_total(
    votes: ArrayLike,
    threshold: float,
    threshold_scale: float,
    scale: float,
    orders: FloatArray,
    data_dependent: bool,
    limit: int | None,
) -> FloatArray:
    """RDP of the first query, the first two, and so on [q, k]."""
    counts = histograms.checked(votes)
    histograms.check_positive("threshold_scale", threshold_scale)
    histograms.check_positive("scale", scale)
    histograms.check_threshold(threshold, int(counts[0].sum()))
    if limit is not None:
        histograms.check_count("limit", limit)
    checks = np.arange(1, len(counts) + 1)[:, None]
    answers = checks if limit is None else np.minimum(checks, limit)
    total = checks * _check(threshold_scale, orders) + answers * _gaussian(scale, orders)
    if data_dependent:
        answer = gnmax_rdp(gnmax_log_q(gaps_of(counts), scale), scale, orders)
        margin = (counts.max(axis=1) - threshold) / threshold_scale
        query = _confident_query_rdp(margin, 1 / threshold_scale, answer, orders)
        total = np.minimum(total, np.cumsum(query, axis=0))
    return total


def _confident_query_rdp(
    margin: FloatArray, step: float, answer: FloatArray, orders: FloatArray
) -> FloatArray:
    """RDP [q, k] of a check that passes with chance ndtr(margin) [q] and then costs `answer`."""
    k, margin = orders - 1, margin[:, None]
    result = np.zeros_like(answer)
    for moved in (margin - step, margin + step):
        refuses = orders * special.log_ndtr(-margin) - k * special.log_ndtr(-moved)
        passes = orders * special.log_ndtr(margin) - k * special.log_ndtr(moved)
        result = np.maximum(result, _log_add(refuses, passes + k * answer) / k)
    return result


def gaps_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns how far each other count is below the largest.

    Args:
        counts: Votes [q, c].

    Returns:
        Gaps [q, c - 1], ascending.
    """
    ordered = np.sort(counts, axis=1)[:, ::-1]
    return ordered[:, :1] - ordered[:, 1:]


def _capped(log_chances: FloatArray) -> FloatArray:
    """Log of the sum of chances [..., c - 1], at most 1 - 1/c."""
    others = log_chances.shape[-1]
    return np.minimum(special.logsumexp(log_chances, axis=-1), -math.log1p(1 / others))


def _log_add(a: FloatArray, b: FloatArray) -> FloatArray:
    """log(exp(a) + exp(b)), precise also where the sum is close to 1."""
    high, low = np.maximum(a, b), np.minimum(a, b)
    near_one = np.log1p(np.expm1(np.minimum(high, 1.0)) + np.exp(np.minimum(low, 1.0)))
    return np.where(high < 1, near_one, np.logaddexp(high, low))


def _log1mexp(x: FloatArray) -> FloatArray:
    """log(1 - exp(x)) for x <= 0."""
    x = np.asarray(x, dtype=np.float64)
    near = np.log(-np.expm1(np.maximum(x, -1.0)))
    return np.where(x > -1, near, np.log1p(-np.exp(x)))


def _log_cosh(x: FloatArray | float) -> FloatArray:
    return np.logaddexp(x, np.negative(x)) - math.log(2)


def _smallest(spent: Callable[[float], float], target: float) -> float:
    """The smallest scale whose epsilon, which falls with it, is at most the target."""
    high = 1.0
    while spent(high) > target:
        high *= 2
        if high > MAX_SCALE:
            raise InputError(
                f"target_epsilon {target:g} is out of reach of any scale up to {MAX_SCALE:g}: "
                "raise target_epsilon or delta, or ask fewer queries."
            )
    low = high / 2
    while spent(low) <= target:
        low, high = low / 2, low
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= target else (middle, high)
    return high
