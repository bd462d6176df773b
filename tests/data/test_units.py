"""Units of privacy: who belongs together, and a choice of windows that looks at one unit alone."""

import datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dpfinjax.data import units

owners = st.lists(st.integers(0, 6), min_size=1, max_size=60)


def slow_table(unit, most):
    """The rows of each unit by hand: all of them, or those in the middle of `most` equal parts."""
    found = []
    for name in sorted(set(unit)):
        rows = [row for row, owner in enumerate(unit) if owner == name]
        if len(rows) > most:
            rows = [rows[int((part + 0.5) * len(rows) / most)] for part in range(most)]
        found.append(rows)
    return found


@given(owners, st.integers(1, 8))
def test_the_table_lists_each_unit_s_windows_spread_evenly(unit, most):
    table = units.table(np.array(unit), most)
    expected = slow_table(unit, most)
    assert [row[row >= 0].tolist() for row in table] == expected
    assert table.shape[1] == max(map(len, expected)) <= most
    assert all(
        (np.diff((row >= 0).astype(int)) <= 0).all() for row in table
    )  # what fills up comes last


@given(owners, st.integers(1, 8), st.data())
def test_what_is_used_of_a_unit_depends_on_nothing_but_that_unit(unit, most, data):
    unit = np.array(unit)
    kept = data.draw(st.sampled_from(sorted(set(unit.tolist()))))
    others = np.array(data.draw(st.lists(st.sampled_from([7, 8, -1]), max_size=40)), int)
    changed = np.concatenate([unit[unit == kept], others])
    order = np.sort(np.random.default_rng(0).permutation(changed.size))
    first = units.table(unit, most)[np.unique(unit).searchsorted(kept)]
    again = units.table(changed[order], most)[np.unique(changed).searchsorted(kept)]
    own_places = np.searchsorted(np.flatnonzero(unit == kept), first[first >= 0])
    np.testing.assert_array_equal(own_places, again[again >= 0])


@given(owners, st.integers(1, 8))
def test_the_numbers_that_are_stated_are_those_of_the_table(unit, most):
    table, used = units.table(np.array(unit), most), units.usage(units.sizes(np.array(unit)), most)
    assert used == (*table.shape[:1], len(unit), (table >= 0).sum(), table.shape[1])


@given(st.lists(st.datetimes(datetime.datetime(1960, 1, 1)), min_size=1))
def test_days_and_weeks_are_those_of_the_calendar_in_utc(times):
    array = np.array(times, "datetime64[us]")
    days, weeks = (units.calendar(array, unit) for unit in units.CALENDAR)
    origin = datetime.date(1970, 1, 1)
    assert days.tolist() == [(time.date() - origin).days for time in times]
    iso = [time.isocalendar()[:2] for time in times]
    pairs = {(week, name) for week, name in zip(weeks.tolist(), iso, strict=True)}
    assert len(pairs) == len(set(weeks.tolist())) == len(set(iso))
