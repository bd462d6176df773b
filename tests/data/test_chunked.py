"""Windows found in chunks are the windows found at once."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpfinjax.data import chunked, patterns, simulate, units, windows
from dpfinjax.data.bars import Bars

LENGTH = 10


def damaged_market(bars, seed, gaps, still):
    """Simulated bars, some of which are missing and some of which do not move."""
    table, random = simulate.bars(bars, seed), np.random.default_rng(seed)
    kept = random.random(bars) >= gaps
    table = Bars(*(column[kept] for column in table))
    flat = random.random(table.close.size) < still
    close = np.where(flat, table.open, table.close)
    return table._replace(close=close)


def at_once(table, unit):
    labels = patterns.detect(table.open, table.high, table.low, table.close)
    bound = None if unit == units.WINDOW else units.calendar(table.time, unit)
    return windows.cut(table, labels, LENGTH, bound), labels


def assert_same_windows(table, blocks, unit, path):
    spooled = chunked.spool(blocks, path, LENGTH, unit)
    choice = chunked.choose(spooled, LENGTH)
    found = np.concatenate([*chunked.read(spooled), np.zeros(0, spooled.dtype)])[choice.chosen]
    cut, labels = at_once(table, unit)
    np.testing.assert_array_equal(found["ohlc"], cut.ohlc)
    np.testing.assert_array_equal(found["label"], cut.label)
    np.testing.assert_array_equal(found["time"].view("datetime64[us]"), cut.time)
    np.testing.assert_array_equal(choice.place, cut.place)
    assert (choice.with_gap, choice.overlapping, choice.crossing) == cut[4:]
    owner = choice.place if unit == units.WINDOW else units.calendar(cut.time, unit)
    np.testing.assert_array_equal(choice.unit, np.unique(owner, return_inverse=True)[1])
    assert spooled.counts["bars"] == table.close.size
    assert spooled.counts["moved_bars"] == (table.close != table.open).sum()
    assert spooled.counts["patterns"] == (labels >= 0).sum()
    return cut


@pytest.mark.parametrize("bars", [1, 11_000, 30_000])
def test_a_market_simulated_in_blocks_has_the_same_bits(bars):
    whole = simulate.bars(bars, seed=5)
    blocks = list(chunked.simulated(bars, seed=5))
    assert len(blocks) == -(-bars // 11_300)
    for column, parts in zip(whole, zip(*blocks, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), column)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    chunk_bars=st.integers(400, 4000),
    gaps=st.sampled_from([0.0, 0.05]),
    still=st.sampled_from([0.0, 0.3]),
    unit=st.sampled_from(["window", "day", "week"]),
)
@example(seed=0, chunk_bars=9000, gaps=0.05, still=0.3, unit="day")
def test_windows_do_not_depend_on_chunks(tmp_path_factory, seed, chunk_bars, gaps, still, unit):
    table = damaged_market(6000, seed, gaps, still)
    path = tmp_path_factory.getbasetemp() / "candidates"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "CHUNK_BARS", chunk_bars)
        patch.setattr(chunked, "_CHUNK_WINDOWS", 7)
        assert_same_windows(table, chunked.sliced(table), unit, path)


def test_gaps_overlaps_and_crossings_are_all_met(tmp_path, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_BARS", 1000)
    monkeypatch.setattr(chunked, "_CHUNK_WINDOWS", 7)
    table = damaged_market(60_000, 1, 0.002, 0.1)
    cut = assert_same_windows(table, chunked.sliced(table), "day", tmp_path / "candidates")
    assert cut.label.size > 100
    assert min(cut.with_gap, cut.overlapping, cut.crossing) > 0


def test_a_label_on_a_chunk_s_first_bar_has_all_the_bars_that_it_rests_on(tmp_path, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_BARS", 1)
    table = simulate.bars(12_000, 4)
    _, labels = at_once(table, units.WINDOW)
    stars = np.flatnonzero((labels == 0) | (labels == 1))
    stars = stars[stars > 2500][:5]
    assert stars.size == 5
    for star in stars:
        first = star - 2500
        part = Bars(*(column[first : star + 20] for column in table))
        halves = [
            Bars(*(column[half] for column in part)) for half in (slice(2500), slice(2500, 2520))
        ]
        assert_same_windows(part, halves, units.WINDOW, tmp_path / "candidates")


def test_the_usual_step_is_that_of_all_bars_not_of_the_first_chunk(tmp_path, monkeypatch):
    """Two minutes apart at first, one minute apart in the longer rest."""
    monkeypatch.setattr(chunked, "CHUNK_BARS", 2000)
    table = simulate.bars(12_000, 2, gap_rate=0.0)
    minute = np.cumsum(np.where(np.arange(12_000) < 4000, 2, 1)).astype("timedelta64[m]")
    table = table._replace(time=table.time[0] + minute)
    cut = assert_same_windows(table, chunked.sliced(table), "window", tmp_path / "candidates")
    assert cut.with_gap > 0


def test_no_more_than_a_chunk_of_bars_is_looked_at(tmp_path, monkeypatch):
    sizes, detect = [], patterns.detect

    def noting(*prices):
        sizes.append(prices[0].size)
        return detect(*prices)

    monkeypatch.setattr(chunked.patterns, "detect", noting)
    monkeypatch.setattr(chunked, "CHUNK_BARS", 20_000)
    chunked.spool(chunked.simulated(100_000, 0), tmp_path / "candidates", LENGTH)
    assert len(sizes) >= 4
    assert max(sizes) <= 20_000 + 11_520 + 2 * patterns.LOOKBACK_BARS


def test_a_mistake_while_bars_are_made_is_not_lost(tmp_path):
    def blocks():
        yield simulate.bars(100, 0)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        chunked.spool(blocks(), tmp_path / "candidates", LENGTH)
