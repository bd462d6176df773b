"""The simulated market keeps its promises, and has what real minutes have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpfinjax.data import patterns, simulate, stylised_facts, windows
from dpfinjax.data.bars import Bars, check
from dpfinjax.errors import InputError

MINUTE = np.timedelta64(1, "m")


@pytest.fixture(scope="module")
def market() -> Bars:
    return simulate.bars(400_000, seed=1)


@pytest.fixture(scope="module")
def facts(market: Bars) -> stylised_facts.Facts:
    return stylised_facts.compute(market)


@pytest.fixture(scope="module")
def gaussian(market: Bars) -> stylised_facts.Facts:
    """The facts of a Gaussian random walk on the same minutes."""
    rng = np.random.default_rng(0)
    close = 300 * np.exp(np.cumsum(0.001 * rng.standard_normal(market.close.size)))
    open = np.append(300, close[:-1])
    high, low = np.maximum(open, close), np.minimum(open, close)
    return stylised_facts.compute(
        Bars(market.time, open, high, low, close, 1 + rng.random(close.size))
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.one_of(st.integers(1, 5), st.integers(1, 30_000)),
    seed=st.integers(0, 2**70),
    tick=st.sampled_from([0.01, 0.5, 0.03, 1e-8, 3.0]),
    ticks=st.floats(100, 1e9),
    volatility=st.floats(1e-6, 0.01),
    gap_rate=st.one_of(st.just(0.0), st.floats(0, 0.9)),
)
def test_every_bar_is_valid(n, seed, tick, ticks, volatility, gap_rate):
    made = simulate.bars(
        n, seed, start_price=ticks * tick, tick=tick, volatility=volatility, gap_rate=gap_rate
    )
    assert all(column.shape == (n,) for column in made)
    assert all(column.dtype == np.float64 for column in made[1:])
    check(made, "sim")
    assert np.all((made.time - made.time[0]) % MINUTE == np.timedelta64(0, "s"))
    assert np.all(made.volume > 0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), lengths=st.tuples(*[st.integers(1, 40_000)] * 2))
def test_a_longer_run_begins_with_the_shorter_one(seed, lengths):
    short, long = (simulate.bars(n, seed) for n in sorted(lengths))
    for column, longer in zip(short, long, strict=True):
        np.testing.assert_array_equal(column, longer[: column.size])


def test_two_seeds_give_two_markets():
    first, second = (simulate.bars(2000, seed).close for seed in (0, 1))
    assert np.mean(first == second) < 0.01
    move = np.diff(np.log([first, second]), axis=1)
    assert abs(np.corrcoef(move)[0, 1]) < 0.1


def test_tails_are_heavy(facts, gaussian):
    assert facts.kurtosis > 12
    assert 2.5 < facts.tail_index < 5
    assert gaussian.kurtosis < 1
    assert gaussian.tail_index > 8


def test_volatility_clusters_over_minutes_hours_and_a_day(facts, gaussian):
    for lag, least in ((1, 0.25), (60, 0.12), (1440, 0.04)):
        at = stylised_facts.LAGS.tolist().index(lag)
        assert facts.autocorrelation[at] > least
        assert abs(gaussian.autocorrelation[at]) < 0.01


def test_volatility_and_volume_have_a_daily_cycle(market):
    hour = market.time.astype("datetime64[h]").astype(np.int64) % 24
    night, day = (hour >= 3) & (hour < 9), (hour >= 12) & (hour < 18)
    body = np.abs(np.log(market.close / market.open))
    assert np.log(body[day].mean() / body[night].mean()) > 0.07
    log_volume = np.log(market.volume)
    assert log_volume[day].mean() - log_volume[night].mean() > 0.2


def test_the_daily_cycle_follows_the_clock_and_not_the_first_bar():
    # Same draws, twelve hours apart: what is left of the ratio is the cycle.
    midnight, noon = (
        simulate.bars(720, seed=3, gap_rate=0, start=f"2020-01-01T{hour}:00").volume
        for hour in ("00", "12")
    )
    cycle = np.log(noon / midnight)
    assert cycle[60 * 3 : 60 * 5].mean() > 0.15  # three in the afternoon against three at night
    assert cycle.std() > 0.05


def test_opens_lie_above_and_below_the_close_before(market):
    next_minute = np.diff(market.time) == MINUTE
    gap = (market.open[1:] - market.close[:-1])[next_minute]
    assert np.mean(gap > 0) > 0.2
    assert np.mean(gap < 0) > 0.2
    assert np.mean(gap == 0) > 0.2


def _minutes(bars: Bars) -> float:
    """Minutes of the clock that the bars span."""
    return (bars.time[-1] - bars.time[0]) / MINUTE + 1


@pytest.mark.parametrize("gap_rate", [0.0, 0.03, 0.3, 0.9])
def test_minutes_are_missing_at_about_the_rate_asked_for(gap_rate):
    made = [simulate.bars(300_000, seed, gap_rate=gap_rate) for seed in range(4)]
    missing = 1 - 1_200_000 / sum(map(_minutes, made))
    assert missing == pytest.approx(gap_rate, rel=0.5)


@pytest.mark.parametrize(
    ("volatility", "gap_rate"), [(2e-5, 0.0), (2e-3, 0.02), (8e-3, 0.0), (2e-3, 0.5), (2e-3, 0.9)]
)
def test_the_price_is_as_volatile_as_asked_for(volatility, gap_rate):
    settings = {"volatility": volatility, "gap_rate": gap_rate, "tick": 1e-5}
    made = [simulate.bars(200_000, seed, **settings) for seed in range(4)]
    squares = sum(np.sum(np.diff(np.log(bars.close)) ** 2) for bars in made)
    measured = np.sqrt(squares / sum(map(_minutes, made)))
    assert 0.75 < measured / volatility < 1.3


def test_no_price_falls_below_one_tick():
    made = [
        simulate.bars(200_000, seed, start_price=1.0, tick=0.01, volatility=0.01)
        for seed in range(4)
    ]
    for bars in made:
        check(bars, "sim")
    assert min(bars.close.min() for bars in made) == 0.01


def test_no_shadow_reaches_below_one_tick(monkeypatch):
    monkeypatch.setattr(simulate, "_BLOCK_MINUTES", 1000)
    wild = simulate._Minutes(*np.full((4, 1000), 50.0))
    made = simulate._add_extremes(np.random.default_rng(0), np.full((2, 1000), 3.0), wild)
    assert made[2].min() == 1


def test_the_price_stays_near_its_start(market):
    assert 30 < market.low.min() < market.high.max() < 3000


def test_prices_at_a_decimal_tick_are_the_nearest_numbers_to_their_decimals(market):
    for price in market[1:5]:
        np.testing.assert_array_equal(price, np.round(price, 2))
        assert all(float(f"{value:.2f}") == value for value in price[:1000])


@pytest.mark.parametrize("tick", [0.25, 0.03, 5.0])
def test_prices_are_whole_multiples_of_the_tick(tick):
    made = simulate.bars(5000, seed=5, start_price=1000 * tick, tick=tick)
    for price in made[1:5]:
        np.testing.assert_array_equal(price, np.round(price / tick) * tick)


def test_volume_goes_with_volatility(facts):
    assert facts.volume_range_correlation > 0.35


def test_some_bars_stand_still(facts):
    assert 0.05 < facts.zero_range_share < 0.3
    assert facts.zero_body_share > facts.zero_range_share


def test_jumps_come_at_their_rate_and_of_their_size(monkeypatch):
    minutes = simulate._BLOCK_MINUTES
    still = simulate._Minutes(*np.full((4, minutes), [[1.0], [1e-9], [1.0], [0.0]]))
    monkeypatch.setattr(simulate, "_SHAPE", simulate._SHAPE._replace(jump_scale=1000.0))
    rng = np.random.default_rng(0)
    moves = [np.diff(simulate._hidden_price(rng, still, 0.0)[0]) for _ in range(30)]
    jumps = np.abs(np.concatenate(moves)) / 1e-9
    jumps = jumps[jumps > 10]
    rate = simulate._SHAPE.jump_rate * (1 - simulate._SHAPE.return_share)
    assert jumps.size == pytest.approx(30 * minutes * rate, rel=0.4)
    assert jumps.mean() == pytest.approx(1000, rel=0.5)


def test_bodies_have_inertia(market):
    direction = np.sign(market.close - market.open)
    direction = direction[direction != 0]
    assert np.mean(direction[1:] != direction[:-1]) < 0.49


def test_all_eight_patterns_occur_about_as_often_as_in_real_minutes(market, facts):
    # Per million of the ETH/USD minutes of 2016 to 2019; these bars are few and of one seed.
    real = np.array([668, 650, 996, 1103, 550, 1176, 1257, 1401])
    ratio = facts.patterns_per_million / real
    assert np.all((ratio > 1 / 2) & (ratio < 2))


def test_three_million_bars_hold_the_papers_training_windows():
    # A million bars of the default market must hold a third of 13,170 / 0.7 disjoint windows.
    made = simulate.bars(1_000_000, seed=0)
    labels = patterns.detect(*made[1:5])
    assert 3 * windows.cut(made, labels).label.size >= 13_170 / 0.7


def test_blocks_join_without_a_seam():
    block = simulate._BLOCK_MINUTES
    made = simulate.bars(80 * block, seed=7, gap_rate=0.0)
    seams = np.arange(block, 80 * block, block)
    moves = np.abs(np.diff(np.log(made.close)))
    assert stats.mannwhitneyu(moves[seams - 1], moves).pvalue > 1e-3
    spread = np.log(made.high / made.low + 1e-5)
    before, after = (
        np.mean([spread[seams + lag] for lag in lags], 0) for lags in (range(-10, 0), range(10))
    )
    # Volatility of half an hour ago is known at a seam as well as inside a block.
    inner = seams - block // 2
    inside = [
        np.mean([spread[inner + lag] for lag in lags], 0) for lags in (range(-10, 0), range(10))
    ]
    assert np.corrcoef(before, after)[0, 1] > 0.7 * np.corrcoef(*inside)[0, 1] > 0.3
    # Half of the opens keep the bounce of the close before, over a seam as elsewhere.
    assert np.mean(made.open[seams] == made.close[seams - 1]) > 0.1


def _walked_shadows(rng, body: float, moments: int, walks: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower shadows of Gaussian walks of variance 1 pinned to 0 and `body`."""
    steps = rng.standard_normal((walks, moments)) / np.sqrt(moments)
    path = np.cumsum(steps, 1)
    time = np.arange(1, moments + 1) / moments
    path += time * (body - path[:, -1:])
    top, bottom = max(0, body), min(0, body)
    return np.maximum(path.max(1) - top, 0), np.maximum(bottom - path.min(1), 0)


