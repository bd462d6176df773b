"""Lower bounds on epsilon from attacks that succeeded, and the upper bound that a proof gives.

An audit takes scores of canaries, which are higher for those that a model was trained on, and tells
how large epsilon must be for the scores to be as they are. Its answer is wrong, that is above the
true epsilon, with probability at most 1 - confidence. Equal scores are put in an order by chance,
from a fixed seed, so that an answer never depends on the order of the arguments.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from dpfinjax.attacks import checks
from dpfinjax.attacks.checks import BoolArray, FloatArray
from dpfinjax.attacks.metrics import clopper_pearson
from dpfinjax.errors import InputError

BOUNDS = ("clopper-pearson", "gaussian")

_TIE_SEED = 0x7469E5
# one_run: the share of canaries on which it guesses, and the fewest that can prove anything.
_SHARES = (1.0, 0.25, 0.0625)
_LEAST_GUESSES = 8
# Steps in which epsilon or mu is raised until it is not refuted, and points of an integral.
_CELL = 0.25
_POINTS = 1000


def one_run(
    scores: ArrayLike, included: ArrayLike, delta: float, confidence: float = 0.95
) -> float:
    """Bounds epsilon from below by one training with many canaries.

    Steinke, Nasr and Jagielski (2023), Theorem 5.2 and Corollary 5.4. Each of c canaries was in the
    training data by a fair coin of its own. Of r guesses, r/2 say "in" for the highest scores and
    r/2 "out" for the lowest; the other canaries are abstained from. An (epsilon, delta)-private
    training makes v of them right with probability at most

        f(v) + 2 c delta max_i (f(v - i) - f(v)) / i,   f(v) = P[Binomial(r, q) >= v],

    q = 1 / (1 + exp(-epsilon)). The bound is the least epsilon at which this is not below the level
    1 - confidence. The numbers of guesses are fixed before the scores are looked at: all c
    canaries, a quarter and a sixteenth of them. Each is tested at an equal part of the level and
    the largest bound is given, which keeps the level by the union bound.

    Args:
        scores: Finite scores of the canaries [c], higher where the model seems to know one.
        included: bool [c], the coins.
        delta: Probability in (0, 1).
        confidence: Probability in (0, 1) with which the bound holds, at least.

    Returns:
        A lower bound on epsilon in nats, 0 where nothing can be concluded.

    Raises:
        InputError: A shape, a type or a value is wrong.

    Example:
        >>> included = np.arange(1000) % 2 == 0
        >>> print(f"{one_run(included + 0.0, included, 1e-5):.2f}")
        5.45
    """
    values = checks.finite("scores", scores)
    coins = checks.flags("included", included, values.shape)
    checks.within_0_1("delta", delta)
    checks.within_0_1("confidence", confidence)
    ordered = coins[np.argsort(_ranks(values))]
    numbers = {int(share * coins.size) for share in _SHARES}
    guesses = [number for number in numbers if number >= _LEAST_GUESSES]
    level = (1 - confidence) / max(1, len(guesses))
    return max(
        (_one_run_bound(coins.size, r, _right(ordered, r), delta, level) for r in guesses),
        default=0.0,
    )


def many_runs(
    scores_in: ArrayLike,
    scores_out: ArrayLike,
    delta: float,
    confidence: float = 0.95,
    bound: str = "clopper-pearson",
) -> float:
    """Bounds epsilon from below by many trainings with a canary and many without.

    A threshold that is the (j+1)-th largest score without the canary has a false-positive rate that
    is Beta(j + 1, n - j) distributed, whatever the distribution of scores, and independent of the
    scores with the canary. So thresholds are chosen by rank, no runs are spent on choosing them,
    and no look at the data is left uncounted.

    "clopper-pearson", Nasr et al. (2021): upper ends of both error rates, at j = 0, 3, 15, 63, ...
    false positives and likewise false negatives, each at an equal part of the level; then epsilon
    >= log((1 - delta - FNR) / FPR), and the same with the rates exchanged.

    "gaussian", in the spirit of Nasr et al. (2023): what mu of Gaussian differential privacy (Dong,
    Roth and Su 2022) the runs refute, turned into epsilon by `gaussian_epsilon`. Under mu-GDP a
    test with false-positive rate u has a false-negative rate of at least Phi(Phi^-1(1 - u) - mu).
    Averaged over the Beta distribution of u this bounds the chance of as few false negatives as
    there were; mu is refuted where it is below the level. For mu the rank is that of mu / 2 among
    scores with the canary absent, the best threshold between two Gaussians. It depends on mu and
    not on the scores, so nothing is to be corrected. The bound is for mechanisms that are Gaussian
    or nearly: the epsilon is that of mu-GDP, not of any mechanism with such error rates.

    Args:
        scores_in: Finite scores of trainings with the canary [n], one a training, independent.
        scores_out: Finite scores of trainings without it [k], likewise.
        delta: Probability in (0, 1).
        confidence: Probability in (0, 1) with which the bound holds, at least.
        bound: "clopper-pearson" or "gaussian".

    Returns:
        A lower bound on epsilon in nats, 0 where nothing can be concluded.

    Raises:
        InputError: A shape, a type or a value is wrong.

    Example:
        >>> out = special.ndtri((np.arange(500) + 0.5) / 500)
        >>> both = [many_runs(out + 3, out, 1e-5, bound=bound) for bound in BOUNDS]
        >>> print(f"{both[0]:.2f} and {both[1]:.2f} of {gaussian_epsilon(3.0, 1e-5):.2f}")
        3.56 and 15.15 of 16.68
    """
    inside, outside = checks.finite("scores_in", scores_in), checks.finite("scores_out", scores_out)
    checks.within_0_1("delta", delta)
    checks.within_0_1("confidence", confidence)
    checks.one_of("bound", bound, BOUNDS)
    ranks = _ranks(np.concatenate([inside, outside]))
    inside, outside = ranks[: inside.size], ranks[inside.size :]
    if bound == "gaussian":
        return gaussian_epsilon(_mu_bound(inside, outside, 1 - confidence), delta)
    return _clopper_pearson_bound(inside, outside, delta, 1 - confidence)


def upper_tpr(epsilon: ArrayLike, delta: ArrayLike, fpr: ArrayLike) -> FloatArray:
    """Bounds the true-positive rate of any attack on an (epsilon, delta)-private training.

    TPR <= min(exp(epsilon) FPR + delta, 1 - exp(-epsilon) (1 - delta - FPR)), Kairouz, Oh and
    Viswanath (2015), Theorem 2.1.

    Args:
        epsilon: Nats, >= 0, inf where nothing is promised, any shape.
        delta: Probability in [0, 1], any shape.
        fpr: False-positive rate in [0, 1], any shape.

    Returns:
        The largest true-positive rate, of the broadcast shape.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{upper_tpr(1.0, 1e-5, 0.01):.4f}")
        0.0272
    """
    e, d, f = (np.asarray(x, dtype=np.float64) for x in (epsilon, delta, fpr))
    if not (e >= 0).all():
        raise InputError("epsilon must be at least 0.")
    for name, values in (("delta", d), ("fpr", f)):
        if not ((values >= 0) & (values <= 1)).all():
            raise InputError(f"{name} must be within [0, 1].")
    with np.errstate(over="ignore", invalid="ignore"):
        steep = np.where(np.isinf(e), 1.0, np.where(f > 0, np.exp(e) * f, 0.0) + d)
    return np.clip(np.minimum(steep, 1 - np.exp(-e) * (1 - d - f)), 0.0, 1.0)[()]


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Gives the epsilon of mu-Gaussian differential privacy.

    The root of delta = Phi(mu / 2 - epsilon / mu) - exp(epsilon) Phi(-mu / 2 - epsilon / mu), Dong,
    Roth and Su (2022), Corollary 1.

    Args:
        mu: Sensitivity over noise, finite and >= 0.
        delta: Probability in (0, 1).

    Returns:
        Epsilon in nats, 0 where mu alone is already within delta.

    Raises:
        InputError: An argument is outside its range.

    Example:
        >>> print(f"{gaussian_epsilon(1.0, 1e-5):.3f}")
        4.377
    """
    checks.within_0_1("delta", delta)
    if not 0 <= mu < math.inf:
        raise InputError(f"mu must be finite and at least 0, but it is {mu}.")

    def excess(epsilon: float) -> float:
        low, high = special.log_ndtr([-mu / 2 - epsilon / mu, mu / 2 - epsilon / mu])
        return math.exp(high) - math.exp(epsilon + low) - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    # Here the first term alone is delta.
    highest = mu * (mu / 2 - float(special.ndtri(delta)))
    return float(optimize.brentq(excess, 0.0, highest, xtol=1e-10))


