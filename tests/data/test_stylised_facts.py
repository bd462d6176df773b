"""Every stylised fact against its definition, written out slowly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.data import patterns, simulate, stylised_facts, windows
from dpfinjax.data.bars import Bars
from dpfinjax.errors import InputError


def _bars(minutes, open, high, low, close, volume) -> Bars:
    time = np.datetime64("2020-01-01", "us") + np.array(minutes).astype("timedelta64[m]")
    return Bars(time, *(np.array(column, float) for column in (open, high, low, close, volume)))


@pytest.fixture(scope="module")
def few() -> Bars:
    """Five bars, a minute missing before the last; the third stands still."""
    return _bars(
        [60, 61, 62, 63, 65],
        open=[10, 11, 12, 12, 11],
        high=[12, 12, 12, 14, 11],
        low=[10, 10, 12, 12, 9],
        close=[11, 12, 12, 13, 10],
        volume=[1, 2, 3, 4, 5],
    )


@pytest.fixture(scope="module")
def market() -> Bars:
    return simulate.bars(20_000, seed=3, gap_rate=0.2)


def test_five_bars_have_the_facts_worked_out_by_hand(few):
    facts = stylised_facts.compute(few)
    assert facts.bars == 5
    assert facts.missing_share == pytest.approx(1 / 6)
    returns = np.log([12 / 11, 12 / 12, 13 / 12])
    assert facts.return_sd == pytest.approx(returns.std())
    assert facts.zero_range_share == pytest.approx(1 / 5)
    assert facts.zero_body_share == pytest.approx(1 / 5)
    # Of bars two to four none opens off the close before; the fifth follows no bar.
    assert facts.open_gap_share == 0
    assert np.isnan(facts.open_gap_to_body)
    # Upper shadows of 1, 0, 1, 0 and lower shadows of 0, 1, 0, 1 on bodies of 1.
    below_one = stylised_facts.SHADOW_LEVELS < 1
    np.testing.assert_allclose(facts.upper_tail, np.where(below_one, 0.5, 0))
    np.testing.assert_allclose(facts.lower_tail, np.where(below_one, 0.5, 0))
    assert facts.volume_cycle[1] == pytest.approx(1)
    assert np.isnan(facts.volume_cycle[0])


def test_gaps_are_measured_against_bodies():
    facts = stylised_facts.compute(
        _bars(
            [0, 1, 2, 3],
            [10, 13, 11, 12],
            [12, 13, 12, 14],
            [10, 11, 11, 12],
            [12, 11, 12, 14],
            [1] * 4,
        )
    )
    assert facts.open_gap_share == pytest.approx(1 / 3)
    assert facts.open_gap_to_body == pytest.approx(1 / 2)


def _slow_autocorrelation(values, minute, lag):
    centred = dict(zip(minute.tolist(), (values - values.mean()).tolist(), strict=True))
    products = [centred[at] * centred[at + lag] for at in centred if at + lag in centred]
    return np.mean(products) / values.var()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5, 40]), st.floats(0.2, 1))
def test_autocorrelation_is_the_mean_over_pairs_that_exist(seed, lag, share):
    rng = np.random.default_rng(seed)
    minute = np.flatnonzero(rng.random(300) < share) + 1000
    values = np.convolve(rng.standard_exponential(minute.size + 4), np.ones(5), "valid")
    ours = stylised_facts._autocorrelation(values, minute, np.array([lag]))
    assert ours[0] == pytest.approx(_slow_autocorrelation(values, minute, lag), abs=1e-10)


@pytest.mark.parametrize("tail_index", [2.0, 3.5])
def test_hills_index_of_a_pareto_tail_is_its_exponent(tail_index):
    size = 1 + np.random.default_rng(0).pareto(tail_index, 2_000_000)
    assert stylised_facts._hill(size) == pytest.approx(tail_index, rel=0.06)


def test_hills_index_rests_on_the_largest_sizes_over_the_next_one():
    size = np.arange(1.0, 2001.0)
    logs = np.log(np.array([2000, 1999, 1998, 1997]) / 1996)
    assert stylised_facts._hill(size) == pytest.approx(1 / logs.mean())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]), min_size=1, max_size=30))
def test_share_above_counts_what_is_strictly_above(values):
    levels = np.array([0.0, 0.3, 1.0, 5.0])
    slow = [sum(value > level for value in values) / len(values) for level in levels]
    np.testing.assert_allclose(stylised_facts._share_above(np.array(values), levels), slow)


def test_daily_cycles_are_means_by_hour_over_their_mean(market):
    facts = stylised_facts.compute(market)
    hours = [str(time)[11:13] for time in market.time]
    means = [
        np.mean([v for v, h in zip(market.volume, hours, strict=True) if h == f"{hour:02}"])
        for hour in range(24)
    ]
    np.testing.assert_allclose(facts.volume_cycle, means / np.mean(means))
    assert np.mean(facts.volatility_cycle) == pytest.approx(1)


def test_kurtosis_of_gaussian_returns_is_nil():
    rng = np.random.default_rng(1)
    close = np.exp(np.cumsum(0.001 * rng.standard_normal(200_000)))
    facts = stylised_facts.compute(Bars(simulate.bars(200_000, 0, gap_rate=0).time, *[close] * 5))
    assert abs(facts.kurtosis) < 0.1
    assert facts.zero_range_share == 1


def test_patterns_and_windows_are_counted_per_million_bars(market):
    facts = stylised_facts.compute(market)
    labels = patterns.detect(*market[1:5])
    counts = [np.sum(labels == pattern) * 1e6 / 20_000 for pattern in range(8)]
    np.testing.assert_allclose(facts.patterns_per_million, counts)
    cut = windows.cut(market, labels).label.size
    assert facts.windows_per_million == pytest.approx(cut * 1e6 / 20_000)
    assert cut > 0


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 2), slice(3, 5), slice(None, None, -1)])
def test_bars_too_few_or_out_of_order_are_refused(few, rows):
    with pytest.raises(InputError, match="ascending"):
        stylised_facts.compute(Bars(*(column[rows] for column in few)))


def test_bars_off_the_minute_are_refused(few):
    late = few._replace(time=few.time + np.timedelta64(1, "s"))
    with pytest.raises(InputError, match="whole minute"):
        stylised_facts.compute(late)


def test_the_picture_is_written_and_small(market, tmp_path):
    facts = stylised_facts.compute(market)
    stylised_facts.draw(facts, stylised_facts.compute(simulate.bars(30_000, 1)), tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").stat().st_size < 250_000
