"""What every attack asks of its arguments, in float64."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpfinjax.errors import InputError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def finite(name: str, values: ArrayLike, dimensions: int = 1) -> FloatArray:
    """Turns an argument into float64 and asks for finite values.

    Args:
        name: The argument's name, for the sentence.
        values: Numbers of any shape with `dimensions` axes, at least one number.
        dimensions: How many axes the argument has.

    Returns:
        float64, of the same shape.

    Raises:
        InputError: It is no such array, or a value is nan or infinite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be an array of numbers.") from None
    if array.ndim != dimensions or array.size == 0:
        raise InputError(
            f"{name} has shape {array.shape}; it must have {dimensions} axes and not be empty."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        place = ", ".join(map(str, np.argwhere(bad)[0]))
        raise InputError(f"{name} must be finite, but {name}[{place}] is {array[bad][0]}.")
    return array


def flags(name: str, values: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """Asks for booleans of a given shape.

    Args:
        name: The argument's name, for the sentence.
        values: An array of bool; numbers are refused, 0 and 1 too.
        shape: The shape that it must have.

    Returns:
        bool, of that shape.

    Raises:
        InputError: The type or the shape is another.
    """
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise InputError(f"{name} must be an array of bool, but it is of {array.dtype}.")
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}; it must be {shape}.")
    return array


def within_0_1(name: str, value: float) -> float:
    """Asks for a number strictly between 0 and 1.

    Args:
        name: The argument's name, for the sentence.
        value: The number.

    Returns:
        The same number.

    Raises:
        InputError: It lies outside.
    """
    if not 0 < value < 1:
        raise InputError(f"{name} must be strictly between 0 and 1, but it is {value}.")
    return float(value)


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Asks for one of some words.

    Args:
        name: The argument's name, for the sentence.
        value: The word.
        allowed: The words that may be.

    Raises:
        InputError: It is none of them.
    """
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def shadow_scores(
    target: ArrayLike, shadows: ArrayLike, membership: ArrayLike, *, offline: bool
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Checks the three arrays of an attack by shadow models.

    Args:
        target: One number an example [e], from the model under attack.
        shadows: The same from m >= 2 shadow models [m, e].
        membership: bool [m, e], whether a shadow model was trained on an example.
        offline: Whether it is enough that each example is unknown to some shadow model. Otherwise
            each must also be known to some.

    Returns:
        The three arrays, the first two as float64.

    Raises:
        InputError: A shape, a type or a value is wrong, there are fewer than 2 shadow models, or
            an example was seen by all of them or, not offline, by none.
    """
    target, shadows = finite("target", target), finite("shadows", shadows, 2)
    models, examples = shadows.shape
    if target.size != examples:
        raise InputError(
            f"target has {target.size} examples and shadows has {examples}; they must be equal."
        )
    if models < 2:
        raise InputError("shadows has 1 model; an attack needs at least 2 shadow models.")
    membership = flags("membership", membership, shadows.shape)
    _no_example("is in all shadow models", np.all(membership, axis=0))
    if not offline:
        _no_example("is in no shadow model", ~np.any(membership, axis=0))
    return target, shadows, membership


def _no_example(where: str, bad: NDArray[np.bool_] | np.bool_) -> None:
    if bad.any():
        raise InputError(
            f"Example {bad.argmax()} {where}; each must be in some of them and not in others."
        )
