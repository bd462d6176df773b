from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.data import patterns
from dpfinjax.errors import InputError


def random_walk(seed: int, bars: int, jump: float, body: float, shadow: int, level: float = 1000):
    """Bars on a grid of whole ticks, with ties, bars that did not move, and gaps in the price."""
    rng = np.random.default_rng(seed)
    bodies = np.rint(rng.normal(0, body, bars))
    jumps = np.rint(rng.normal(0, jump, bars))
    close = level + np.cumsum(bodies + jumps)
    open = close - bodies
    high = np.maximum(open, close) + rng.integers(0, shadow + 1, bars)
    low = np.minimum(open, close) - rng.integers(0, shadow + 1, bars)
    return [price.astype(np.float64) for price in (open, high, low, close)]


def slow_percentile(values, i):
    window = values[i - 50 : i + 1]
    less = sum(other < values[i] for other in window)
    less_or_equal = sum(other <= values[i] for other in window)
    return 50 * (less + less_or_equal + 1) / 51


def slow_labels(open, high, low, close):
    """The table of rules, read off line by line, one bar at a time, never past the bar itself."""
    labels = [-1] * len(close)
    kept = [k for k in range(len(close)) if close[k] != open[k]]
    o, h, lo, c = ([float(price[k]) for k in kept] for price in (open, high, low, close))
    n, threshold_bars = len(kept), patterns.THRESHOLD_BARS
    body = [abs(c[k] - o[k]) for k in range(n)]
    upper = [h[k] - max(o[k], c[k]) for k in range(n)]
    lower = [min(o[k], c[k]) - lo[k] for k in range(n)]
    mid = [(o[k] + c[k]) / 2 for k in range(n)]
    slopes = [
        sum((k - 3) * c[i - 6 + k] for k in range(7)) / 28 / c[i] if i >= 6 else None
        for i in range(n)
    ]

    def trend(i):
        if i < 6 + threshold_bars - 1:
            return "none"
        sizes = sorted(abs(slope) for slope in slopes[i - threshold_bars + 1 : i + 1])
        threshold = sizes[(threshold_bars - 1) // 4]
        if slopes[i] >= threshold:
            return "up"
        return "down" if slopes[i] <= -threshold else "none"

    for i in range(1, n - 1):
        rises = c[i] > o[i]
        if trend(i - 1) != ("up" if rises else "down") or slow_percentile(body, i) < 65:
            continue
        j, k = i + 1, i + 2
        body_j, upper_j, lower_j = (slow_percentile(v, j) for v in (body, upper, lower))
        found = []
        if k < n and body_j <= 35:
            if rises and c[k] < o[k] and mid[j] >= c[i] and c[k] <= mid[i] and o[k] <= mid[j]:
                found.append((k, 0))
            if not rises and c[k] > o[k] and mid[j] <= c[i] and c[k] >= mid[i] and o[k] >= mid[j]:
                found.append((k, 1))
        if rises and c[j] < o[j] and c[j] < o[i] and o[j] > c[i]:
            found.append((j, 2))
        if not rises and c[j] > o[j] and c[j] > o[i] and o[j] < c[i]:
            found.append((j, 3))
        if upper[j] > 2 * body[j] and upper_j >= 65:
            if rises and min(o[j], c[j]) > mid[i] and lower_j <= 25:
                found.append((j, 4))
            if not rises and max(o[j], c[j]) < mid[i] and lower_j <= 35:
                found.append((j, 5))
        if body_j >= 65:
            if rises and c[j] < o[j] and o[i] < c[j] <= mid[i] <= o[j] < c[i]:
                found.append((j, 6))
            if not rises and c[j] > o[j] and o[i] > c[j] >= mid[i] >= o[j] > c[i]:
                found.append((j, 7))
        for last, label in found:
            assert labels[kept[last]] == -1, "two patterns end on one bar"
            labels[kept[last]] = label
    return np.array(labels, np.int32)


walks = st.builds(
    random_walk,
    seed=st.integers(0, 2**32 - 1),
    bars=st.sampled_from([900, 0, 1, 2, 3, 70, 901, 902, 903]),
    jump=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]),
    body=st.sampled_from([0.7, 1.5, 3.0, 6.0]),
    shadow=st.integers(0, 6),
)


@settings(max_examples=150, deadline=None)
@given(walks)
def test_labels_are_those_of_the_table_read_bar_by_bar(walk):
    # A short window, so that a trend often equals the threshold.
    with mock.patch.object(patterns, "THRESHOLD_BARS", 45):
        np.testing.assert_array_equal(patterns.detect(*walk), slow_labels(*walk))


