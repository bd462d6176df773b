"""Units of privacy: which examples belong together, and which of them are used.

A unit is what a guarantee protects as a whole: a window, all windows of a day or of a week, or all
windows of one value of a column, a client say.
"""

from typing import NamedTuple

import numpy as np

WINDOW = "window"
"""The unit that is one example."""

CALENDAR = ("day", "week")
"""Units that follow from time alone, in UTC; a week starts on Monday, as in ISO 8601."""

_MONDAY = 3  # 1970-01-01 was a Thursday


class Usage(NamedTuple):
    """What a limit on the windows of a unit comes to.

    Attributes:
      units: how many units have a window.
      windows: how many windows they have.
      used: how many of these are used.
      width: the most that one unit uses.
    """

    units: int
    windows: int
    used: int
    width: int


def calendar(time: np.ndarray, unit: str) -> np.ndarray:
    """Numbers days or weeks.

    Args:
      time: `datetime64` [n] in UTC.
      unit: "day" or "week".

    Returns:
      int64 [n], days since 1970-01-01, or weeks since the one that holds it.

    >>> calendar(np.array(["1970-01-04T23:59", "1970-01-05"], "datetime64[us]"), "week")
    array([0, 1])
    """
    days = time.astype("datetime64[D]").astype(np.int64)
    return days if unit == "day" else (days + _MONDAY) // 7


def sizes(unit: np.ndarray) -> list[int]:
    """Counts units by their windows.

    Args:
      unit: int64 [n], the unit of each window.

    Returns:
      How many units have 0, 1, 2, ... windows, up to the most that one has.

    >>> sizes(np.array([7, 8, 8, 9]))
    [0, 2, 1]
    """
    return np.bincount(np.unique(unit, return_counts=True)[1]).tolist()


def usage(counts: list[int], windows_per_unit: int) -> Usage:
    """Says what `table` will use of units that `sizes` has counted.

    Args:
      counts: how many units have 0, 1, 2, ... windows.
      windows_per_unit: the most windows that are used of one, at least 1.

    Returns:
      The numbers.

    >>> usage([0, 2, 1], 1)
    Usage(units=3, windows=4, used=3, width=1)
    """
    many, size = np.array(counts), np.arange(len(counts))
    used = np.minimum(size, windows_per_unit)
    numbers = many.sum(), (many * size).sum(), (many * used).sum(), used.max(initial=0)
    return Usage(*map(int, numbers))


def table(unit: np.ndarray, windows_per_unit: int) -> np.ndarray:
    """Lists the windows of each unit that are used.

    Of a unit with more than `windows_per_unit` windows these are spread evenly over its own
    windows, by their count alone: what is used of a unit depends on nothing but that unit.

    Args:
      unit: int64 [n], the unit of each window.
      windows_per_unit: the most windows that are used of one, at least 1.

    Returns:
      int32 [u, k], rows of windows, ascending, filled up with -1; the units are in ascending order,
      and k is the most that one uses.

    >>> table(np.array([5, 9, 5, 5, 5]), 2)
    array([[ 2,  4],
           [ 1, -1]], dtype=int32)
    """
    order = np.argsort(unit, kind="stable")
    _, starts, counts = np.unique(unit[order], return_index=True, return_counts=True)
    slot = np.arange(min(windows_per_unit, counts.max(initial=0)))
    start, count = starts[:, None], counts[:, None]
    spread = (2 * slot + 1) * count // (2 * windows_per_unit)
    place = np.where(count > windows_per_unit, spread, slot)
    rows = order[np.minimum(start + place, unit.size - 1)]
    return np.where(place < count, rows, -1).astype(np.int32)