@pytest.mark.parametrize("body", [-1.0, 0.0, 0.3, 2.0])
@pytest.mark.parametrize("moments", [10, 2000])
def test_shadows_follow_the_law_of_a_walk_seen_at_a_few_moments(monkeypatch, body, moments):
    walks = 4000
    rng = np.random.default_rng(8)
    monkeypatch.setattr(simulate, "_BLOCK_MINUTES", walks)
    # One unit is 1e6 ticks, so that rounding plays no part.
    open = np.full(walks, 1e9)
    ends = np.stack([open, open + body * 1e6])
    still = np.zeros(walks)
    minutes = simulate._Minutes(still, np.full(walks, 1e-3), np.full(walks, moments - 1.0), still)
    made = simulate._add_extremes(rng, ends, minutes)
    upper = (made[1] - ends.max(0)) / 1e6
    lower = (ends.min(0) - made[2]) / 1e6
    for ours, walked in zip(
        (upper, lower), _walked_shadows(rng, body, moments, walks), strict=True
    ):
        assert stats.ks_2samp(ours, walked).statistic < (0.05 if moments > 1000 else 0.15)
        assert np.mean(ours) == pytest.approx(np.mean(walked), rel=0.25, abs=0.01)
    if moments > 1000:
        walked = _walked_shadows(rng, body, moments, walks)
        assert np.corrcoef(upper, lower)[0, 1] == pytest.approx(np.corrcoef(walked)[0, 1], abs=0.06)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n", 0),
        ("n", -3),
        ("n", 2.5),
        ("seed", -1),
        ("seed", 1.5),
        ("start_price", 0.5),
        ("start_price", np.nan),
        ("start_price", 1e12),
        ("tick", 0.0),
        ("tick", np.inf),
        ("volatility", 0.0),
        ("volatility", 0.1),
        ("gap_rate", -0.1),
        ("gap_rate", 1.0),
        ("gap_rate", np.nan),
        ("gap_rate", "much"),
        ("start", "yesterday"),
        ("start", "2020-01-01T00:00:30"),
        ("tick", "small"),
        ("n", None),
    ],
)
def test_a_bad_argument_is_named_in_one_sentence(argument, value):
    with pytest.raises(InputError, match=argument) as error:
        simulate.bars(**({"n": 10, "seed": 0} | {argument: value}))
    assert str(error.value).count(".bars got") == 1
