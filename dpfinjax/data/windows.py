"""Disjoint windows of bars, each ending on the last bar of a pattern."""

from typing import NamedTuple

import numpy as np

from dpfinjax.data.bars import Bars


class Windows(NamedTuple):
    """Windows in ascending time; no bar sits in two of them.

    Attributes:
      ohlc: float64 [w, length, 4], open, high, low, close of the window's bars.
      label: int32 [w], the pattern that ends on the window's last bar.
      time: `datetime64[us]` [w], the open time of the window's last bar.
      place: int64 [w], the last bar's place among the source's bars with close != open.
      with_gap: How many labelled windows were left out because a bar is missing inside.
      overlapping: How many more were left out because they share a bar with an earlier window.
      crossing: How many, of those without a gap, were left out because their bars lie in two units.
    """

    ohlc: np.ndarray
    label: np.ndarray
    time: np.ndarray
    place: np.ndarray
    with_gap: int
    overlapping: int
    crossing: int = 0


def cut(
    bars: Bars, labels: np.ndarray, length: int = 10, unit: np.ndarray | None = None
) -> Windows:
    """Cuts the windows that end on labelled bars.

    A window is the last `length` bars with close != open, as the patterns' rules see them: a bar
    that did not move may lie between two bars of a window, but is not part of it. A gap is a step
    in time other than the most common one; no window reaches over a gap. Where windows overlap the
    earliest is kept, which keeps as many as possible. Where bars belong to units, a window whose
    bars belong to two is left out before that choice, so a unit's windows follow from its own bars
    and labels.

    Args:
      bars: n bars in ascending time.
      labels: int32 [n], as `patterns.detect` gives them; negative where no window ends.
      length: Bars in a window, at least 1.
      unit: int64 [n], ascending, the day or week of each bar, which no window may leave; None where
        windows are not bound.

    Returns:
      The windows.
    """
    moved = np.flatnonzero(bars.close != bars.open)
    stretch = _stretch(bars.time)[moved]
    place = np.flatnonzero(labels[moved] >= 0)
    place = place[place >= length - 1]
    whole = stretch[place - length + 1] == stretch[place]
    inside_one = whole
    if unit is not None:
        inside_one = whole & (unit[moved][place - length + 1] == unit[moved][place])
    disjoint = _first_disjoint(place[inside_one], length)
    inside = moved[disjoint[:, None] + np.arange(1 - length, 1)]
    last = moved[disjoint]
    return Windows(
        ohlc=np.stack(
            [price[inside] for price in (bars.open, bars.high, bars.low, bars.close)], -1
        ),
        label=labels[last],
        time=bars.time[last],
        place=disjoint,
        with_gap=int(place.size - whole.sum()),
        overlapping=int(inside_one.sum() - disjoint.size),
        crossing=int(whole.sum() - inside_one.sum()),
    )


def ends(bars: Bars, length: int = 10, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Finds all windows, whether a pattern ends on them or not: what a model can be asked about.

    Windows are as in `cut`: of bars with close != open, and none reaches over a gap.

    Args:
      bars: n bars in ascending time.
      length: Bars in a window, at least 1.
      stride: Take every so manyth window of each stretch without a gap, from its first on; with
        `length` they are disjoint.

    Returns:
      int64 [m], the bars with close != open, and int64 [w], the place of each window's last bar
      among them: the window's bars are the `length` ones up to there.
    """
    moved = np.flatnonzero(bars.close != bars.open)
    stretch = _stretch(bars.time)[moved]
    place = np.arange(length - 1, moved.size)
    place = place[stretch[place - length + 1] == stretch[place]]
    first = np.searchsorted(stretch, stretch[place]) + length - 1
    return moved, place[(place - first) % stride == 0]


def _stretch(time: np.ndarray) -> np.ndarray:
    """Numbers the stretches of bars without a gap [n]."""
    steps = np.diff(time)
    if not steps.size:
        return np.zeros(time.size, np.int64)
    kinds, counts = np.unique(steps, return_counts=True)
    return np.append(0, np.cumsum(steps != kinds[counts.argmax()]))


def _first_disjoint(place: np.ndarray, length: int) -> np.ndarray:
    """Of windows by their last place, ascending: the first, then each first one clear of it."""
    following = np.searchsorted(place, place + length).tolist()
    chosen, window = [], 0
    while window < place.size:
        chosen.append(window)
        window = following[window]
    return place[np.array(chosen, np.int64)]
