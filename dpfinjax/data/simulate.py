"""A seeded market whose minute bars look like real ones to whoever looks for patterns in them.

Every minute has a volatility, an activity and a move of the hidden price:

* Volatility: the exponential of a sum of first-order autoregressions whose half-lives run from
  minutes to weeks, plus a daily cycle and a surprise of the minute. Such a sum stands for long
  memory (Barndorff-Nielsen and Shephard 2001; Corsi 2009).
* Activity: the same autoregressions and the same surprise, weighed otherwise, so that volume and
  volatility go together (Clark 1973). It says how often the price changes inside the minute. In the
  quietest minutes nothing is traded: they have no bar. In the next quietest the price stands still.
* Move: Gaussian given volatility and activity, with a little inertia, and now and then a jump.
* Open and close lie off the hidden price by a bounce within the spread (Roll 1984), which lasts or
  is drawn anew. That makes the gaps between a close and the next open.
* High and low: the extremes of a Brownian bridge from open to close. A bridge of variance v over a
  body a exceeds its upper end by (sqrt(a^2 + 2 v E) - a) / 2 with E exponential (Karatzas and
  Shreve 1991, section 4.3), and so its lower end; seen at k moments only, it does so by
  0.5826 sqrt(v / k) less, if at all (Broadie, Glasserman and Kou 1997). Each of the two has this
  law; that they go against each other is matched in correlation, not exactly.

The numbers are fitted to ETH/USD minutes of 2016 to 2019; `docs/simulator.png` compares the two.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter
from scipy.special import ndtri

from dpfinjax.data.bars import Bars
from dpfinjax.errors import InputError

DAY_MINUTES = 1440
_BLOCK_MINUTES = 8 * DAY_MINUTES
_REVERSION = 0.5 ** (1 / (60 * DAY_MINUTES))
_BRIDGE_SHORTFALL = 0.5826

_HALF_LIVES = np.array([4, 30, 240, 2000, 15_000])
"""Of the autoregressions, in minutes."""
_DECAYS = 0.5 ** (1 / _HALF_LIVES)
_VOLATILITY_CYCLE = np.array([0.010 - 0.074j, 0.031 + 0.024j, 0.037])
_VOLUME_CYCLE = np.array([-0.147 - 0.104j, 0.042 + 0.048j, 0.092 - 0.009j])
"""Cosine and sine coefficients of the logs, with periods of 24, 12 and 8 hours."""


class _Shape(NamedTuple):
    """What is fitted to real minutes.

    Attributes:
      volatility_loads: weights of the autoregressions, of variance 1 each, in log volatility.
      volatility_surprise: weight of the minute's surprise in it.
      activity_loads: weights of the autoregressions in the activity, which has variance 1; the
        surprise has the rest.
      still_share: share of the traded minutes in which the price does not change.
      trades_growth: growth of the log number of price changes with the activity.
      trades_half: number of price changes at which half of the variance is there.
      return_share: share of the minutes that end at the hidden price at which they began.
      inertia: share of a move that is added to the next one.
      open_bounce: root mean square of an open's bounce in units of the volatility.
      close_bounce: the same of a close.
      lasting_share: share of the opens that keep the bounce of the close before.
      jump_rate: jumps per minute.
      jump_scale: mean size of a jump in units of the minute's volatility.
      volume_level: mean log volume at mean activity.
      volume_activity: growth of the log volume with the activity.
      volume_noise: standard deviation of what else is in the log volume.
    """

    volatility_loads: tuple[float, ...] = (0.28, 0.28, 0.34, 0.34, 0.37)
    volatility_surprise: float = 0.30
    activity_loads: tuple[float, ...] = (0.30, 0.30, 0.46, 0.46, 0.44)
    still_share: float = 0.14
    trades_growth: float = 1.0
    trades_half: float = 3.0
    return_share: float = 0.08
    inertia: float = 0.135
    open_bounce: float = 0.076
    close_bounce: float = 0.166
    lasting_share: float = 0.25
    jump_rate: float = 2e-4
    jump_scale: float = 5.0
    volume_level: float = 3.3
    volume_activity: float = 1.6
    volume_noise: float = 1.5


_SHAPE = _Shape()


class _Market(NamedTuple):
    """One market's settings, in the units of the computation.

    Prices are counted in ticks, and the hidden price in logs over the start price.
    """

    start_ticks: float
    scale: float
    idle_below: float
    still_below: float
    volatility_cycle: np.ndarray
    volume_cycle: np.ndarray


class _Minutes(NamedTuple):
    """What drives one block of minutes: arrays of one length."""

    spread: np.ndarray
    volatility: np.ndarray
    trades: np.ndarray
    activity: np.ndarray


def bars(
    n: int,
    seed: int,
    *,
    start_price: float = 300.0,
    tick: float = 0.01,
    volatility: float = 0.002,
    gap_rate: float = 0.02,
    start: str | np.datetime64 = "2016-01-01",
) -> Bars:
    """Simulates minute bars.

    The same arguments give the same bars, and a longer run begins with the bars of a shorter one.
    The price reverts to `start_price` with a half-life of 60 days, so that the tick stays a tick.

    Args:
      n: number of bars, at least 1.
      seed: any whole number that is not negative.
      start_price: price before the first bar, from 100 to 1e9 ticks.
      tick: step of all prices; a multiple of it in float64 (a quotient where 1 / tick is whole, so
        that prices at a tick of 0.01 are the nearest numbers to two decimals).
      volatility: standard deviation of the log price's change in a minute of the clock, in the
        long run and about; from 1e-6 to 0.01.
      gap_rate: share of minutes without a bar in the long run, from 0 to 0.9.
      start: the first minute, UTC.

    Returns:
      n valid bars in ascending time; minutes are missing between them.

    Raises:
      InputError: if an argument is out of its range.

    >>> bars(3, seed=0).close.shape
    (3,)
    """
    _check_whole("n", n, 1)
    _check_whole("seed", seed, 0)
    _check_range("tick", tick, 1e-9, 1e9)
    _check_range("start_price", start_price, 100 * tick, 1e9 * tick)
    _check_range("volatility", volatility, 1e-6, 0.01)
    _check_range("gap_rate", gap_rate, 0, 0.9)
    first_minute = _first_minute(start)
    market = _market(start_price / tick, volatility, gap_rate, first_minute)
    minute, prices, volume = np.empty(n, np.int64), np.empty((4, n)), np.empty(n)
    done = 0
    for at, ticks, amount in _blocks(market, np.random.Generator(np.random.PCG64(seed))):
        taken = min(n - done, at.size)
        part = slice(done, done + taken)
        minute[part], prices[:, part], volume[part] = at[:taken], ticks[:, :taken], amount[:taken]
        done += taken
        if done == n:
            break
    open, high, low, close = _to_price(prices, tick)
    time = first_minute + minute.astype("timedelta64[m]")
    return Bars(time, open, high, low, close, volume)


def _check_whole(name: str, value: int, least: int) -> None:
    """Refuses what is not a whole number from `least` up."""
    if not isinstance(value, int | np.integer) or value < least:
        raise InputError(
            f"simulate.bars got {name}={value!r}; it must be a whole number from {least} up."
        )


def _check_range(name: str, value: float, least: float, most: float) -> None:
    """Refuses what is not a number in a range; nan is in none."""
    if not (isinstance(value, int | float | np.number) and least <= value <= most):
        raise InputError(
            f"simulate.bars got {name}={value!r}; it must be a number from {least:g} to {most:g}."
        )


def _first_minute(start: str | np.datetime64) -> np.datetime64:
    """The start as a whole minute."""
    time: np.datetime64 = np.datetime64("NaT", "us")
    with contextlib.suppress(ValueError):
        time = np.datetime64(str(start).removesuffix("Z"), "us")
    if np.isnat(time) or time.astype(np.int64) % 60_000_000:
        raise InputError(
            f"simulate.bars got start={str(start)!r}; it must be a whole minute in ISO 8601, "
            "UTC, such as 2016-01-01T00:00."
        )
    return time


def _market(
    start_ticks: float, volatility: float, gap_rate: float, start: np.datetime64
) -> _Market:
    """Works out one market's settings."""
    still_below = ndtri(gap_rate + (1 - gap_rate) * _SHAPE.still_share)
    minute_of_day = int(start.astype("datetime64[m]").astype(np.int64)) % DAY_MINUTES
    angle = 2 * np.pi * (minute_of_day + np.arange(_BLOCK_MINUTES)) / DAY_MINUTES
    waves = np.exp(-1j * angle * np.arange(1, 4)[:, None])
    return _Market(
        start_ticks=start_ticks,
        scale=volatility / _unscaled_sd(still_below),
        idle_below=ndtri(gap_rate),
        still_below=still_below,
        volatility_cycle=(_VOLATILITY_CYCLE @ waves).real,
        volume_cycle=(_VOLUME_CYCLE @ waves).real,
    )


