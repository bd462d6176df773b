"""Windows of more bars than fit into memory: the same as `windows.cut` finds, in chunks.

Two passes, since what a gap is and who is in which split depend on all bars: `spool` detects
patterns and keeps, on disk, every window that may become one; `choose` reads the small columns of
these and decides. In memory are one chunk of bars, and some tens of bytes a window.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from dpfinjax.data import patterns, simulate, units
from dpfinjax.data.bars import Bars

CHUNK_BARS = 200_000
"""Bars that are worked on at a time: many, since `patterns.LOOKBACK_BARS` are done twice."""

_CHUNK_WINDOWS = 65_536


class Spooled(NamedTuple):
    """What the first pass leaves.

    Attributes:
      path: the file of candidates, records of `dtype` in ascending time.
      dtype: `ohlc` float64 [length, 4], `label`, `time` in microseconds, `place` as in `Windows`,
        `step` in microseconds from bar to bar, and the `first` and `last` bar's calendar unit.
      steps: how often each step from bar to bar was seen, in microseconds.
      counts: `bars`, `moved_bars`, `patterns`, and `uneven`, the windows that have several steps.
    """

    path: Path
    dtype: np.dtype
    steps: dict[int, int]
    counts: dict[str, int]


class Choice(NamedTuple):
    """What the second pass finds.

    Attributes:
      chosen: bool [candidates], which of them are windows.
      place: int64 [w], as in `Windows`.
      unit: int32 [w], the number of each window's unit, from 0 on in ascending time.
      with_gap: as in `Windows`, as are the other two.
      overlapping: how many share a bar with another.
      crossing: how many lie in two units.
    """

    chosen: np.ndarray
    place: np.ndarray
    unit: np.ndarray
    with_gap: int
    overlapping: int
    crossing: int


def simulated(n: int, seed: int) -> Iterator[Bars]:
    """Simulates the bars of `simulate.bars(n, seed)`, bit for bit, some days at a time.

    Args:
      n: number of bars, at least 1.
      seed: as in `simulate.bars`.

    Yields:
      The bars in ascending time.
    """
    # Its inner functions, because a change of that file would be a new data set for every config:
    # a data set's fingerprint covers the code.
    given: Any = simulate.bars.__kwdefaults__
    start, tick = simulate._first_minute(given["start"]), given["tick"]
    market = simulate._market(
        given["start_price"] / tick, given["volatility"], given["gap_rate"], start
    )
    left = n
    for minute, ticks, volume in simulate._blocks(market, np.random.default_rng(seed)):
        taken = min(left, minute.size)
        open, high, low, close = simulate._to_price(ticks[:, :taken], tick)
        time = start + minute[:taken].astype("timedelta64[m]")
        yield Bars(time, open, high, low, close, volume[:taken])
        left -= taken
        if not left:
            return


def sliced(table: Bars) -> Iterator[Bars]:
    """Yields bars that are in memory in chunks, without a copy."""
    for start in range(0, table.close.size, CHUNK_BARS):
        yield Bars(*(column[start : start + CHUNK_BARS] for column in table))


def spool(
    blocks: Iterable[Bars], path: str | Path, length: int, unit: str = units.WINDOW
) -> Spooled:
    """Finds every labelled window without overlap or unit in mind, and writes it to a file.

    Args:
      blocks: the bars in ascending time, in blocks of any size of at least one bar.
      path: the file to write.
      length: bars in a window, at least `patterns.PATTERN_BARS`.
      unit: `window`, `day` or `week`.

    Returns:
      Where they are and what was counted.
    """
    dtype = np.dtype(
        [("ohlc", "<f8", (length, 4)), ("label", "<i4"), ("time", "<i8"), ("place", "<i8")]
        + [(name, "<i8") for name in ("step", "first", "last")]
    )
    cutter = _Cutter(length, unit, dtype)
    with open(path, "wb") as file:
        for chunk in _in_another_thread(_chunks(iter(blocks))):
            cutter.cut(chunk).tofile(file)
    return Spooled(Path(path), dtype, dict(cutter.steps), dict(cutter.counts))


def choose(spooled: Spooled, length: int) -> Choice:
    """Chooses from the candidates the windows that `windows.cut` gives.

    Args:
      spooled: what `spool` returned.
      length: as there.

    Returns:
      Which they are.
    """
    # The most common step, of several the shortest, as `windows.cut` has it.
    usual = min(spooled.steps, key=lambda step: (-spooled.steps[step], step), default=0)
    chosen, places, owners = [], [], []
    whole = inside = free = 0
    for batch in read(spooled):
        even = batch["step"] == usual
        one_unit = even & (batch["first"] == batch["last"])
        whole, inside = whole + int(even.sum()), inside + int(one_unit.sum())
        disjoint, free = _disjoint(batch["place"], one_unit, length, free)
        chosen.append(disjoint)
        places.append(batch["place"][disjoint])
        owners.append(batch["last"][disjoint])
    place = np.concatenate(places) if places else np.zeros(0, np.int64)
    candidates = sum(map(len, chosen)) + spooled.counts["uneven"]
    return Choice(
        chosen=np.concatenate(chosen) if chosen else np.zeros(0, bool),
        place=place,
        unit=_dense(np.concatenate(owners) if owners else np.zeros(0, np.int64)),
        with_gap=candidates - whole,
        overlapping=inside - place.size,
        crossing=whole - inside,
    )


def read(spooled: Spooled) -> Iterator[np.ndarray]:
    """Yields the candidates in their order, as records, some at a time."""
    with spooled.path.open("rb") as file:
        while (batch := _next(file, spooled.dtype)).size:
            yield batch


def _next(file: IO[bytes], dtype: np.dtype) -> np.ndarray:
    """The next records of a file."""
    return np.frombuffer(file.read(_CHUNK_WINDOWS * dtype.itemsize), dtype)


def _chunks(blocks: Iterator[Bars]) -> Iterator[Bars]:
    """Blocks put together to chunks of about `CHUNK_BARS`."""
    waiting: list[Bars] = []
    for block in blocks:
        waiting.append(block)
        if sum(part.close.size for part in waiting) >= CHUNK_BARS:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Bars]) -> Bars:
    """Bars one after another."""
    return Bars(*map(np.concatenate, zip(*parts, strict=True)))


def _in_another_thread(chunks: Iterator[Bars]) -> Iterator[Bars]:
    """The same chunks, the next of which is made while one is used."""
    with ThreadPoolExecutor(1) as pool, contextlib.suppress(StopIteration):
        following = pool.submit(next, chunks)
        while True:
            chunk = following.result()
            following = pool.submit(next, chunks)
            yield chunk


class _Cutter:
    """Cuts one chunk after another, with as many bars before it as labels rest on."""

    def __init__(self, length: int, unit: str, dtype: np.dtype) -> None:
        self._length, self._unit, self._dtype = length, unit, dtype
        self._before: Bars | None = None
        self._moved_before = 0  # bars with close != open before `_before`
        self.steps: Counter[int] = Counter()
        self.counts = Counter(bars=0, moved_bars=0, patterns=0, uneven=0)

    def cut(self, chunk: Bars) -> np.ndarray:
        """The candidates that end in the next chunk."""
        old = 0 if self._before is None else self._before.close.size
        table = chunk if self._before is None else _joined([self._before, chunk])
        labels = patterns.detect(table.open, table.high, table.low, table.close)
        moved = np.flatnonzero(table.close != table.open)
        step = np.diff(table.time.astype("datetime64[us]").astype(np.int64))
        self._count(step[max(0, old - 1) :], labels[old:], int((moved >= old).sum()))
        last = np.flatnonzero((labels[moved] >= 0) & (moved >= old))
        found = self._candidates(table, labels, moved, last[last >= self._length - 1], step)
        self._keep(table, moved)
        return found

    def _count(self, step: np.ndarray, labels: np.ndarray, moved: int) -> None:
        """Counts what the whole has too."""
        kinds, counts = np.unique(step, return_counts=True)
        self.steps.update(dict(zip(kinds.tolist(), counts.tolist(), strict=True)))
        self.counts.update(bars=labels.size, moved_bars=moved, patterns=int((labels >= 0).sum()))

    def _candidates(
        self, table: Bars, labels: np.ndarray, moved: np.ndarray, last: np.ndarray, step: np.ndarray
    ) -> np.ndarray:
        """The windows that end on the moved bars `last` and have one step inside."""
        change = np.append(0, np.cumsum(step[1:] != step[:-1]))
        begin, end = moved[last - self._length + 1], moved[last]
        even = change[begin] == change[end - 1]
        self.counts.update(uneven=int((~even).sum()))
        last, begin, end = last[even], begin[even], end[even]
        inside = moved[last[:, None] + np.arange(1 - self._length, 1)]
        prices = (table.open, table.high, table.low, table.close)
        found = np.zeros(last.size, self._dtype)
        found["ohlc"] = np.stack([price[inside] for price in prices], -1)
        found["label"], found["time"] = labels[end], table.time[end].astype(np.int64)
        found["place"], found["step"] = self._moved_before + last, step[begin]
        if self._unit == units.WINDOW:
            found["last"] = found["first"] = found["place"]
        else:
            found["first"] = units.calendar(table.time[begin], self._unit)
            found["last"] = units.calendar(table.time[end], self._unit)
        return found

    def _keep(self, table: Bars, moved: np.ndarray) -> None:
        """Keeps what a label or a window that ends on the next bar rests on."""
        needed = max(patterns.LOOKBACK_BARS, self._length) - 1
        dropped = max(0, moved.size - needed)
        first = moved[dropped] if dropped else 0
        self._moved_before += dropped
        self._before = Bars(*(column[first:].copy() for column in table))


def _disjoint(
    place: np.ndarray, allowed: np.ndarray, length: int, free: int
) -> tuple[np.ndarray, int]:
    """Of windows by their last place: each first one clear of the one before; the next clear one.

    `free` is the first place that a window may end on, and is returned for the next call.
    """
    chosen = np.zeros(place.size, bool)
    for row, end in zip(np.flatnonzero(allowed).tolist(), place[allowed].tolist(), strict=True):
        if end >= free:
            chosen[row] = True
            free = end + length
    return chosen, free


def _dense(owner: np.ndarray) -> np.ndarray:
    """Ascending numbers as 0, 1, 2, ... [w]."""
    return np.append(0, np.cumsum(owner[1:] != owner[:-1])).astype(np.int32)[: owner.size]