def test_every_pattern_occurs_and_is_that_of_the_table_with_the_real_threshold_window():
    walk = random_walk(seed=5, bars=7000, jump=3, body=6, shadow=6, level=10_000)
    labels = patterns.detect(*walk)
    assert set(labels) == {-1, *range(8)}
    np.testing.assert_array_equal(labels, slow_labels(*walk))


@settings(max_examples=40, deadline=None)
@given(walks, st.integers(0, 900))
def test_labels_of_the_first_bars_do_not_change_when_bars_are_appended(walk, first):
    with mock.patch.object(patterns, "THRESHOLD_BARS", 61):
        whole = patterns.detect(*walk)
        part = patterns.detect(*(price[:first] for price in walk))
    np.testing.assert_array_equal(part, whole[:first])


def test_labels_rest_on_no_more_than_the_lookback():
    walk = random_walk(seed=6, bars=9000, jump=2, body=6, shadow=5, level=10_000)
    walk = [price[walk[0] != walk[3]] for price in walk]
    whole = patterns.detect(*walk)
    start = 3000
    part = patterns.detect(*(price[start:] for price in walk))
    shown = patterns.LOOKBACK_BARS - 1
    np.testing.assert_array_equal(part[shown:], whole[start + shown :])
    assert (part[: patterns.LOOKBACK_BARS - 2] == -1).all()
    assert (part[shown:] >= 0).any()


def test_bars_that_did_not_move_are_as_if_they_were_not_there():
    walk = random_walk(seed=7, bars=6000, jump=2, body=5, shadow=5, level=10_000)
    moved = walk[0] != walk[3]
    labels = patterns.detect(*walk)
    assert not moved.all()
    assert (labels[~moved] == -1).all()
    np.testing.assert_array_equal(labels[moved], patterns.detect(*(price[moved] for price in walk)))


def example(last_bars, direction: int):
    """Two thousand small bars, seven of them leading up or down, and the last bars.

    The last bars (open, high, low, close) count from the close where the trend ended; downwards
    they are mirrored. All prices are multiples of 1/64, so that equal prices are equal.
    """
    rng = np.random.default_rng(0)
    bodies = np.rint(rng.uniform(32, 96, 2000)) / 64 * rng.choice([-1, 1], 2000)
    bodies[-7:] = direction
    close = 1000 + np.cumsum(bodies)
    open = close - bodies
    high = np.maximum(open, close) + np.rint(rng.uniform(13, 64, 2000)) / 64
    low = np.minimum(open, close) - np.rint(rng.uniform(13, 64, 2000)) / 64
    last = direction * np.array(last_bars)
    if direction < 0:
        last = last[:, [0, 2, 1, 3]]
    last = last + close[-1]
    return [np.append(old, new) for old, new in zip((open, high, low, close), last.T, strict=True)]


