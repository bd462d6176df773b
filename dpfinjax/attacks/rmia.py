"""The robust membership inference attack (RMIA) of Zarifzadeh et al. (2024)."""

import math

import numpy as np
from numpy.typing import ArrayLike

from dpfinjax.attacks import checks
from dpfinjax.attacks.checks import BoolArray, FloatArray
from dpfinjax.errors import InputError


def scores(
    target: ArrayLike,
    shadows: ArrayLike,
    membership: ArrayLike,
    population: ArrayLike,
    *,
    gamma: float = 2.0,
    offline: bool = False,
    a: float = 0.3,
) -> FloatArray:
    """Scores each example by the share of the population that it beats by a factor.

    With p(x | theta) the target's probability of the true class of x, an example x beats z where

        (p(x | theta) / p(x)) / (p(z | theta) / p(z)) > gamma.

    Online, p(x) is the mean of two means: over the shadow models trained on x, and over the others.
    Offline the first is unknown, and p(x) = (1 + a) / 2 p_out(x) + (1 - a) / 2 with p_out(x) the
    second mean: the paper assumes that training on x lifts p_out linearly, to a p_out + 1 - a. At
    a = 1 training on x changes nothing, at a = 0 it makes the model certain. The default 0.3 is the
    paper's choice for images of ten classes; it is chosen best by an attack on a shadow model.

    An example of the population is compared with the others of it, never with itself, and one from
    outside with as many: all but one of the population, which another one is for each. Were it all
    of them, shares of another denominator would part members from the population wherever many
    examples beat equally many, and that has nothing to do with training.

    Args:
        target: True-class probabilities of the model under attack [e], in [0, 1].
        shadows: True-class probabilities of m >= 2 shadow models [m, e], in [0, 1].
        membership: bool [m, e], whether a shadow model was trained on an example.
        population: bool [e], the examples z, at least two, which the target was not trained on.
        gamma: The factor, finite and >= 1.
        offline: Whether to use only the models that were not trained on an example. No model needs
            to have seen it then.
        a: The offline correction, in [0, 1].

    Returns:
        Scores [e] in [0, 1], higher for likelier members. In memory the size of `shadows`.

    Raises:
        InputError: A shape, a type or a value is wrong, there are fewer than 2 shadow models, or
            an example was seen by all of them or, online, by none.

    Example:
        >>> shadows, membership = np.full((2, 4), 0.4), np.array([[True] * 4, [False] * 4])
        >>> scores([0.9, 0.4, 0.3, 0.2], shadows, membership, [False, True, True, True])
        array([1., 0., 0., 0.])
    """
    target, shadows, membership = checks.shadow_scores(target, shadows, membership, offline=offline)
    population = checks.flags("population", population, target.shape)
    _check(target, shadows, population, gamma, a)
    ratio = _ratio(target, _marginal(shadows, membership, a if offline else None))
    known, needed = ratio[population], ratio / gamma
    beaten = np.searchsorted(np.sort(known), needed, side="left")
    left_out = known[np.arange(np.sum(~population)) % len(known)]
    beaten[~population] -= left_out < needed[~population]
    return beaten / (len(known) - 1)


def _marginal(shadows: FloatArray, membership: BoolArray, a: float | None) -> FloatArray:
    """The probability p(x) [e] of an example over models; offline where `a` is given."""
    outside = np.mean(shadows, axis=0, where=~membership)
    if a is None:
        return (np.mean(shadows, axis=0, where=membership) + outside) / 2
    return (1 + a) / 2 * outside + (1 - a) / 2


def _ratio(target: FloatArray, marginal: FloatArray) -> FloatArray:
    """The target's probability over the marginal one; 1 where both vanish."""
    both = (target == 0) & (marginal == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(both, 1.0, target / marginal)


def _check(
    target: FloatArray, shadows: FloatArray, population: BoolArray, gamma: float, a: float
) -> None:
    for name, values in (("target", target), ("shadows", shadows)):
        bad = (values < 0) | (values > 1)
        if bad.any():
            raise InputError(
                f"{name} must be probabilities within [0, 1], but it has {values[bad][0]:g}."
            )
    if population.sum() < 2:
        raise InputError(f"population has {population.sum()} examples; it must have at least 2.")
    if not 1 <= gamma < math.inf:
        raise InputError(f"gamma must be finite and at least 1, but it is {gamma}.")
    if not 0 <= a <= 1:
        raise InputError(f"a must be within [0, 1], but it is {a}.")
