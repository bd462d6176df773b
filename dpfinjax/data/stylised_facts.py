"""The stylised facts of minute bars: what simulated bars must share with real ones.

Cont (2001), "Empirical properties of asset returns: stylized facts and statistical issues",
Quantitative Finance 1:223-236, names most of them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import fft
from scipy.special import ndtr

from dpfinjax import plots
from dpfinjax.data import patterns, windows
from dpfinjax.data.bars import Bars
from dpfinjax.errors import InputError

DAY_MINUTES = 1440
LAGS = np.union1d(
    np.geomspace(1, 60, 20).astype(int), np.geomspace(60, DAY_MINUTES, 16).astype(int)
)
"""Lags, in minutes, at which the autocorrelation of |returns| is taken."""
RETURN_LEVELS = np.geomspace(0.05, 100, 60)
"""Multiples of the standard deviation at which the tail of |returns| is taken."""
SHADOW_LEVELS = np.geomspace(0.01, 100, 50)
"""Multiples of the body at which the shadows' distribution is taken."""
CYCLE_MINUTES = 60
"""Width of one slot of the daily cycles."""
TAIL_SHARE = 0.002
"""Share of the largest |returns| from which Hill's tail index is taken."""

_GREY, _BLUE = "#718096", "#2b6cb0"


class Facts(NamedTuple):
    """The stylised facts of one set of minute bars.

    A return is the log of a close over the close one minute before; where that minute has no bar,
    there is no return. A share or a ratio with nothing to count is nan.

    Attributes:
      bars: number of bars.
      missing_share: share of minutes between the first and the last bar that have no bar.
      return_sd: standard deviation of the returns.
      kurtosis: excess kurtosis of the returns; 0 for Gaussian ones.
      tail_index: Hill's (1975) tail index of |returns|; the smaller, the heavier the tail.
      return_tail: share of |returns| / return_sd above each of `RETURN_LEVELS`.
      autocorrelation: of |returns|, at `LAGS`.
      volatility_cycle: mean |return| in each slot of the day (UTC) over the mean of all slots.
      volume_cycle: the same of the volume per bar; nan where there is no volume.
      volume_range_correlation: correlation of log volume and log(high / low), where both exist.
      zero_range_share: share of bars with high == low.
      zero_body_share: share of bars with close == open, those with zero range included.
      open_gap_share: share of bars that open off the close of one minute before.
      open_gap_to_body: median of those gaps over the median body that is not zero.
      upper_tail: share of bars whose upper shadow is above each of `SHADOW_LEVELS` times the
        body, of those with close != open.
      lower_tail: the same of the lower shadow.
      patterns_per_million: labels of each of `patterns.PATTERNS` per million bars.
      windows_per_million: disjoint labelled windows, as `windows.cut` cuts them, per million bars.
    """

    bars: int
    missing_share: float
    return_sd: float
    kurtosis: float
    tail_index: float
    return_tail: np.ndarray
    autocorrelation: np.ndarray
    volatility_cycle: np.ndarray
    volume_cycle: np.ndarray
    volume_range_correlation: float
    zero_range_share: float
    zero_body_share: float
    open_gap_share: float
    open_gap_to_body: float
    upper_tail: np.ndarray
    lower_tail: np.ndarray
    patterns_per_million: np.ndarray
    windows_per_million: float