SMALL, LARGE = (0, 5.25, -0.25, 5), (0, 10.25, -0.25, 10)
STAR = (10.5, 11, 10.25, 10.75)
# Each shape as it follows an uptrend: its last bars, and whether they are the pattern.
SHAPES = {
    "star": [
        ([LARGE, STAR, (10.5, 10.5, 3.5, 4)], True),
        ([LARGE, STAR, (10.5, 10.5, 3.5, 5)], True),  # closes on the first bar's middle
        ([LARGE, STAR, (10.5, 10.5, 3.5, 5.25)], False),
        ([LARGE, STAR, (10.625, 10.75, 3.5, 4)], True),  # opens on the star's middle
        ([LARGE, STAR, (10.75, 10.75, 3.5, 4)], False),
        (
            [LARGE, (9.875, 10.25, 9.75, 10.125), (9.875, 10, 3.5, 4)],
            True,
        ),  # star's middle on close
        ([LARGE, (9.75, 10.25, 9.75, 10.125), (9.75, 10, 3.5, 4)], False),
        ([LARGE, (10.5, 12, 10.25, 11.75), (10.5, 10.5, 3.5, 4)], False),  # the star is long
        ([LARGE, STAR, (4, 10.5, 3.5, 5)], False),  # the third bar rises
    ],
    "engulfing": [
        ([SMALL, (5.5, 6, -1, -0.5)], True),
        ([SMALL, (5.5, 6, -1, 0)], False),
        ([SMALL, (5, 6, -1, -0.5)], False),
        ([(0, 1, -0.25, 0.5), (1, 1.5, -1, -0.5)], False),  # the first bar is short
        ([(0, 5, -5.25, -5), (5.5, 6, -6, -5.5)], False),  # the first bar turns
    ],
    "harami": [
        ([LARGE, (9, 9.25, 2.75, 3)], True),
        ([LARGE, (9, 9.25, 2.75, 5)], True),
        ([LARGE, (9, 9.25, 2.75, 5.25)], False),
        ([LARGE, (5, 9.25, 2.75, 3)], True),
        ([LARGE, (4.75, 9.25, 2.75, 3)], False),
        ([LARGE, (10, 10.25, 2.75, 3)], False),
        ([LARGE, (9, 9.25, -0.25, 0)], False),
        ([LARGE, (5.25, 9.25, 2.75, 4.75)], False),  # the second bar is short
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_drawn_shape_is_recognised_up_to_the_edge_of_its_rules(shape, direction):
    bearish = {"star": "evening star"}.get(shape, f"bearish {shape}")
    label = patterns.PATTERNS.index(bearish) + (direction < 0)
    for last_bars, is_pattern in SHAPES[shape]:
        found = patterns.detect(*example(last_bars, direction))[-len(last_bars) :]
        expected = [-1] * (len(last_bars) - 1) + [label if is_pattern else -1]
        assert list(found) == expected, last_bars


@pytest.mark.parametrize(
    ("direction", "last_bars", "name"),
    [
        (1, [SMALL, (5.25, 10, 5.25, 5.5)], "shooting star"),
        (1, [SMALL, (5.5, 10, 5.25, 5.25)], "shooting star"),
        (1, [SMALL, (2.5, 10, 2.5, 2.75)], None),  # rests on the first bar's middle
        (1, [SMALL, (5.25, 9.25, 5.25, 6.25)], "shooting star"),
        (1, [SMALL, (5.25, 8.25, 5.25, 6.25)], None),  # the shadow is just twice the body
        (1, [SMALL, (5.25, 10, 4, 5.5)], None),  # a long lower shadow
        (1, [SMALL, (5.25, 5.75, 5.25, 5.5)], None),  # no long upper shadow
        # Mirrored prices: the upper shadow, which both want long, is the third number here.
        (-1, [SMALL, (5.5, 5.75, 1, 5.25)], "inverted hammer"),
        (-1, [SMALL, (5.25, 5.75, 1, 5.5)], "inverted hammer"),
        (-1, [SMALL, (2.5, 2.75, -2, 2.75)], None),
        (-1, [SMALL, (5.5, 9, 1, 5.25)], None),
    ],
)
def test_a_drawn_long_upper_shadow_is_recognised_on_either_side(direction, last_bars, name):
    found = patterns.detect(*example(last_bars, direction))[-2:]
    assert list(found) == [-1, patterns.PATTERNS.index(name) if name else -1]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_without_its_trend_is_no_pattern(shape):
    last_bars = SHAPES[shape][0][0]
    open, high, low, close = example(last_bars, 1)
    before = slice(len(close) - len(last_bars) - 7, len(close) - len(last_bars))
    for price in (open, high, low, close):
        price[before] = price[before][::-1]  # the same seven bars, leading down
    open[before], close[before] = close[before].copy(), open[before].copy()
    assert patterns.detect(open, high, low, close)[-1] == -1


def test_mirrored_prices_swap_the_mirrored_patterns():
    level, rng = 1e6, np.random.default_rng(8)
    close = level + np.cumsum(rng.normal(0, 1, 30_000))
    open = close - rng.normal(0, 1, 30_000)
    high = np.maximum(open, close) + rng.exponential(1, 30_000)
    low = np.minimum(open, close) - rng.exponential(1, 30_000)
    labels = patterns.detect(open, high, low, close)
    mirrored = patterns.detect(*(2 * level - price for price in (open, low, high, close)))
    for bearish, bullish in ((0, 1), (2, 3), (6, 7)):
        assert (labels == bearish).sum() > 5
        np.testing.assert_array_equal(labels == bearish, mirrored == bullish)
        np.testing.assert_array_equal(labels == bullish, mirrored == bearish)


def test_arrays_of_different_length_are_refused():
    with pytest.raises(InputError, match="of one length"):
        patterns.detect(np.ones(3), np.ones(3), np.ones(3), np.ones(2))


def test_a_price_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="not finite"):
        patterns.detect(np.ones(3), np.ones(3), np.ones(3), np.array([1, np.nan, 1]))
