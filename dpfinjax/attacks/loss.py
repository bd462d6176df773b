"""Attacks by an example's loss: its size, and its size beside what shadow models have."""

import numpy as np
from numpy.typing import ArrayLike

from dpfinjax.attacks import checks
from dpfinjax.attacks.checks import FloatArray


def threshold(losses: ArrayLike) -> FloatArray:
    """Scores by a low loss, the attack of Yeom et al. (2018), which needs no shadow model.

    Args:
        losses: Losses of the model under attack [e], in nats or any unit.

    Returns:
        Scores [e], higher for likelier members: the loss with its sign changed.

    Raises:
        InputError: A loss is not finite, or the shape is wrong.
    """
    return -checks.finite("losses", losses)


def calibrated(target: ArrayLike, shadows: ArrayLike, membership: ArrayLike) -> FloatArray:
    """Scores by a loss that is low for how hard the example is.

    Difficulty calibration, Watson et al. (2022): the mean loss of the models that were not trained
    on the example, minus its loss under the target.

    Args:
        target: Losses of the model under attack [e].
        shadows: Losses of m >= 2 shadow models [m, e].
        membership: bool [m, e], whether a shadow model was trained on an example.

    Returns:
        Scores [e] in the unit of the losses, higher for likelier members.

    Raises:
        InputError: A shape, a type or a value is wrong, there are fewer than 2 shadow models, or
            an example was seen by all of them.
    """
    target, shadows, membership = checks.shadow_scores(target, shadows, membership, offline=True)
    return np.mean(shadows, axis=0, where=~membership) - target
