import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.data import patterns, splits
from dpfinjax.errors import InputError
from tests.data.test_patterns import random_walk

FRACTIONS = (0.70, 0.05, 0.10, 0.075, 0.075)
PURGE = patterns.LOOKBACK_BARS

fractions = st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(
    lambda shares: [share / max(1, sum(shares)) for share in shares]
)


@settings(deadline=None)
@given(st.integers(0, 500), fractions, st.integers(0, 2**32))
def test_random_parts_share_nothing_and_have_the_asked_shares(count, shares, seed):
    parts = splits.at_random(count, shares, seed)
    together = np.concatenate(parts)
    assert np.unique(together).size == together.size
    assert ((together >= 0) & (together < count)).all()
    for part, share in zip(parts, shares, strict=True):
        assert abs(part.size - share * count) < 1 + 1e-5
        assert (np.diff(part) > 0).all()


def test_fractions_that_sum_to_one_leave_no_example_out():
    for count in range(200):
        assert sum(part.size for part in splits.at_random(count, FRACTIONS, 0)) == count


def test_random_parts_follow_from_the_seed_alone():
    first, again, other = (splits.at_random(100, FRACTIONS, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_random_parts_are_not_in_the_order_of_time():
    last = splits.at_random(1000, FRACTIONS, 0)[-1]
    assert last.min() < 200
    assert last.max() > 800


@settings(deadline=None)
@given(
    st.lists(st.integers(10, 900), min_size=1, max_size=300),
    fractions,
    st.integers(PURGE, 2 * PURGE),
)
def test_the_purge_gap_lies_before_every_later_part(steps, shares, purge_bars):
    place = np.cumsum(steps)
    parts = [part for part in splits.chronological(place, shares, purge_bars, 10) if part.size]
    for earlier, later in itertools.pairwise(parts):
        first_bar, last_bar = place[later[0]] - 9, place[earlier[-1]]
        assert first_bar - last_bar - 1 >= purge_bars


def test_chronological_parts_lose_no_more_than_the_purge_gap():
    place = np.arange(9, 50_009)
    parts = splits.chronological(place, FRACTIONS, PURGE, 10)
    assert parts[0].size == int(0.70 * place.size)
    for earlier, later in itertools.pairwise(parts):
        first_bar, last_bar = place[later[0]] - 9, place[earlier[-1]]
        assert first_bar - last_bar - 1 == PURGE


def test_no_label_of_a_later_part_rests_on_a_bar_of_an_earlier_one():
    walk = random_walk(seed=9, bars=40_000, jump=2, body=6, shadow=5, level=10_000)
    walk = [price[walk[0] != walk[3]] for price in walk]
    labels = patterns.detect(*walk)
    place = np.flatnonzero(labels >= 0)[::3]
    parts = splits.chronological(place, (0.3, 0.3, 0.3), PURGE, 10)
    for earlier, later in itertools.pairwise(parts):
        after = place[earlier[-1]] + 1
        alone = patterns.detect(*(price[after:] for price in walk))
        np.testing.assert_array_equal(alone[place[later] - after], labels[place[later]])
        assert later.size > 10


def test_a_purge_gap_that_does_not_cover_the_labels_is_refused():
    with pytest.raises(InputError, match="purge_bars is 1449"):
        splits.chronological(np.arange(10), FRACTIONS, PURGE - 1, 10)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), fractions, st.integers(0, 9))
def test_a_unit_is_in_one_random_part_with_all_of_its_windows(owners, shares, seed):
    unit = np.unique(owners, return_inverse=True)[1]
    among = splits.at_random(int(unit.max()) + 1, shares, seed)
    parts = splits.of_units(among, unit)
    for units, part in zip(among, parts, strict=True):
        assert (np.diff(part) > 0).all()
        np.testing.assert_array_equal(part, [row for row, u in enumerate(unit) if u in units])


@settings(deadline=None)
@given(
    st.lists(st.integers(10, 900), min_size=1, max_size=300), fractions, st.integers(0, 2**32 - 1)
)
def test_a_unit_is_in_one_chronological_part(steps, shares, seed):
    place = np.cumsum(steps)
    unit = np.cumsum(np.random.default_rng(seed).random(place.size) < 0.2)
    unit -= unit[0]
    parts = splits.chronological(place, shares, PURGE, 10, unit)
    owners = [set(unit[part].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(set().union(*owners))
    filled = [part for part in parts if part.size]
    for earlier, later in itertools.pairwise(filled):
        assert place[later[0]] - 9 - place[earlier[-1]] - 1 >= PURGE


def test_windows_as_units_are_divided_as_without():
    place = np.cumsum(np.random.default_rng(0).integers(10, 900, 300))
    plain = splits.chronological(place, FRACTIONS, PURGE, 10)
    alike = splits.chronological(place, FRACTIONS, PURGE, 10, np.arange(300))
    assert all(np.array_equal(a, b) for a, b in zip(plain, alike, strict=True))