@np.errstate(invalid="ignore", divide="ignore")
def compute(bars: Bars) -> Facts:
    """Measures the stylised facts of minute bars.

    Args:
      bars: minute bars, of which at least two follow another by one minute.

    Returns:
      The facts.

    Raises:
      InputError: if the bars are not minute bars, or fewer than that.
    """
    minute = _minutes(bars)
    later = np.flatnonzero(np.diff(minute) == 1) + 1
    returns = np.log(bars.close[later] / bars.close[later - 1])
    size, spread = np.abs(returns), returns.std()
    body = np.abs(bars.close - bars.open)
    moved = body > 0
    gap = np.abs(bars.open[later] - bars.close[later - 1])
    top, bottom = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    labels = patterns.detect(bars.open, bars.high, bars.low, bars.close)
    millions = minute.size / 1e6
    return Facts(
        bars=minute.size,
        missing_share=1 - minute.size / (minute[-1] - minute[0] + 1),
        return_sd=spread,
        kurtosis=np.mean((returns - returns.mean()) ** 4) / spread**4 - 3,
        tail_index=_hill(size),
        return_tail=_share_above(size / spread, RETURN_LEVELS),
        autocorrelation=_autocorrelation(size, minute[later], LAGS),
        volatility_cycle=_daily_cycle(size, minute[later]),
        volume_cycle=_daily_cycle(bars.volume, minute),
        volume_range_correlation=_log_correlation(bars.volume, bars.high / bars.low - 1),
        zero_range_share=np.mean(bars.high == bars.low),
        zero_body_share=1 - np.mean(moved),
        open_gap_share=np.mean(gap > 0),
        open_gap_to_body=_median(gap[gap > 0]) / _median(body[moved]),
        upper_tail=_share_above((bars.high - top)[moved] / body[moved], SHADOW_LEVELS),
        lower_tail=_share_above((bottom - bars.low)[moved] / body[moved], SHADOW_LEVELS),
        patterns_per_million=np.bincount(labels[labels >= 0], minlength=8) / millions,
        windows_per_million=windows.cut(bars, labels).label.size / millions,
    )


def _minutes(bars: Bars) -> np.ndarray:
    """The bars' open times in whole minutes."""
    minute, rest = np.divmod(bars.time.astype("datetime64[us]").astype(np.int64), 60_000_000)
    steps = np.diff(minute)
    if rest.any() or (steps <= 0).any() or np.sum(steps == 1) < 2:
        raise InputError(
            f"stylised_facts.compute got {minute.size} bars that are not minute bars; it needs "
            "bars in ascending time that open on whole minutes, and two that follow another by one."
        )
    return minute


def _hill(size: np.ndarray) -> float:
    """Hill's (1975) estimate of the tail index from the largest `TAIL_SHARE` of the sizes."""
    count = max(1, int(TAIL_SHARE * size.size))
    largest = np.partition(size, size.size - count - 1)[-count - 1 :]
    return 1 / np.mean(np.log(largest[1:] / largest[0]))