def _loads() -> tuple[np.ndarray, np.ndarray]:
    """How log volatility and activity load on the autoregressions and, last, the surprise."""
    log_volatility = np.append(_SHAPE.volatility_loads, _SHAPE.volatility_surprise)
    rest = np.sqrt(1 - np.sum(np.square(_SHAPE.activity_loads)))
    return log_volatility, np.append(_SHAPE.activity_loads, rest)


def _unscaled_sd(still_below: float) -> float:
    """The standard deviation of a minute's return at scale 1, jumps and cycle left out.

    Under the weight exp(2 log volatility) the activity is still Gaussian, but moved.
    """
    log_volatility, activity = _loads()
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    nodes = nodes + 2 * log_volatility @ activity
    mobility = weights @ _mobility(_trades(nodes, still_below)) / weights.sum()
    move = (1 - _SHAPE.return_share) * mobility * np.exp(2 * log_volatility[-1] ** 2)
    bounces = 2 * _SHAPE.close_bounce**2
    return np.sqrt(move + bounces) * np.exp(log_volatility[:-1] @ log_volatility[:-1])


def _trades(activity: np.ndarray, still_below: float) -> np.ndarray:
    """How often the price changes in a minute; 0 where it stands still."""
    return np.expm1(_SHAPE.trades_growth * np.maximum(0, activity - still_below))


