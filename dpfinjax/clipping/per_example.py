"""Per-example gradients by `jax.vmap`, clipped and summed: the reference for every faster path."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpfinjax.clipping import rules
from dpfinjax.clipping.contract import ClippedGrad, ClipStats, check_clip_norm
from dpfinjax.clipping.microbatches import in_microbatches
from dpfinjax.errors import InputError


def vmap_clipped_grad(
    loss_fn: Callable[[Any, Any], jax.Array],
    clip_norm: jax.Array | float,
    *,
    microbatch: int | None = None,
    rule: str = "flat",
) -> ClippedGrad:
    """Sums per-example gradients, each scaled to an l2 norm of at most `clip_norm`.

    sum_i g_i min(1, clip_norm / |g_i|), Abadi et al. (2016), with g_i the gradient of the loss of
    example i over all parameters; other rules scale otherwise.

    Args:
      loss_fn: a pure function `(params, example) -> scalar`; `example` is the batch without its
        leading axis.
      clip_norm: the largest l2 norm of one example's contribution, positive; may be traced.
      microbatch: how many examples have their gradients in memory at a time; None for the whole
        batch. It never changes the result beyond float32 rounding, see `in_microbatches`.
      rule: "flat", or "automatic" or "per_layer", see `clipping.rules`; `clip_norm` bounds the
        whole contribution under each.

    Returns:
      The clipped gradient function, with sensitivity `clip_norm`.

    Raises:
      InputError: if `clip_norm` is not positive and finite, `microbatch` is not positive or `rule`
        is unknown.

    >>> loss = lambda params, x: params * x
    >>> fn = vmap_clipped_grad(loss, clip_norm=1.0)
    >>> grad, _ = fn(jnp.zeros(()), jnp.array([0.5, 3.0]), jnp.array([True, True]))
    >>> print(grad)  # 0.5 + 1.0
    1.5
    """
    check_clip_norm(clip_norm)
    scaling = rules.get(rule)
    if microbatch is not None and microbatch < 1:
        raise InputError(f"microbatch is {microbatch}; it must be at least 1, or None.")
    grads_fn = jax.vmap(jax.value_and_grad(loss_fn), in_axes=(None, 0))

    def clipped_sum(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, ClipStats]:
        loss, grads = grads_fn(params, batch)
        flat, treedef = jax.tree.flatten_with_path(grads)
        squares = {path: _square(grad) for path, grad in flat}
        scale, keep, stats = rules.decide(scaling, squares, clip_norm, loss, mask)
        total = [_weighted_sum(scale[path], keep, grad) for path, grad in flat]
        return jax.tree.unflatten(treedef, total), stats

    whole = ClippedGrad(clipped_sum, clip_norm)
    return whole if microbatch is None else in_microbatches(whole, microbatch)


def _square(grad: jax.Array) -> jax.Array:
    """The squared l2 norm [b] of a gradient [b, ...] of each example."""
    return jnp.sum(jnp.square(_float32(grad)), axis=range(1, grad.ndim))


def _weighted_sum(scale: jax.Array, keep: jax.Array, grad: jax.Array) -> jax.Array:
    """The sum over examples of scale times gradient; a dropped gradient may be nan."""
    keep = keep.reshape(-1, *(1,) * (grad.ndim - 1))
    kept = jnp.where(keep, _float32(grad), 0.0)
    # Accelerators multiply float32 in fewer bits unless told not to; the norm must not grow.
    return jnp.tensordot(scale, kept, axes=1, precision=jax.lax.Precision.HIGHEST)


def _float32(grad: jax.Array) -> jax.Array:
    """A gradient in float32 at least."""
    return grad.astype(jnp.promote_types(grad.dtype, jnp.float32))
