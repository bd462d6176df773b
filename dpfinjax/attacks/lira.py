"""The likelihood-ratio attack (LiRA) of Carlini et al. (2022)."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from dpfinjax.attacks import checks
from dpfinjax.attacks.checks import BoolArray, FloatArray
from dpfinjax.errors import InputError

VARIANCES = ("global", "example")

# Where all shadow models agree, a Gaussian of no width would divide by zero. In squared logits.
_LEAST_VARIANCE = 1e-12


def scores(
    target: ArrayLike,
    shadows: ArrayLike,
    membership: ArrayLike,
    *,
    offline: bool = False,
    variance: str = "global",
) -> FloatArray:
    """Scores each example by how much likelier its logit margin is for a member.

    The logit margin of an example is log(p / (1 - p)), p being the probability of its true class.
    For each example a Gaussian is fitted to the margins of the models trained on it, and another to
    those of the models not trained on it. Online, the score is the logarithm of the ratio of the
    two densities at the target's margin z. Offline there is only the second Gaussian, and the score
    is log(P / (1 - P)) with P its probability of a margin below z. That is an increasing function
    of P, the paper's score, but unlike P it has no ties among large z, where P rounds to 1.

    Variances are unbiased. "example" takes each example's own, which the paper advises from 64
    shadow models on. "global" pools the deviations from each example's own mean over all examples,
    one variance for members and one for the others, and suits few models.

    Args:
        target: Logit margins of the model under attack [e].
        shadows: Logit margins of m >= 2 shadow models [m, e].
        membership: bool [m, e], whether a shadow model was trained on an example.
        offline: Whether to use only the models that were not trained on an example. No model needs
            to have seen it then.
        variance: "global" or "example".

    Returns:
        Scores [e] in nats, higher for likelier members.

    Raises:
        InputError: A shape, a type or a value is wrong, there are fewer than 2 shadow models, an
            example was seen by all of them or, online, by none, or there are too few models for
            the variance.

    Example:
        >>> shadows, membership = [[1.0], [3.0], [0.0], [2.0]], [[True], [True], [False], [False]]
        >>> scores([2.0], shadows, membership)
        array([0.25])
    """
    checks.one_of("variance", variance, VARIANCES)
    target, shadows, membership = checks.shadow_scores(target, shadows, membership, offline=offline)
    mean, spread = _fit(shadows, ~membership, variance)
    z = (target - mean) / spread
    if offline:
        return special.log_ndtr(z) - special.log_ndtr(-z)
    mean_in, spread_in = _fit(shadows, membership, variance)
    z_in = (target - mean_in) / spread_in
    return (z**2 - z_in**2) / 2 + np.log(spread / spread_in)


def _fit(shadows: FloatArray, chosen: BoolArray, variance: str) -> tuple[FloatArray, FloatArray]:
    """Mean [e] and standard deviation [e] of the chosen models' margins."""
    mean = np.mean(shadows, axis=0, where=chosen)
    squares = np.sum((shadows - mean) ** 2, axis=0, where=chosen)
    freedom = np.sum(chosen, axis=0) - 1
    if variance == "global":
        squares, freedom = np.sum(squares), np.sum(freedom)
    if np.any(freedom == 0):
        raise InputError(_too_few(freedom))
    widths = np.sqrt(np.maximum(squares / freedom, _LEAST_VARIANCE))
    return mean, np.broadcast_to(widths, mean.shape)


def _too_few(freedom: np.ndarray) -> str:
    if freedom.ndim:
        return (
            f'variance is "example", and example {freedom.argmin()} is in or out of one shadow '
            'model only: take more models, or variance "global".'
        )
    return (
        "No example is in two shadow models and out of two others, so no variance can be told: "
        "take at least 4 models."
    )