def _ranks(scores: FloatArray) -> FloatArray:
    """Ranks 0 .. n-1, ascending; equal scores are in an order that knows nothing of them."""
    chance = np.random.default_rng(_TIE_SEED).permutation(scores.size)
    ranks = np.empty(scores.size)
    ranks[np.lexsort((chance, scores))] = np.arange(scores.size)
    return ranks


def _right(ordered: BoolArray, guesses: int) -> int:
    """How many guesses are right, for the coins in ascending order of their scores."""
    out = guesses // 2
    positive = guesses - out
    return int(np.sum(~ordered[:out]) + np.sum(ordered[ordered.size - positive :]))


def _one_run_bound(canaries: int, guesses: int, right: int, delta: float, level: float) -> float:
    """The least epsilon that `right` of `guesses` do not refute."""

    def p_value(epsilon: float) -> float:
        return _one_run_p_value(canaries, guesses, right, epsilon, delta)

    start = 0.0
    while p_value(start + _CELL) < level:
        start += _CELL
    return _bisect(p_value, level, start, start + _CELL)


def _one_run_p_value(
    canaries: int, guesses: int, right: int, epsilon: float, delta: float
) -> float:
    """The chance of so many right guesses under (epsilon, delta), or a bound of it."""
    fewer = np.arange(1, right + 1)
    chances = np.exp(_log_binomial(guesses, right - fewer, epsilon))
    steepest = np.max(np.cumsum(chances) / fewer, initial=0.0)
    as_many = special.bdtrc(right - 1, guesses, special.expit(epsilon))
    return float(as_many + 2 * canaries * delta * steepest)


