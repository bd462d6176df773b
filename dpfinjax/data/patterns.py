"""The eight candlestick patterns, found without looking ahead.

The rules are those of Chen and Tsai (2020), "Encoding candlesticks as images for pattern
classification using convolutional neural networks", Financial Innovation 6:26, with one change: the
trend threshold is taken over a trailing window, so that no label depends on a later bar.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from dpfinjax.errors import InputError

PATTERNS = (
    "evening star",
    "morning star",
    "bearish engulfing",
    "bullish engulfing",
    "shooting star",
    "inverted hammer",
    "bearish harami",
    "bullish harami",
)
"""The names of the patterns, in label order: an even label starts in an uptrend."""

PATTERN_BARS = 3
"""Bars of the longest pattern."""

RANK_BARS = 51
"""Bars over which bodies and shadows are ranked, the bar itself included."""

TREND_BARS = 7
"""Closes through which the trend line is laid."""

THRESHOLD_BARS = 1441
"""Trends whose lower quartile is the threshold: a day of minutes, and 4 k + 1 so that it is one."""

LOOKBACK_BARS = PATTERN_BARS + THRESHOLD_BARS + TREND_BARS - 1
"""Bars with close != open that a star's label rests on, its last bar included."""

_LONG = 65
_SHORT = 35


class _Candles(NamedTuple):
    """Bars none of which has close == open, as the rules see them."""

    open: np.ndarray
    close: np.ndarray
    body: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


def detect(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray) -> np.ndarray:
    """Labels every bar on which a pattern ends.

    Bars with `close == open` are dropped first; they are never part of a pattern. Percentile ranks
    of a body or a shadow are taken over the trailing `RANK_BARS` bars, ties averaged:
    `50 (#less + #less-or-equal + 1) / RANK_BARS`. The trend is the least-squares slope of the last
    `TREND_BARS` closes over the close: up where it is at least t, else down where it is at most -t,
    else none, where t is the lower quartile of its absolute value over the trailing
    `THRESHOLD_BARS` bars. Chen and Tsai (2020) give the rules, which exclude each other: two
    patterns never end on one bar.

    The labels of the first n bars do not change when bars are appended. A label rests on at most
    the last `LOOKBACK_BARS` bars that moved, so the first bars have none. Time is not looked at: a
    pattern may lie over a gap.

    Args:
      open: float64 [n], positive prices in ascending time, as are the others.
      high: float64 [n].
      low: float64 [n].
      close: float64 [n].

    Returns:
      int32 [n], the label (an index into `PATTERNS`) on the pattern's last bar, else -1.

    Raises:
      InputError: if the four are not one-dimensional arrays of one length, or not finite.
    """
    prices = [np.asarray(price, np.float64) for price in (open, high, low, close)]
    if prices[0].ndim != 1 or len({price.shape for price in prices}) > 1:
        shapes = ", ".join(str(price.shape) for price in prices)
        raise InputError(
            f"patterns.detect got arrays of shapes {shapes} for open, high, low and close; "
            "they must be one-dimensional and of one length."
        )
    if not all(np.isfinite(price).all() for price in prices):
        raise InputError("patterns.detect got a price that is not finite; every price must be.")
    labels = np.full(prices[0].size, -1, np.int32)
    moved = np.flatnonzero(prices[3] != prices[0])
    labels[moved] = _label(*(price[moved] for price in prices))
    return labels


def _label(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray) -> np.ndarray:
    """Labels bars none of which has close == open."""
    top, bottom = np.maximum(open, close), np.minimum(open, close)
    candles = _Candles(open, close, top - bottom, high - top, bottom - low)
    trend = _trend(close)
    labels = np.full(close.size, -1, np.int32)
    # No bar is written twice: a star's second bar is short where every other pattern's first is
    # long, and the two-bar rules of one side ask for contrary prices of the second bar.
    for side, sign in enumerate((1, -1)):
        for shape, last_bars in enumerate(_find(candles, trend, sign)):
            labels[last_bars] = 2 * shape + side
    return labels


def _find(candles: _Candles, trend: np.ndarray, sign: int) -> list[np.ndarray]:
    """The last bars of star, engulfing, shooting star or hammer, and harami of one side.

    With the sign of every price turned (`sign` -1), the mirror image's rules read like the rules.
    """
    opens, closes = sign * candles.open, sign * candles.close
    bars = closes.size
    first = np.flatnonzero((sign * trend[:-2] > 0) & (closes[1:-1] > opens[1:-1])) + 1
    first = first[_rank(candles.body, first) >= _LONG]
    second, third = first + 1, np.minimum(first + 2, bars - 1)
    open1, close1, middle1 = opens[first], closes[first], (opens[first] + closes[first]) / 2
    open2, close2, middle2 = opens[second], closes[second], (opens[second] + closes[second]) / 2
    open3, close3 = opens[third], closes[third]
    body2 = _rank(candles.body, second)
    turns = close2 < open2

    star = (body2 <= _SHORT) & (close3 < open3) & (first < bars - 2)
    star &= (middle2 >= close1) & (close3 <= middle1) & (open3 <= middle2)
    engulfing = turns & (close2 < open1) & (open2 > close1)
    # Not mirror images: both want the long shadow above, but the hammer allows more below.
    shadow = candles.upper[second] > 2 * candles.body[second]
    shadow &= np.minimum(open2, close2) > middle1
    shadow &= _rank(candles.lower, second) <= (_SHORT - 10 if sign > 0 else _SHORT)
    shadow &= _rank(candles.upper, second) >= _LONG
    harami = turns & (close2 <= middle1) & (close2 > open1) & (open2 < close1)
    harami &= (open2 >= middle1) & (body2 >= _LONG)
    return [third[star], second[engulfing], second[shadow], second[harami]]


def _rank(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The percentile rank of `values[at]` among the trailing bars, ties averaged."""
    own = values[at]
    count = np.zeros(at.size, np.uint8)
    for lag in range(RANK_BARS):
        other = values[at - lag]
        count += other < own
        count += other <= own
    return 50 * (count + 1.0) / RANK_BARS


def _trend(close: np.ndarray) -> np.ndarray:
    """The sign of the trend at every bar; zero while there is no threshold yet."""
    trend = np.zeros(close.size, np.int8)
    if close.size < TREND_BARS + THRESHOLD_BARS - 1:
        return trend
    half = TREND_BARS // 2
    count = close.size - TREND_BARS + 1
    slope = np.zeros(count)
    for step in range(1, half + 1):
        slope += step * (close[half + step :][:count] - close[half - step :][:count])
    slope /= 2 * sum(step**2 for step in range(1, half + 1))
    slope /= close[TREND_BARS - 1 :]
    threshold = ndimage.rank_filter(np.abs(slope), THRESHOLD_BARS // 4, THRESHOLD_BARS)
    # The filter is centred; moved by half its length it trails.
    threshold = threshold[THRESHOLD_BARS // 2 :][: count - THRESHOLD_BARS + 1]
    slope = slope[THRESHOLD_BARS - 1 :]
    trend[-slope.size :] = np.where(slope >= threshold, 1, -(slope <= -threshold).astype(np.int8))
    return trend
