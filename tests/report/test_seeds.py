"""Means over seeds: intervals that hold as often as they say, and nothing left out."""

import math

import numpy as np
import pytest
from scipy import stats

from dpfinjax.report import seeds


def test_the_interval_is_students():
    shares = [0.91, 0.92, 0.9, 0.93, 0.915]
    mean = seeds.mean(shares)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(shares), scale=stats.sem(shares))
    assert (mean.low, mean.high) == pytest.approx((low, high))
    assert (mean.value, mean.sd) == pytest.approx((np.mean(shares), np.std(shares, ddof=1)))


def test_the_interval_covers_the_truth_95_times_in_100():
    draws = np.random.default_rng(0).normal(0.6, 0.01, (4000, 3))
    means = [seeds.mean(row.tolist()) for row in draws]
    covered = np.mean([mean.low <= 0.6 <= mean.high for mean in means])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(means))


def test_one_seed_has_no_interval_and_none_has_no_mean():
    one, none = seeds.mean([0.9]), seeds.mean([])
    assert one.value == 0.9
    assert one.seeds == 1
    assert none.seeds == 0
    assert all(map(math.isnan, (one.sd, one.low, one.high, none.value, none.low)))


def test_a_seed_without_a_number_leaves_the_mean_unknown():
    mean = seeds.mean([0.9, math.nan, 0.92])
    assert math.isnan(mean.value)
    assert math.isnan(mean.low)
    assert mean.seeds == 3


def test_shares_stay_shares():
    mean = seeds.mean([0.9, 1.0])
    assert mean.low >= 0
    assert mean.high == 1
