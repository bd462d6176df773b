"""What every part of PATE asks of its votes and its noise, in one sentence where it is missing."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpfinjax.errors import InputError


def checked(votes: ArrayLike) -> NDArray[np.int64]:
    """Returns vote histograms as int64 after checking that they are ones.

    Args:
        votes: Whole numbers [q, c]: how many teachers chose each of c >= 2 classes, for q >= 1
            queries, with the same number of teachers in each.

    Returns:
        The same, int64 [q, c].

    Raises:
        InputError: The votes are not such histograms.
    """
    array = np.asarray(votes)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise InputError(
            "votes must have a row for each of one or more queries and a column for each of two or "
            f"more classes, but their shape is {array.shape}."
        )
    if array.dtype.kind not in "iuf":
        raise InputError(f"votes must be whole numbers, but their type is {array.dtype}.")
    _check_entries(array)
    totals = array.sum(axis=1)
    if (odd := totals != totals[0]).any():
        row = int(odd.argmax())
        raise InputError(
            "votes must sum to the same number of teachers in every query, but query 0 has "
            f"{totals[0]:g} and query {row} has {totals[row]:g}."
        )
    if totals[0] < 1:
        raise InputError("votes must be those of at least one teacher, but all are 0.")
    return array.astype(np.int64)


def check_threshold(threshold: float, teachers: int) -> None:
    """Checks that a threshold can be reached.

    Args:
        threshold: The number of votes that the check asks for.
        teachers: The number of teachers.

    Raises:
        InputError: The threshold is not within [0, teachers].
    """
    if not 0 <= threshold <= teachers:
        raise InputError(
            f"threshold must be between 0 and the number of teachers, {teachers}, but it is "
            f"{threshold:g}."
        )


def check_positive(name: str, value: float) -> None:
    """Checks that a number is finite and above 0.

    Args:
        name: What the number is called.
        value: The number.

    Raises:
        InputError: It is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a finite number above 0, but it is {value:g}.")


def check_count(name: str, value: int) -> None:
    """Checks that a number is whole and at least 1.

    Args:
        name: What the number is called.
        value: The number.

    Raises:
        InputError: It is not.
    """
    if not (value >= 1 and float(value).is_integer()):
        raise InputError(f"{name} must be a whole number of at least 1, but it is {value:g}.")


def check_mechanism(mechanism: str, known: Collection[str]) -> None:
    """Checks the name of a mechanism.

    Args:
        mechanism: The name.
        known: The names that exist.

    Raises:
        InputError: There is no such mechanism.
    """
    if mechanism not in known:
        names = " or ".join(f'"{name}"' for name in known)
        raise InputError(f"mechanism must be {names}, but it is {mechanism!r}.")


def _check_entries(array: NDArray[Any]) -> None:
    """Names the first entry that no count of votes can be."""
    bad = ~np.isfinite(array) | (array < 0) | (array != np.floor(array))
    if bad.any():
        query, label = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            "votes must be whole numbers of at least 0, but query "
            f"{query} gives class {label} {array[query, label]:g}."
        )
