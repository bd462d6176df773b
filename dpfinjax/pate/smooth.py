"""The data-dependent cost of GNMax as a number that may be published: smooth sensitivity.

The data-dependent bound f(D) of `analysis.rdp` at one order depends on the private votes. Papernot
et al. (2018) publish it with Gaussian noise in proportion to a smooth upper bound S(D) of its
sensitivity (Nissim, Raskhodnikova and Smith 2007, Definition 2.1): S(D) is at least |f(D) - f(D')|
and at most exp(beta) S(D') for all neighbours D'.

One move is one teacher's vote going to another class. Neighbours differ by at most one move in each
query, so a sum over queries of what d moves in each can do bounds f. For one query:

1. The bound depends on the votes through q alone and never falls as q rises (`analysis.gnmax_rdp`).
   So with d moves it stays between its values at the least and the largest q within d moves. These
   are found one vote at a time, as in the algorithms of Papernot et al. (2018), appendix B: votes
   come to the plurality from whichever other class has most, or go to the second class. As erfc is
   convex where gaps are >= 0, each is the best use of the moves; once the second class may be
   level with the first, q counts as its cap, 1 - 1/c.
2. Let the effective gap g of a histogram be the one that c - 1 equal gaps would have to give its q:
   q = (c - 1) erfc(g / (2 sigma)) / 2. One move changes g by at most 2. This is the bound B_U and
   B_L of the same appendix: a move changes each gap by at most 2, and erfc(erfcinv(y) -+ 1 / sigma)
   is concave (convex) in y, so that by Jensen's inequality equal gaps are the extreme case.
3. So a move that starts within d moves changes the bound by no more than its largest drop over a
   stretch of g of length 2 in the range that step 1 gives, and by no more than its whole range
   within d + 1 moves. The least of the two is the sensitivity at distance d.

The drop of step 3 is bounded cell by cell on a grid of g, from values at the ends of cells. It
needs no conditions on the shape of the bound, where Papernot et al. (2018) ask for two more (their
C5 and C6) that are to be checked for each sigma, order and number of classes.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dpfinjax import accounting, noise
from dpfinjax.errors import InputError
from dpfinjax.pate import analysis, histograms

FloatArray = NDArray[np.float64]

_CELLS_PER_VOTE = 32


class Release(NamedTuple):
    """The data-dependent epsilon of GNMax, as it is and as it may be published.

    Attributes:
        private_epsilon: Epsilon from the data-dependent bound at the order of the release. It
            depends on the votes without protection: do not publish it.
        epsilon: Epsilon of the answers and of this number together, from the noisy bound or, where
            that is lower, from the data-independent one: this one may be published.
        independent_epsilon: The data-independent epsilon of the answers alone, at its own best
            order: what may be published where nothing else is.
        release_rdp: What publishing costs at `order`, in nats; `epsilon` has it in it.
        smooth_sensitivity: S in nats. It depends on the votes: do not publish it.
        order: The Rényi order.
        failure_probability: The chance that noise makes `epsilon` less than the votes have it.
    """

    private_epsilon: float
    epsilon: float
    independent_epsilon: float
    release_rdp: float
    smooth_sensitivity: float
    order: float
    failure_probability: float


def release(
    key: jax.Array,
    votes: ArrayLike,
    scale: float,
    delta: float,
    order: float,
    *,
    release_scale: float = 5.0,
    beta: float | None = None,
    failure_probability: float = 0.01,
) -> Release:
    """Publishes the data-dependent epsilon of GNMax by noise in proportion to smooth sensitivity.

    With z the normal quantile of 1 - failure_probability, the RDP that is published is

        f + S release_scale (z + N(0, 1)) + release_rdp(...),

    Papernot et al. (2018), Gaussian noise with smooth sensitivity, raised by z standard deviations
    so that it is an upper bound and not an estimate that is too low half of the time. All
    parameters must be chosen without a look at the votes. As one teacher votes in all queries, S is
    of use only where teachers are many for the number of queries and the noise of the answers;
    elsewhere the data-independent epsilon is what remains.

    Args:
        key: A JAX random key, used for nothing else.
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        scale: Standard deviation of the noise of the answers, finite and > 0, in votes.
        delta: Probability in (0, 1).
        order: The Rényi order, finite and > 1; at delta 1e-5, 15 to 30 serves epsilons about 1.
        release_scale: Standard deviation of the noise of the release over S, finite and > 0.
        beta: Smoothness per move, > 0 and below log(1 + 1 / (order - 1)) / 2; by default 0.2 /
            order.
        failure_probability: In (0, 1).

    Returns:
        What may and what may not be published, each by its name.

    Raises:
        InputError: An argument is outside its range.
    """
    beta = 0.2 / order if beta is None else beta
    cost = release_rdp(order, beta, release_scale, failure_probability)
    sensitivity = smooth_sensitivity(votes, scale, order, beta)
    bound = float(analysis.rdp(votes, scale, [order])[0])
    lift = float(special.ndtri(1 - failure_probability)) + float(noise.normals(key, 1)[0])
    noisy = max(bound + sensitivity * release_scale * lift, 0.0) + cost
    at_order = [float(accounting.rdp_to_epsilon([x], [order], delta)) for x in (bound, noisy)]
    orders = np.array(accounting.DEFAULT_ORDERS)
    independent = analysis.rdp(votes, scale, orders, data_dependent=False)
    both = independent + _release_rdp(orders, beta, release_scale, failure_probability)
    return Release(
        private_epsilon=at_order[0],
        epsilon=min(at_order[1], float(accounting.rdp_to_epsilon(both, orders, delta))),
        independent_epsilon=float(accounting.rdp_to_epsilon(independent, orders, delta)),
        release_rdp=cost,
        smooth_sensitivity=sensitivity,
        order=order,
        failure_probability=failure_probability,
    )


def release_rdp(
    order: float, beta: float, release_scale: float, failure_probability: float
) -> float:
    """Gives what publishing f + S s (z + N(0, 1)) costs at one Rényi order.

    With S smooth at beta, s = release_scale and k = order - 1, neighbours publish normal numbers
    whose standard deviations differ by a factor exp(t), |t| <= beta, and whose means differ by at
    most the least S and s z times the difference of both S. The divergence of normal numbers (van
    Erven and Harremoës 2014, equation 10) is then largest where the standard deviation falls by
    exp(-beta), and with d = 1 - k (exp(2 beta) - 1), which must be above 0, it is

        order (1 + s z (exp(beta) - 1))^2 / (2 s^2 d) - beta - log(d) / (2 k).

    This is the mechanism of Papernot et al. (2018), Theorem 23, with its divergence computed
    instead of bounded.

    Args:
        order: The Rényi order, finite and > 1.
        beta: Smoothness per move, > 0 and below log(1 + 1 / (order - 1)) / 2.
        release_scale: Standard deviation of the noise over S, finite and > 0.
        failure_probability: In (0, 1); z is the normal quantile of its complement.

    Returns:
        RDP in nats.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{release_rdp(20.0, 0.01, 10.0, 0.5):.3f}")
        0.165
    """
    orders = accounting._orders([order])
    accounting._probability("failure_probability", failure_probability)
    histograms.check_positive("beta", beta)
    histograms.check_positive("release_scale", release_scale)
    cost = float(_release_rdp(orders, beta, release_scale, failure_probability)[0])
    if math.isinf(cost):
        most = math.log1p(1 / (order - 1)) / 2
        raise InputError(f"beta must be below {most:g} at order {order:g}, but it is {beta:g}.")
    return cost


def smooth_sensitivity(votes: ArrayLike, scale: float, order: float, beta: float) -> float:
    """Bounds the sensitivity of the data-dependent RDP of GNMax at one order, smoothly.

    S = max over d >= 0 of exp(-beta d) times the sum over queries of the sensitivity at distance d:
    Nissim, Raskhodnikova and Smith (2007), Claim 3.2, with `local_sensitivity`.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        scale: Standard deviation of the noise of the answers, finite and > 0, in votes.
        order: The Rényi order, finite and > 1.
        beta: Smoothness per move, finite and > 0.

    Returns:
        S in nats. It depends on the votes and is private.

    Raises:
        InputError: An argument is outside its range.
    """
    histograms.check_positive("beta", beta)
    total = local_sensitivity(votes, scale, order).sum(axis=0)
    return float((total * np.exp(-beta * np.arange(total.size))).max())


def local_sensitivity(votes: ArrayLike, scale: float, order: float) -> FloatArray:
    """Bounds what one move can do to each query's RDP after d other moves.

    Args:
        votes: Whole numbers [q, c], c >= 2, with rows of equal sums.
        scale: Standard deviation of the noise of the answers, finite and > 0, in votes.
        order: The Rényi order, finite and > 1.

    Returns:
        Nats [q, teachers + 1] for d = 0..teachers; beyond, the last column holds.

    Raises:
        InputError: An argument is outside its range.
    """
    histograms.check_positive("scale", scale)
    orders = accounting._orders([order])
    counts = histograms.checked(votes)
    teachers, others = int(counts[0].sum()), counts.shape[1] - 1
    least, largest = _reach(counts, scale, teachers + 1)
    low, high = (analysis.gnmax_rdp(x, scale, orders)[..., 0] for x in (least, largest))
    drops = _drops(teachers, others, scale, orders)
    start = _cell(_effective_gap(largest[:, :-1], others, scale), others, scale) - 1
    end = _cell(_effective_gap(least[:, :-1], others, scale) + 2, others, scale) + 1
    of_a_move = _range_max(drops, start, end)
    return np.minimum(of_a_move, high[:, 1:] - low[:, 1:])


def _release_rdp(
    orders: FloatArray, beta: float, release_scale: float, failure_probability: float
) -> FloatArray:
    """`release_rdp` at each order [k], inf where beta is too large for it."""
    k = orders - 1
    d = 1 - k * math.expm1(2 * min(beta, 300.0))
    lift = abs(float(special.ndtri(failure_probability))) * release_scale
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = orders * (1 + lift * math.expm1(min(beta, 300.0))) ** 2 / (2 * release_scale**2 * d)
        return np.where(d > 0, mean - beta - np.log(d) / (2 * k), np.inf)


def _reach(counts: NDArray[np.int64], scale: float, moves: int) -> tuple[FloatArray, FloatArray]:
    """The least and the largest log q within 0..moves moves, each [q, moves + 1]."""
    gaps, others = analysis.gaps_of(counts), counts.shape[1] - 1
    cap = -math.log1p(1 / others)
    least, largest = np.empty((2, len(gaps), moves + 1))
    first, rest = counts.max(axis=1), counts.max(axis=1)[:, None] - gaps
    for d in range(moves + 1):
        least[:, d] = analysis.gnmax_log_q(first[:, None] - rest, scale)
        fewer = gaps - d
        fewer[:, 0] -= d
        level = fewer[:, 0] < 0
        largest[:, d] = np.where(level, cap, analysis.gnmax_log_q(np.maximum(fewer, 0), scale))
        second = rest.argmax(axis=1)
        comes = np.take_along_axis(rest, second[:, None], axis=1)[:, 0] > 0
        rest[np.arange(len(rest)), second] -= comes
        first = first + comes
    return least, largest


def _effective_gap(log_q: FloatArray, others: int, scale: float) -> FloatArray:
    """The gap g with q = others * erfc(g / (2 scale)) / 2."""
    return -math.sqrt(2) * scale * special.ndtri_exp(log_q - math.log(others))


def _least_gap(others: int, scale: float) -> float:
    """The effective gap of q = 1 - 1/c."""
    return float(_effective_gap(np.array(-math.log1p(1 / others)), others, scale))


def _cell(gap: FloatArray, others: int, scale: float) -> NDArray[np.int64]:
    """The number of the grid's cell that holds an effective gap."""
    return np.floor((gap - _least_gap(others, scale)) * _CELLS_PER_VOTE).astype(np.int64)


