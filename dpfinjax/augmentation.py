"""Noisy copies of Gramian angular field images, made on the device from what they encode."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpfinjax import noise


class Augmentation(NamedTuple):
    """How many copies of an image are trained on beside it, and how they differ from it.

    All copies of one window have one mean gradient, which is clipped once (De et al. 2022): they
    cost no privacy.

    Attributes:
      copies: how many there are of each image, at least 0.
      price_noise: standard deviation of Gaussian noise on each number of the scaled series, over
        the window's range.
      scale_jitter: the largest part of a channel's range, in [0, 0.5), that is taken off at either
        end, by chance, as if a bar outside the window had gone further.
    """

    copies: int = 0
    price_noise: float = 0.0
    scale_jitter: float = 0.0


NO_COPIES = Augmentation()
"""Training on the images as they are."""


def with_copies(key: jax.Array, image: jax.Array, how: Augmentation) -> jax.Array:
    """Returns an image and noisy copies of it.

    A pixel is cos(phi_i + phi_j) of two angles whose cosines x are the scaled series, see
    `gaf.encode`; the diagonal has 2 x^2 - 1. Copies are encoded from changed x. A channel that was
    constant, and so is zero everywhere, stays so.

    Args:
      key: a JAX random key, used for nothing else.
      image: float32 [length, length, channels].
      how: number and kind of the copies.

    Returns:
      float32 [1 + copies, length, length, channels], the image itself first.
    """
    diagonal = jnp.diagonal(image, axis1=0, axis2=1).T
    series = jnp.sqrt(jnp.clip((diagonal + 1) / 2, 0, 1))
    noise_key, ends_key = jax.random.split(key)
    shape = (how.copies, *series.shape)
    moved = series + how.price_noise * noise.normals(noise_key, math.prod(shape)).reshape(shape)
    low, high = _ends(ends_key, (how.copies, 1, series.shape[1]), how.scale_jitter)
    # The barrier keeps a CPU compiler from drawing the numbers again for each pixel.
    cosine = jax.lax.optimization_barrier(jnp.clip(low + (high - low) * moved, 0, 1))
    sine = jnp.sqrt((1 - cosine) * (1 + cosine))
    copies = cosine[:, :, None] * cosine[:, None] - sine[:, :, None] * sine[:, None]
    constant = ~diagonal.any(axis=0)
    return jnp.concatenate([image[None], jnp.where(constant, 0.0, copies)])


def _ends(
    key: jax.Array, shape: tuple[int, ...], scale_jitter: float
) -> tuple[jax.Array, jax.Array]:
    """Where the least and the greatest number of a channel come to lie."""
    counters = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    low, high = (
        scale_jitter * 2.0**-24 * (word >> 8).astype(jnp.float32)
        for word in noise.words(key, counters, "copies")
    )
    return low, 1 - high
