"""What models answer to examples, and the numbers that attacks make of it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from numpy.typing import ArrayLike
from scipy import special

from dpfinjax import clipping
from dpfinjax.attacks.checks import FloatArray
from dpfinjax.training import Data

_CHUNK = 512  # examples whose activations and cotangents are in memory at a time


class Answers(NamedTuple):
    """What one model, or each of m models, answers to e examples.

    Attributes:
        logits: float32 [e, classes], or [m, e, classes].
        grad_norm: float32 [e], or [m, e], the l2 norm of the gradient of the example's loss.
    """

    logits: np.ndarray
    grad_norm: np.ndarray


def answer(params: Any, data: Data, module: nn.Module) -> Answers:
    """Asks a model.

    Gradient norms come from the ghost path, which forms no per-example gradients.

    Args:
        params: The parameters of `module`.
        data: At least one example.
        module: A Flax linen module from inputs to logits.

    Returns:
        Logits [e, classes] and gradient norms [e].

    Raises:
        InputError: The module has a layer that ghost clipping cannot handle.
    """
    return Answers(*map(np.asarray, _answer(params, data, module)))


def losses(logits: ArrayLike, labels: np.ndarray) -> FloatArray:
    """Computes the cross-entropy -log p of the true class in nats.

    Args:
        logits: Logits [..., e, classes].
        labels: int [e], the true classes.

    Returns:
        Losses [..., e], never rounded to 0 where the model is sure.
    """
    # -log p = log(1 + (1 - p) / p) keeps its digits where p is near 1.
    return np.logaddexp(0.0, -margins(logits, labels))


def probabilities(logits: ArrayLike, labels: np.ndarray) -> FloatArray:
    """Computes the probability p of the true class.

    Args:
        logits: Logits [..., e, classes].
        labels: int [e], the true classes.

    Returns:
        Probabilities [..., e].
    """
    return special.expit(margins(logits, labels))


def margins(logits: ArrayLike, labels: np.ndarray) -> FloatArray:
    """Computes the logit margin log(p / (1 - p)) of the true class, Carlini et al. (2022).

    Computed as the true class's logit less the log-sum-exp of the others', which is finite for
    every p that a model can have.

    Args:
        logits: Logits [..., e, classes].
        labels: int [e], the true classes.

    Returns:
        Margins [..., e].

    Example:
        >>> margins([[2.0, 0.0], [2.0, 0.0]], np.array([0, 1])).tolist()
        [2.0, -2.0]
    """
    values = np.asarray(logits, np.float64)
    true = np.arange(values.shape[-1]) == np.asarray(labels)[:, None]
    own = np.sum(values, axis=-1, where=true)
    return own - special.logsumexp(np.where(true, -np.inf, values), axis=-1)


@functools.partial(jax.jit, static_argnames=("module",))
def _answer(params: Any, data: Data, module: nn.Module) -> tuple[jax.Array, jax.Array]:
    """Logits and gradient norms, a piece of the data at a time; the last one is filled up."""
    examples = data.targets.shape[0]
    size = min(_CHUNK, examples)
    clipped_grad = clipping.ghost_clipped_grad(
        module, optax.softmax_cross_entropy_with_integer_labels, 1.0
    )

    def pieces(x: jax.Array) -> jax.Array:
        filled = jnp.pad(x, [(0, -examples % size)] + [(0, 0)] * (x.ndim - 1))
        return filled.reshape(-1, size, *x.shape[1:])

    def piece(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # Norms are all that is used, so the compiler leaves the sum of gradients out.
        _, stats = clipped_grad(params, part, jnp.ones(size, bool))
        logits: Any = module.apply({"params": params}, part[0])
        return logits, stats.norm

    logits, norms = jax.lax.map(piece, jax.tree.map(pieces, (data.inputs, data.targets)))
    return logits.reshape(-1, logits.shape[-1])[:examples], norms.reshape(-1)[:examples]