def _drops(teachers: int, others: int, scale: float, orders: FloatArray) -> FloatArray:
    """Bounds, for each cell, the drop of the RDP over any stretch of length 2 that ends in it."""
    cells = (teachers + 4) * _CELLS_PER_VOTE
    gaps = _least_gap(others, scale) + np.arange(cells + 1) / _CELLS_PER_VOTE
    log_q = analysis.gnmax_log_q(np.repeat(gaps[:, None], others, axis=1), scale)
    bound = analysis.gnmax_rdp(log_q, scale, orders)[:, 0]
    start = np.maximum(np.arange(cells) - 2 * _CELLS_PER_VOTE, 0)
    return bound[start] - bound[1:]


def _range_max(values: FloatArray, start: NDArray[np.int64], end: NDArray[np.int64]) -> FloatArray:
    """The largest of values[start..end], ends included, from maxima over powers of two."""
    start, end = np.clip(start, 0, values.size - 1), np.clip(end, 0, values.size - 1)
    table, width = [values], 1
    while 2 * width <= values.size:
        previous = table[-1]
        longer = np.full(values.size, -np.inf)
        longer[: values.size - width] = np.maximum(previous[:-width], previous[width:])
        table.append(longer)
        width *= 2
    level = np.frexp(end - start + 1)[1] - 1
    stacked = np.stack(table)
    return np.maximum(stacked[level, start], stacked[level, end + 1 - (1 << level)])
