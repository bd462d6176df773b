"""Which shadow model is trained on which examples."""

import numpy as np
from numpy.typing import ArrayLike

from dpfinjax import training
from dpfinjax.attacks.checks import BoolArray
from dpfinjax.errors import InputError
from dpfinjax.training import Membership


def balanced(seed: int | np.random.Generator, models: int, examples: int) -> BoolArray:
    """Draws a design in which each example is in exactly half of the models.

    The columns are independent and each is uniform over the choices of half of the models, as in
    Carlini et al. (2022). So a model sees each example with probability 1/2, independently of the
    others, and about half of them in all.

    Args:
        seed: A seed, or a generator to draw from.
        models: Number of shadow models m, even and >= 2.
        examples: Number of examples e, >= 1.

    Returns:
        bool [m, e], whether a model is trained on an example.

    Raises:
        InputError: `models` is odd or below 2, or `examples` is below 1.

    Example:
        >>> balanced(0, 4, 1000).sum(axis=0).tolist() == [2] * 1000
        True
    """
    if models < 2 or models % 2:
        raise InputError(f"models is {models}; it must be even and at least 2.")
    if examples < 1:
        raise InputError(f"examples is {examples}; it must be at least 1.")
    halves = np.broadcast_to(np.arange(models)[:, None] < models // 2, (models, examples))
    return np.random.default_rng(seed).permuted(halves, axis=0)


def rows(membership: ArrayLike) -> Membership:
    """Turns a design into the padded rows that `training.fit` takes, a model along the first axis.

    Args:
        membership: bool [m, e], whether a model is trained on an example.

    Returns:
        Rows int32 [m, r], ascending, r being the size of the largest model and the padding 0, and
        sizes int32 [m].

    Raises:
        InputError: It is no such array, or a model has no example.

    Example:
        >>> rows(np.array([[True, False, True], [False, True, False]])).rows.tolist()
        [[0, 2], [1, 0]]
    """
    design = np.asarray(membership)
    if design.ndim != 2 or design.dtype != np.bool_:
        raise InputError(
            "membership must be an array of bool with 2 axes, models and examples, but it is of "
            f"{design.dtype} with shape {design.shape}."
        )
    sizes = design.sum(axis=1)
    if (sizes == 0).any():
        raise InputError(f"Model {sizes.argmin()} has no example; each must have one.")
    return training.memberships(design)