def _log_binomial(n: int, k: NDArray[np.int64], log_odds: float) -> FloatArray:
    """Log of the chance of k successes in n, each of given log-odds."""
    ways = -special.betaln(k + 1, n - k + 1) - math.log(n + 1)
    return ways + k * special.log_expit(log_odds) + (n - k) * special.log_expit(-log_odds)


def _bisect(p_value: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where a rising p-value reaches the level, from below to 1e-4; `low` if it does already."""
    if p_value(low) >= level:
        return low
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) < level else (low, middle)
    return low


def _clopper_pearson_bound(
    inside: FloatArray, outside: FloatArray, delta: float, level: float
) -> float:
    """The best of both directions and all thresholds, for scores without ties."""
    ranks = [_error_numbers(outside.size), _error_numbers(inside.size)]
    each = level / (2 * sum(map(len, ranks)))
    rates = np.concatenate(
        [
            _error_rates(outside, inside, ranks[0], each),
            _error_rates(-inside, -outside, ranks[1], each),
        ]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log(np.maximum(1 - delta - rates, 0) / rates[:, ::-1])
    return max(0.0, float(ratios.max()))


def _error_numbers(runs: int) -> NDArray[np.int64]:
    """Numbers of errors 0, 3, 15, ... below half of the runs, or 0 alone."""
    numbers = 4 ** np.arange(1 + math.ceil(math.log(runs, 4))) - 1
    return numbers[numbers < runs / 2]


def _error_rates(
    first: FloatArray, second: FloatArray, errors: NDArray[np.int64], level: float
) -> FloatArray:
    """Upper ends of two error rates [t, 2] at thresholds with given errors on the first scores."""
    thresholds = np.sort(first)[::-1][errors]
    missed = np.searchsorted(np.sort(second), thresholds)
    upper = [
        clopper_pearson(count, scores.size, 1 - 2 * level)[1]
        for count, scores in ((errors, first), (missed, second))
    ]
    return np.stack(upper, axis=1)


def _mu_bound(inside: FloatArray, outside: FloatArray, level: float) -> float:
    """The least mu that is not refuted, for scores without ties."""
    descending, ascending = np.sort(outside)[::-1], np.sort(inside)
    start = 0.0
    while True:
        # In a cell the threshold is one, so its p-value rises with mu: no gap can be overlooked.
        errors = int(outside.size * special.ndtr(-(start + _CELL / 2) / 2))
        missed = int(np.searchsorted(ascending, descending[errors]))
        p_value = _mu_test(errors, missed, inside.size, outside.size)
        if p_value(start + _CELL) >= level:
            return _bisect(p_value, level, start, start + _CELL)
        start += _CELL


def _mu_test(errors: int, missed: int, runs_in: int, runs_out: int) -> Callable[[float], float]:
    """The chance of so few false negatives as a function of mu, or a bound of it within 0.001."""
    # Right ends of steps, where the integrand is largest.
    steps = np.arange(1, _POINTS + 1) / _POINTS
    fpr = special.betaincinv(errors + 1, runs_out - errors, steps)
    thresholds = -special.ndtri(fpr)
    return lambda mu: float(np.mean(special.bdtr(missed, runs_in, special.ndtr(thresholds - mu))))
