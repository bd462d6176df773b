"""Poisson sampling with shapes that a compiler knows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dpfinjax import noise

_LANES = np.arange(32, dtype=np.uint32)
_UP_TO = (np.uint32(2) << _LANES) - np.uint32(1)  # the bits of each lane and of those before it


@functools.partial(jax.jit, static_argnames=("n", "capacity"))
def poisson(
    key: jax.Array, n: int, sample_rate: jax.Array | float, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """Draws each of n examples independently with probability `sample_rate`.

    The sample is Poisson (each example has its own coin), as the accountants assume, except when
    more than `capacity` examples are drawn: then the ones of highest index are left out, and the
    chance of that is charged to delta by `accounting.overflow_probability`. Coins are whole numbers
    of 32 bits, and their threshold is rounded down: the chance is never above `sample_rate`, even
    when that was rounded to float32, and below it by at most 2^-32 + 2^-22 `sample_rate`. Rates
    that are 1 in float32 draw everyone.

    Args:
      key: a JAX random key, used for nothing else.
      n: number of examples.
      sample_rate: float in [0, 1]; may be traced.
      capacity: the length of what is returned.

    Returns:
      Ascending `indices` int32 [capacity] and `mask` bool [capacity], True for the drawn ones,
      which come first; the indices after them are 0.
    """
    rows = _coins(key, n, sample_rate)
    ends = jnp.cumsum(jax.lax.population_count(rows).astype(jnp.int32))
    slot = jnp.arange(capacity, dtype=jnp.int32)
    mask = slot < ends[-1]
    # The slot's row is the first that ends beyond it; there, its lane is as many places up as
    # there are lanes that end at or before it.
    row = jnp.searchsorted(ends, slot, side="right", method="scan_unrolled")
    row = jnp.minimum(row, rows.size - 1)
    up_to = jax.lax.population_count(rows[row][:, None] & _UP_TO)
    before = ends[row] - up_to[:, -1].astype(jnp.int32)
    lane = jnp.sum(up_to.astype(jnp.int32) <= (slot - before)[:, None], axis=1, dtype=jnp.int32)
    return jnp.where(mask, 32 * row + lane, 0), mask


def _coins(key: jax.Array, n: int, sample_rate: jax.Array | float) -> jax.Array:
    """One coin a bit, uint32 [ceil(n / 32)]: example i is bit i % 32 of number i // 32."""
    rate = jnp.asarray(sample_rate, jnp.float32)
    below = threshold(rate)
    # Lanes are the leading axis, so that the sum over them runs over whole vectors.
    row, lane = jnp.arange(-(-n // 32), dtype=jnp.uint32), _LANES[:16, None]
    low, high = noise.words(key, 16 * row + lane, "coins")

    def bit(word: jax.Array, lane: np.ndarray) -> jax.Array:
        drawn = ((word < below) | (rate >= 1)) & (32 * row + lane < n)
        return drawn.astype(jnp.uint32) << lane

    return jnp.sum(bit(low, lane) | bit(high, lane + 16), axis=0, dtype=jnp.uint32)


def threshold(rate: jax.Array) -> jax.Array:
    """Returns how many of the 2^32 words draw an example.

    Args:
      rate: float32 [], in [0, 1]; rates from 1 - 2^-24 on have the same threshold.

    Returns:
      uint32 [], 2^32 times the next smaller float32 than `rate`, rounded down: a float64 rate that
      was rounded to the nearest float32 is never exceeded.
    """
    return (rate * np.float32(2.0**32 * (1 - 2.0**-24))).astype(jnp.uint32)
