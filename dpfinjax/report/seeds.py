"""The mean of a figure over seeds, and how sure it is."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import special


class Mean(NamedTuple):
    """A share, averaged over trainings that differ in their seed alone.

    Attributes:
      value: the mean; nan if a seed has no number, since leaving it out would flatter the rest.
      sd: the sample standard deviation; nan for fewer than two seeds.
      low: lower end of the mean's 95 % interval; nan for fewer than two seeds.
      high: its upper end.
      seeds: how many trainings there are.
    """

    value: float
    sd: float
    low: float
    high: float
    seeds: int


def mean(shares: Sequence[float]) -> Mean:
    """Averages shares over seeds, with the interval of Student (1908): mean +- t sd / sqrt(n).

    The interval is about the seeds: it says nothing about other bars or another split.

    Args:
      shares: one number in [0, 1] a seed, nan where there is none.

    Returns:
      The mean with its interval, which is cut at 0 and 1.

    Example:
      >>> print("{:.2f} {:.3f} {:.3f} {:.3f}".format(*mean([0.7, 0.8, 0.9])[:4]))
      0.80 0.100 0.552 1.000
    """
    count = len(shares)
    value = math.fsum(shares) / count if count else math.nan
    if count < 2 or not math.isfinite(value):
        return Mean(value, math.nan, math.nan, math.nan, count)
    sd = statistics.stdev(shares)
    half = float(special.stdtrit(count - 1, 0.975)) * sd / math.sqrt(count)
    return Mean(value, sd, max(0.0, value - half), min(1.0, value + half), count)
