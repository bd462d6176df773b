"""The five splits: what they hold, and which window belongs to which."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpfinjax.data import patterns
from dpfinjax.errors import InputError


class Examples(NamedTuple):
    """Labelled images and the bars that they show.

    Attributes:
      image: float32 [n, length, length, 4] in [-1, 1], as `gaf.encode` makes it.
      label: int32 [n], an index into `patterns.PATTERNS`.
      ohlc: float64 [n, length, 4], open, high, low, close in the source's currency.
      time: `datetime64[us]` [n], the open time (UTC) of the window's last bar, where the pattern
        ends; NaT where the source has no times.
      unit: int64 [n], the number of the example's unit of privacy among all units of the source;
        examples of one unit share it, and no two splits have it.
    """

    image: np.ndarray
    label: np.ndarray
    ohlc: np.ndarray
    time: np.ndarray
    unit: np.ndarray


class Splits(NamedTuple):
    """The five disjoint splits, each in ascending time.

    Attributes:
      train: What the private models learn from.
      validation: What settings are chosen by.
      test: What accuracy is reported on.
      public: What PATE's student may query.
      population: What an attacker knows of the population, and never trained on.
    """

    train: Examples
    validation: Examples
    test: Examples
    public: Examples
    population: Examples


def at_random(count: int, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Divides examples at random.

    The parts share no example, and disjoint windows share no bar. Labels of two parts may rest on
    the same earlier bars: ranks and trend look back up to `patterns.LOOKBACK_BARS` bars.

    Args:
      count: How many there are.
      fractions: The share of each part; what they leave is in none.
      seed: At least 0; the same seed gives the same parts.

    Returns:
      For each part int64, the indices of its examples in ascending order.
    """
    order = np.random.default_rng(seed).permutation(count)
    bounds = _bounds(count, fractions)
    return [np.sort(order[start:stop]) for start, stop in itertools.pairwise(bounds)]


def of_units(parts: Sequence[np.ndarray], unit: np.ndarray) -> list[np.ndarray]:
    """Turns parts of units into parts of windows, so that no unit is in two.

    Args:
      parts: for each part int64, the units in it.
      unit: int64 [w], the unit of each window.

    Returns:
      For each part int64, the indices of its windows in ascending order.
    """
    return [np.flatnonzero(np.isin(unit, part)) for part in parts]


def chronological(
    place: np.ndarray,
    fractions: Sequence[float],
    purge_bars: int,
    length: int,
    unit: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Divides windows in the order of time, with a purge gap before each part but the first.

    A window with fewer than `purge_bars` bars between it and the part before belongs to no part. So
    no label of a later part rests on a bar of an earlier one.

    Args:
      place: int64 [w], ascending, the place of each window's last bar among the bars with
        close != open, which are the bars counted here.
      fractions: The share of each part before purging; of units where these are given.
      purge_bars: Bars left out between two parts, at least `patterns.LOOKBACK_BARS`.
      length: Bars in a window.
      unit: int64 [w], ascending, the unit of each window from 0 on, none of which is divided; None
        where each window is one.

    Returns:
      For each part int64, the indices of its windows in ascending order.

    Raises:
      InputError: As `check_purge` does.
    """
    check_purge(purge_bars)
    unit = np.arange(place.size) if unit is None else unit
    bounds = np.searchsorted(unit, _bounds(unit.max(initial=-1) + 1, fractions))
    parts: list[np.ndarray] = []
    first_free = 0
    for start, stop in itertools.pairwise(bounds):
        part = np.arange(start, stop)
        part = part[place[part] - length + 1 >= first_free]
        if part.size:
            first_free = place[part[-1]] + 1 + purge_bars
        parts.append(part)
    return parts


def check_purge(purge_bars: int) -> None:
    """Checks that a purge gap covers what labels rest on.

    Args:
      purge_bars: Bars left out between two parts.

    Raises:
      InputError: If they are fewer than `patterns.LOOKBACK_BARS`.
    """
    if purge_bars < patterns.LOOKBACK_BARS:
        raise InputError(
            f"data.purge_bars is {purge_bars}, but a label rests on up to "
            f"{patterns.LOOKBACK_BARS} bars; it must be at least that."
        )


def _bounds(count: int, fractions: Sequence[float]) -> list[int]:
    """Where each part starts, and where the last one stops."""
    # A little more than rounding takes away, so that fractions that sum to one leave none out.
    return [0, *np.floor(count * np.cumsum(fractions) + 1e-6).astype(int).tolist()]
