"""A batch of any size in pieces of a fixed size, without work for pieces that are all padding."""

from typing import Any

import jax
import jax.numpy as jnp

from dpfinjax.clipping.contract import ClippedGrad, ClipStats


def in_microbatches(clipped_grad: ClippedGrad, size: int) -> ClippedGrad:
    """Applies a clipped gradient to `size` examples at a time and adds the sums.

    Never changes the result beyond float32 rounding. Pieces after the last example that is not
    padding are not computed, so a capacity far above the expected batch size costs little; under
    `jax.vmap` the batch with the most pieces decides for all.

    Args:
      clipped_grad: the function for one piece.
      size: examples in a piece, at least 1.

    Returns:
      A clipped gradient function of the same sensitivity.
    """

    def whole(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, ClipStats]:
        examples = mask.shape[0]
        if examples <= size:
            return clipped_grad(params, batch, mask)
        batch, mask = jax.tree.map(lambda x: _padded(x, size), (batch, mask))
        filled = jnp.max(jnp.where(mask, jnp.arange(1, len(mask) + 1), 0))

        def piece(number: jax.Array) -> tuple[Any, ClipStats]:
            def cut(x: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(x, number * size, size)

            return clipped_grad(params, *jax.tree.map(cut, (batch, mask)))

        def add(carry: Any) -> Any:
            number, total, stats = carry
            grad, new = piece(number)

            def put(x: jax.Array, y: jax.Array) -> jax.Array:
                return jax.lax.dynamic_update_slice_in_dim(x, y, number * size, 0)

            total = jax.tree.map(jnp.add, total, grad)
            return number + 1, total, jax.tree.map(put, stats, new)

        first = piece(jnp.int32(0))
        stats = jax.tree.map(lambda x: _padded(x, len(mask)), first[1])
        carry = (jnp.int32(1), first[0], stats)
        _, total, stats = jax.lax.while_loop(lambda c: c[0] * size < filled, add, carry)
        return total, jax.tree.map(lambda x: x[:examples], stats)

    return ClippedGrad(whole, clipped_grad.sensitivity)


def _padded(x: jax.Array, size: int) -> jax.Array:
    """An array with zeros after it until `size` divides its length."""
    return jnp.pad(x, [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1))
