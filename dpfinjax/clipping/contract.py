"""What every clipped gradient returns and guarantees."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpfinjax.errors import InputError


class ClipStats(NamedTuple):
    """What happened to each example of a batch; private, for the trainer's eyes only.

    Attributes:
      norm: float32 [b], the l2 norm of the example's gradient over all parameters before
        clipping; not finite where the gradient is not, zero where the example is padding.
      clipped: bool [b], whether the gradient, or one layer of it, was scaled down.
      nonfinite: bool [b], whether the gradient was dropped because it is not finite.
      loss: float32 [b], the example's loss; zero where the example is padding.
    """

    norm: jax.Array
    clipped: jax.Array
    nonfinite: jax.Array
    loss: jax.Array


@dataclasses.dataclass(frozen=True)
class ClippedGrad:
    """A function `(params, batch, mask) -> (grad_sum, ClipStats)` with its guarantee.

    `batch` is a pytree whose leaves have a leading axis of b examples, `mask` a bool [b] that is
    False for padding, and `grad_sum` a pytree like `params`, in float32 where these are in less: a
    sum that is rounded to few bits before the noise may move by more than the sensitivity.
    Examples that are masked or whose gradient is not finite contribute exactly zero; an empty batch
    gives zeros.

    Attributes:
      function: the function itself.
      sensitivity: an upper bound, to float32 rounding, on the l2 norm of the change of `grad_sum`
        when one example is added or removed.
    """

    function: Callable[[Any, Any, jax.Array], tuple[Any, ClipStats]]
    sensitivity: jax.Array | float

    def __call__(self, params: Any, batch: Any, mask: jax.Array) -> tuple[Any, ClipStats]:
        """Returns the sum of clipped gradients and what happened to each example."""
        _check_batch(batch, mask)
        return self.function(params, batch, mask)


def check_clip_norm(clip_norm: jax.Array | float) -> None:
    """Raises InputError when a clip norm that is known (not traced) is not positive and finite."""
    if isinstance(clip_norm, jax.core.Tracer):
        return
    known = np.asarray(clip_norm)  # NumPy: inside a trace jnp would make tracers of it
    if not ((known > 0) & np.isfinite(known)).all():
        raise InputError(f"clip_norm is {clip_norm}; it must be positive and finite.")


def _check_batch(batch: Any, mask: jax.Array) -> None:
    """Raises InputError unless the mask has one bool for each example of the batch."""
    if jnp.ndim(mask) != 1 or jnp.result_type(mask) != jnp.bool_:
        raise InputError(
            f"mask is {jnp.result_type(mask)} {list(jnp.shape(mask))}; it must be bool [b]."
        )
    for leaf in jax.tree.leaves(batch):
        if jnp.shape(leaf)[:1] != jnp.shape(mask):
            raise InputError(
                f"batch has a leaf of shape {list(jnp.shape(leaf))}; its leading axis must have "
                f"one entry for each of the {len(mask)} examples of mask."
            )