def _share_above(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The share of values above each level."""
    return 1 - np.searchsorted(np.sort(values), levels, side="right") / values.size


def _autocorrelation(values: np.ndarray, minute: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Autocorrelation on a minute grid with holes: each lag uses the pairs that exist."""
    place = minute - minute[0]
    length = fft.next_fast_len(int(place[-1] + lags.max()) + 1, real=True)
    grid = np.zeros((2, length))
    grid[0, place] = values - values.mean()
    grid[1, place] = 1
    products, pairs = fft.irfft(np.abs(fft.rfft(grid)) ** 2, length)[:, lags]
    return products / pairs / values.var()


def _daily_cycle(values: np.ndarray, minute: np.ndarray) -> np.ndarray:
    """The mean value in each slot of the day over the mean of all slots."""
    slot = minute % DAY_MINUTES // CYCLE_MINUTES
    count = np.bincount(slot, minlength=DAY_MINUTES // CYCLE_MINUTES)
    mean = np.bincount(slot, values, count.size) / count
    return mean / np.nanmean(mean)


def _log_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of the logs of two series where both are positive."""
    both = (first > 0) & (second > 0)
    logs = np.log([first[both], second[both]])
    return np.corrcoef(logs)[0, 1] if both.sum() > 1 else np.nan


def _median(values: np.ndarray) -> float:
    """The median, nan where there is none."""
    return np.median(values) if values.size else np.nan


def draw(real: Facts, simulated: Facts, path: str | Path) -> None:
    """Draws the stylised facts of simulated bars beside those of real ones.

    Args:
      real: the facts of real bars.
      simulated: the facts of simulated bars.
      path: where the PNG goes.
    """
    figure = Figure(figsize=(11.7, 6.7), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    pair = {"real": (real, _GREY), "simulated": (simulated, _BLUE)}
    for name, (facts, color) in pair.items():
        _draw_tail(panels[0], facts, name, color)
        _draw_autocorrelation(panels[1], facts, name, color)
        _draw_shadows(panels[2], facts, name, color)
        _draw_cycle(panels[3], facts.volatility_cycle, name, color)
        _draw_cycle(panels[4], facts.volume_cycle, name, color)
    _draw_patterns(panels[5], pair)
    for panel in panels[1:3]:
        panel.set_ylim(0, None)
    panels[3].set(title="Volatility by hour of the day", ylabel="mean |return| over its mean")
    panels[4].set(title="Volume by hour of the day", ylabel="mean volume over its mean")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
        panel.legend(frameon=False, fontsize="small")
    panels[0].legend(frameon=False, fontsize="small", loc="lower left")
    figure.suptitle(
        f"Stylised facts of {real.bars:,} real and {simulated.bars:,} simulated minute bars"
    )
    plots.save(figure, path)


def _draw_tail(axis: Axes, facts: Facts, name: str, color: str) -> None:
    """The tail of |returns|, with a Gaussian's."""
    label = f"{name}\ntail index {facts.tail_index:.1f}\nexcess kurtosis {facts.kurtosis:.0f}"
    axis.loglog(RETURN_LEVELS, facts.return_tail, color=color, label=label)
    if name == "simulated":
        axis.loglog(RETURN_LEVELS, 2 * ndtr(-RETURN_LEVELS), "k:", label="Gaussian")
    axis.set(
        title="Tail of minute returns",
        xlabel="|return| / standard deviation",
        ylabel="share above",
        ylim=(1e-7, 2),
    )


def _draw_autocorrelation(axis: Axes, facts: Facts, name: str, color: str) -> None:
    """How long volatility clusters."""
    axis.semilogx(LAGS, facts.autocorrelation, color=color, label=name)
    axis.set(
        title="Clustering of volatility",
        xlabel="lag [minutes]",
        ylabel="autocorrelation of |return|",
        xticks=(1, 10, 60, 360, 1440),
        xticklabels=("1", "10", "60", "360", "1,440"),
    )
    axis.minorticks_off()


def _draw_shadows(axis: Axes, facts: Facts, name: str, color: str) -> None:
    """Shadows against bodies."""
    axis.semilogx(SHADOW_LEVELS, facts.upper_tail, color=color, label=f"{name}, upper")
    axis.semilogx(SHADOW_LEVELS, facts.lower_tail, "--", color=color, label=f"{name}, lower")
    axis.set(
        title="Shadows, where close is not open",
        xlabel="shadow / body",
        ylabel="share of bars above",
    )


def _draw_cycle(axis: Axes, cycle: np.ndarray, name: str, color: str) -> None:
    """One daily cycle."""
    hours = np.arange(cycle.size + 1) * CYCLE_MINUTES / 60
    axis.stairs(cycle, hours, baseline=None, color=color, label=name, linewidth=1.5)
    axis.set(xlabel="hour [UTC]", xticks=range(0, 25, 4), xlim=(0, 24))


def _draw_patterns(axis: Axes, pair: dict[str, tuple[Facts, str]]) -> None:
    """Counts of the patterns side by side."""
    places = np.arange(len(patterns.PATTERNS))
    for side, (name, (facts, color)) in zip((-0.2, 0.2), pair.items(), strict=True):
        axis.barh(places + side, facts.patterns_per_million, 0.4, color=color, label=name)
    axis.set_yticks(places, patterns.PATTERNS)
    axis.invert_yaxis()
    windows_found = ", ".join(f"{n} {f.windows_per_million:,.0f}" for n, (f, _) in pair.items())
    axis.set(title="Patterns per million bars")
    axis.set_xlabel(f"disjoint windows: {windows_found}", fontsize="small")
