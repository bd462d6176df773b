import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.data import windows
from dpfinjax.data.bars import Bars

MINUTE = np.timedelta64(60_000_000, "us")


def made_bars(minutes, moves):
    """Bars at the given minutes; a move of zero is a bar that did not move."""
    count = len(minutes)
    time = np.datetime64("2020-01-01", "us") + np.array(minutes, np.int64) * MINUTE
    open = 100 + np.arange(count, dtype=np.float64)  # tells every bar from every other
    close = open + np.array(moves, np.float64)
    high, low = np.maximum(open, close) + 1, np.minimum(open, close) - 1
    return Bars(time, open, high, low, close, np.ones(count))


def slow_windows(bars, labels, length):
    """Ends of the windows, found by walking back from each bar in turn."""
    ends, used_up_to = [], -1
    for end in range(len(labels)):
        if labels[end] < 0 or bars.open[end] == bars.close[end]:
            continue
        members, bar = [end], end
        while len(members) < length and bar > 0 and bars.time[bar] - bars.time[bar - 1] == MINUTE:
            bar -= 1
            if bars.open[bar] != bars.close[bar]:
                members.append(bar)
        if len(members) == length and members[-1] > used_up_to:
            ends.append((end, members[::-1]))
            used_up_to = end
    return ends


@st.composite
def labelled_bars(draw):
    count = draw(st.integers(0, 60))
    steps = draw(st.lists(st.sampled_from([1] * 15 + [2, 700]), min_size=count, max_size=count))
    minutes = np.cumsum(steps)
    moves = draw(st.lists(st.sampled_from([1, -1, 2, 0]), min_size=count, max_size=count))
    bars = made_bars(minutes, moves)
    labels = draw(st.lists(st.sampled_from([-1, -1, 0, 7]), min_size=count, max_size=count))
    labels = np.where(bars.open == bars.close, -1, np.array(labels, np.int32)).astype(np.int32)
    return bars, labels, draw(st.integers(1, 6))


@settings(max_examples=200, deadline=None)
@given(labelled_bars())
def test_windows_are_those_found_by_walking_back_from_every_bar(case):
    bars, labels, length = case
    steps = np.diff(bars.time)
    if steps.size and (steps == MINUTE).sum() <= (steps != MINUTE).sum():
        return  # a minute is not the common step then
    cut = windows.cut(bars, labels, length)
    expected = slow_windows(bars, labels, length)
    ends = [end for end, _ in expected]
    np.testing.assert_array_equal(cut.time, bars.time[ends])
    np.testing.assert_array_equal(cut.label, labels[ends])
    assert cut.ohlc.shape == (len(ends), length, 4)
    for window, (_, members) in zip(cut.ohlc, expected, strict=True):
        prices = np.stack([bars.open, bars.high, bars.low, bars.close], axis=1)
        np.testing.assert_array_equal(window, prices[members])


@settings(max_examples=200, deadline=None)
@given(labelled_bars())
def test_no_bar_sits_in_two_windows(case):
    bars, labels, length = case
    opens = windows.cut(bars, labels, length).ohlc[:, :, 0].ravel()
    assert np.unique(opens).size == opens.size  # no two made bars open alike


@settings(max_examples=100, deadline=None)
@given(labelled_bars())
def test_every_labelled_bar_is_a_window_or_counted_as_left_out(case):
    bars, labels, length = case
    cut = windows.cut(bars, labels, length)
    moved = np.cumsum(bars.open != bars.close)
    with_enough_before = ((labels >= 0) & (moved >= length)).sum()
    assert cut.label.size + cut.with_gap + cut.overlapping == with_enough_before
    np.testing.assert_array_equal(
        cut.place, moved[np.searchsorted(bars.time, cut.time)].astype(int) - 1
    )


def test_a_gap_is_a_step_other_than_the_common_one_whatever_that_is():
    hourly = made_bars(60 * np.delete(np.arange(21), 10), np.ones(20))
    labels = np.full(20, -1, np.int32)
    labels[[4, 12, 19]] = 1
    cut = windows.cut(hourly, labels, 5)
    np.testing.assert_array_equal(cut.time, hourly.time[[4, 19]])
    assert (cut.with_gap, cut.overlapping) == (1, 0)


def test_one_bar_off_the_grid_does_not_make_every_step_a_gap():
    bars = made_bars(range(20), np.ones(20))
    bars.time[10] -= MINUTE // 2
    labels = np.full(20, -1, np.int32)
    labels[[8, 12, 19]] = 1
    cut = windows.cut(bars, labels, 5)
    np.testing.assert_array_equal(cut.time, bars.time[[8, 19]])


def test_a_bar_that_did_not_move_is_skipped_but_is_no_gap():
    bars = made_bars(range(6), [1, 1, 0, 1, 0, 1])
    labels = np.array([-1, -1, -1, -1, -1, 3], np.int32)
    cut = windows.cut(bars, labels, 4)
    np.testing.assert_array_equal(cut.ohlc[0, :, 0], bars.open[[0, 1, 3, 5]])


def test_the_earliest_of_overlapping_windows_is_kept():
    bars = made_bars(range(12), np.ones(12))
    labels = np.full(12, -1, np.int32)
    labels[[3, 5, 7, 11]] = [0, 1, 2, 3]
    cut = windows.cut(bars, labels, 4)
    assert list(cut.label) == [0, 2, 3]
    assert cut.overlapping == 1


@settings(max_examples=200, deadline=None)
@given(labelled_bars(), st.integers(2, 20))
def test_windows_of_a_unit_are_those_of_its_bars_and_labels_alone(case, bars_a_unit):
    bars, labels, length = case
    unit = np.arange(labels.size) // bars_a_unit
    whole = windows.cut(bars, labels, length, unit)
    found, common = [], np.diff(bars.time) == MINUTE
    if common.size and common.sum() * 2 <= common.size:
        return  # a minute is not the common step then, in all or in one
    for number in range(unit.max(initial=-1) + 1):
        own = unit == number
        steps = np.diff(bars.time[own]) == MINUTE
        if steps.size and steps.sum() * 2 <= steps.size:
            return
        found.append(windows.cut(Bars(*(c[own] for c in bars)), labels[own], length))
    alone = [np.concatenate(values) for values in zip(*(w[:3] for w in found), strict=True)]
    for values, expected in zip(whole, alone, strict=False):
        np.testing.assert_array_equal(values, expected)


def test_a_window_over_midnight_is_left_out_and_takes_nobody_s_place():
    bars = made_bars(range(20), np.ones(20))
    labels = np.full(20, -1, np.int32)
    labels[[11, 14, 19]] = 1
    cut = windows.cut(bars, labels, 5, np.arange(20) // 10)
    np.testing.assert_array_equal(cut.time, bars.time[[14, 19]])
    assert (cut.crossing, cut.overlapping) == (1, 0)
    free = windows.cut(bars, labels, 5)
    np.testing.assert_array_equal(free.time, bars.time[[11, 19]])