def _mobility(trades: np.ndarray) -> np.ndarray:
    """The share of a busy minute's variance that so many changes bring about."""
    return trades / (trades + _SHAPE.trades_half)


def _blocks(
    market: _Market, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the bars of one block of minutes after another: minutes, prices in ticks, volumes."""
    factors, price, bounce, first = rng.standard_normal(_DECAYS.size), 0.0, 0.0, 0
    while True:
        minutes, factors = _drive(market, rng, factors)
        hidden, stands = _hidden_price(rng, minutes, price)
        bounces = _bounces(rng, minutes.spread, stands, bounce)
        # A bar opens at the hidden price of the minute before, off by its bounce.
        log_price = np.stack([np.append(price, hidden[:-1]), hidden]) + bounces
        price, bounce = hidden[-1], bounces[1, -1]
        ticks = _add_extremes(rng, market.start_ticks * np.exp(log_price), minutes)
        volume = _volume(rng, market, minutes.activity)
        traded = np.flatnonzero(minutes.activity >= market.idle_below)
        yield first + traded, ticks[:, traded], volume[traded]
        first += _BLOCK_MINUTES


def _drive(
    market: _Market, rng: np.random.Generator, last: np.ndarray
) -> tuple[_Minutes, np.ndarray]:
    """Volatility and activity of a block; also the autoregressions' last values."""
    factors = np.empty((last.size + 1, _BLOCK_MINUTES))
    rng.standard_normal(out=factors)
    for row, decay, before in zip(factors, _DECAYS, last, strict=False):
        row[:], _ = lfilter([np.sqrt(1 - decay**2)], [1, -decay], row, zi=[decay * before])
    volatility_loads, activity_loads = _loads()
    surprise = factors[-1]
    spread = market.scale * np.exp(market.volatility_cycle + volatility_loads[:-1] @ factors[:-1])
    activity = activity_loads @ factors
    trades = _trades(activity, market.still_below)
    volatility = spread * np.exp(volatility_loads[-1] * surprise) * np.sqrt(_mobility(trades))
    return _Minutes(spread, volatility, trades, activity), factors[:-1, -1].copy()


def _hidden_price(
    rng: np.random.Generator, minutes: _Minutes, before: float
) -> tuple[np.ndarray, np.ndarray]:
    """The hidden log price at each minute's end; also whether it ends where it began."""
    stands = rng.random(_BLOCK_MINUTES) < _SHAPE.return_share
    stands |= minutes.trades == 0
    shock = rng.standard_normal(_BLOCK_MINUTES + 1)
    shock = (shock[1:] + _SHAPE.inertia * shock[:-1]) / np.sqrt(1 + _SHAPE.inertia**2)
    moves = minutes.volatility * shock
    jump = rng.integers(_BLOCK_MINUTES, size=rng.poisson(_SHAPE.jump_rate * _BLOCK_MINUTES))
    moves[jump] += _SHAPE.jump_scale * minutes.volatility[jump] * rng.laplace(size=jump.size)
    moves[stands] = 0
    return lfilter([1], [1, -_REVERSION], moves, zi=[_REVERSION * before])[0], stands


def _bounces(
    rng: np.random.Generator, spread: np.ndarray, stands: np.ndarray, before: float
) -> np.ndarray:
    """How far open and close lie off the hidden price [2, minutes].

    An open may keep the last close's bounce; a close keeps the open's where the price stands still.
    """
    signed = rng.uniform(-1, 1, (_BLOCK_MINUTES, 2))
    size = np.sqrt(-np.log1p(-np.abs(signed))) * [_SHAPE.open_bounce, _SHAPE.close_bounce]
    drawn = np.append(before, np.copysign(size, signed) * spread[:, None])
    kept = np.stack([rng.random(_BLOCK_MINUTES) < _SHAPE.lasting_share, stands], 1)
    place = np.arange(1, drawn.size)
    place[kept.ravel()] = 0
    return drawn[np.maximum.accumulate(place)].reshape(-1, 2).T


def _add_extremes(rng: np.random.Generator, ends: np.ndarray, minutes: _Minutes) -> np.ndarray:
    """Open, high, low and close in whole ticks [4, minutes], from open and close [2, minutes]."""
    ends = np.maximum(1, np.rint(ends))
    top, bottom = ends.max(0), ends.min(0)
    body, sd = top - bottom, minutes.volatility * ends[0]
    reach = np.sqrt(body**2 + 2 * sd**2 * _excursions(rng, body, sd))
    unseen = _BRIDGE_SHORTFALL * sd / np.sqrt(1 + minutes.trades)
    upper, lower = np.maximum(0, np.rint((reach - body) / 2 - unseen))
    return np.stack([ends[0], top + upper, np.maximum(1, bottom - lower), ends[1]])


def _excursions(rng: np.random.Generator, body: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Two exponentials a minute [2, minutes], the smaller one the larger the other is.

    A bridge that goes far up has little time left to go far down, the less so the longer its body.
    The second rank is the first one's mirror image, blurred and folded back into [0, 1]: still
    uniform, and with a blur that gives a bridge's extremes the correlation they have.
    """
    variance = sd**2
    blur = 1 - 0.59 * variance / (variance + body**2 + 1e-12)
    rank = rng.random(_BLOCK_MINUTES)
    mirrored = np.abs(1 - rank + blur * rng.uniform(-1, 1, _BLOCK_MINUTES))
    mirrored = 1 - np.abs(1 - mirrored)
    return -np.log(np.maximum([rank, mirrored], 2.0**-60))


def _volume(rng: np.random.Generator, market: _Market, activity: np.ndarray) -> np.ndarray:
    """The volume of each minute."""
    noise = _SHAPE.volume_noise * rng.standard_normal(_BLOCK_MINUTES)
    log_volume = _SHAPE.volume_level + market.volume_cycle + _SHAPE.volume_activity * activity
    return np.exp(log_volume + noise)


def _to_price(ticks: np.ndarray, tick: float) -> np.ndarray:
    """Whole ticks as prices."""
    per_unit = round(1 / tick)
    exact = per_unit and 1 / per_unit == tick
    return np.divide(ticks, per_unit, out=ticks) if exact else np.multiply(ticks, tick, out=ticks)
