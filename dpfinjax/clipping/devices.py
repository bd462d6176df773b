"""A batch divided over devices, whose clipped sums are added before any noise."""

from typing import Any

import jax
import jax.numpy as jnp

from dpfinjax.clipping.contract import ClippedGrad, ClipStats


def over_devices(clipped_grad: ClippedGrad, axis: str, devices: int) -> ClippedGrad:
    """Applies a clipped gradient to a share of the batch on each device and adds the sums.

    Every device is given the whole batch's rows and the same parameters, takes each `devices`-th
    row, clips what it has and adds its sum to the others' (`psum`). What it returns is the same on
    all of them and differs from the whole batch's result by float32 rounding alone: so noise that
    is drawn from it by one key is one draw, of the standard deviation that it has on one device.

    Args:
      clipped_grad: the function for a share; every row of it must be clipped on its own.
      axis: the name of the mesh axis, within `jax.shard_map`.
      devices: its size k.

    Returns:
      A clipped gradient function of the same sensitivity, for batches of any length.
    """

    def whole(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, ClipStats]:
        number = jax.lax.axis_index(axis)

        def share(x: jax.Array) -> jax.Array:
            # Rows in turns: padding comes last, and every device has its part of it.
            filled = jnp.pad(x, [(0, -len(x) % devices)] + [(0, 0)] * (x.ndim - 1))
            return filled.reshape(-1, devices, *x.shape[1:])[:, number]

        def together(x: jax.Array) -> jax.Array:
            return jax.lax.all_gather(x, axis, axis=1).reshape(-1)[: len(mask)]

        total, stats = clipped_grad(params, *jax.tree.map(share, (batch, mask)))
        return jax.lax.psum(total, axis), jax.tree.map(together, stats)

    return ClippedGrad(whole, clipped_grad.sensitivity)
