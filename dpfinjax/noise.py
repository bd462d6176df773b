"""Random words by Threefry, and Gaussian noise for trees of arrays from them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpfinjax.errors import InputError

STREAMS = {"noise": 0x6E6F6973, "coins": 0x636F696E, "copies": 0x636F7069}
"""What the words of a key are for, as the first word of the counter: no stream has a block of
another, nor one that `jax.random` derives from the same key, where the first word is 0."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
# Chebyshev fits, lowest power first. With |f| <= 1/3, ln(1 + f) = f - f^2/2 + f^3 log(f) to a
# relative 1.0e-7; with |x| <= 1, sin(pi x / 2) = x sin(x^2) to a relative 7e-9.
_LOG = (0.3333332, -0.2500181, 0.20003836, -0.16539125, 0.14116979, -0.14704154, 0.13433774)
_SIN = (1.5707964, -0.6459638, 0.07968992, -0.0046741506, 0.00015167512)


def words(key: jax.Array, counters: jax.Array, stream: str) -> tuple[jax.Array, jax.Array]:
    """Returns two random words for each counter: Threefry-2x32-20 of Salmon et al. (2011).

    The generator behind `jax.random`'s default keys, with all 20 rounds, but written as one
    expression that a CPU compiler turns into one vector loop, and with both words of a block used
    where `jax.random.bits` joins them into one. Words depend on the key, the stream and the counter
    alone: not on shapes, `vmap`, sharding or the backend.

    Args:
      key: a JAX random key of any implementation, used for this stream only once.
      counters: uint32 [...], all different.
      stream: a name in `STREAMS`.

    Returns:
      Two uint32 arrays of the shape of `counters`, uniform and independent.
    """
    return _threefry(*_two_words(key), jnp.uint32(STREAMS[stream]), counters)


@functools.partial(jax.jit, static_argnames="count")
def normals(key: jax.Array, count: int) -> jax.Array:
    """Draws independent standard normal numbers.

    Box and Muller (1958): sqrt(-2 ln u) sin(pi v / 2), u of 40 random bits in (0, 1) and v of 24
    others in (-1, 1). Each number has a block of words of its own, so no two share a bit. Numbers
    are symmetric, never 0, and at most 7.54 = sqrt(2 ln 2^41): an exact normal goes beyond with
    probability 5e-14. Float32 moves a number by a relative 1e-6, and by 2^-23 sin(pi v / 2) over a
    radius below 1, which moves the distribution function by less than 3e-7.

    Args:
      key: a JAX random key, used for nothing else.
      count: how many numbers, at most 2^32.

    Returns:
      float32 [count].

    Raises:
      InputError: `count` is too large for the counter.
    """
    if count > 2**32:
        raise InputError(f"count is {count}; one key gives at most 2^32 = {2**32} numbers.")
    return box_muller(*words(key, jax.lax.iota(jnp.uint32, count), "noise"))


def add_gaussian(key: jax.Array, tree: Any, stddev: jax.Array | float) -> Any:
    """Adds independent Gaussian noise to every number of a tree.

    The Gaussian mechanism of Dwork et al. (2006): with `stddev` equal to the noise multiplier times
    the l2 sensitivity of the tree as a whole. All leaves share one draw of `normals`, whose tails
    end at 7.54 `stddev`. As everywhere in floating point, the noise lies on a grid and the proof
    for real numbers holds up to that rounding (Mironov 2012).

    Args:
      key: a JAX random key, used for nothing else.
      tree: a pytree of float32 arrays, of at most 2^32 numbers in all.
      stddev: the standard deviation, not negative, in units of the tree; may be traced.

    Returns:
      A tree of the same structure, shapes and types.
    """
    leaves, treedef = jax.tree.flatten(tree)
    sizes = [leaf.size for leaf in leaves]
    draw = stddev * normals(key, sum(sizes))
    parts = jnp.split(draw, [sum(sizes[:i]) for i in range(1, len(sizes))])
    noisy = [
        leaf + part.reshape(leaf.shape).astype(leaf.dtype)
        for leaf, part in zip(leaves, parts, strict=True)
    ]
    return jax.tree.unflatten(treedef, noisy)


def box_muller(radius_word: jax.Array, angle_word: jax.Array) -> jax.Array:
    """Maps two random words to one standard normal number, as `normals` says.

    Args:
      radius_word: uint32 [...], the upper bits of u.
      angle_word: uint32 [...], v in its upper 24 bits and the lowest bits of u in the other 8.

    Returns:
      float32 [...].
    """
    square = -2 * _log(_unit(radius_word, angle_word & 0xFF))
    angle = (_signed(angle_word) >> 8).astype(jnp.float32) + 0.5
    # A quotient, because XLA stores quotients that are used more than once, but would draw every
    # word of a product again for each leaf of a tree. The maximum changes no value: it keeps XLA
    # from turning square / sqrt(square) into a product.
    return square * _sin(angle * 2.0**-23) / jnp.maximum(jnp.sqrt(square), 2.0**-60)


def _threefry(
    k0: jax.Array, k1: jax.Array, x0: jax.Array, x1: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds: encrypts the counter (x0, x1) under the key (k0, k1)."""
    keys = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = x0 + k0, x1 + k1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (x1 << rotation | x1 >> 32 - rotation)
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + (keys[(group + 2) % 3] + np.uint32(group + 1))
    return x0, x1


def _two_words(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A key of any implementation as the two words that Threefry takes; longer ones are hashed."""
    first, second, *rest = jax.random.key_data(key)
    for x0, x1 in zip(rest[::2], rest[1::2], strict=True):
        first, second = _threefry(first, second, x0, x1)
    return first, second


def _unit(high: jax.Array, low: jax.Array) -> jax.Array:
    """The 40-bit number (high, low) as float32 in (0, 1), precise at the small end."""
    # The factor is under 2^-32 by half a step of float32, so that the largest words stay below 1.
    scale = 2.0**-32 * (1 - 2.0**-24)
    return high.astype(jnp.float32) * scale + (low.astype(jnp.float32) + 0.5) * 2.0**-40


def _signed(word: jax.Array) -> jax.Array:
    """The same 32 bits as int32."""
    return jax.lax.bitcast_convert_type(word, jnp.int32)


def _log(x: jax.Array) -> jax.Array:
    """The natural logarithm of positive normal float32 numbers, without the checks of `jnp.log`."""
    # x = (1 + f) 2^exponent with 1 + f in [2/3, 4/3): 0x3F2AAAAB is the float32 2/3.
    bits = _signed(x)
    exponent = (bits - 0x3F2AAAAB) >> 23
    f = jax.lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32) - 1
    tail = f * f * (f * _polynomial(_LOG, f) - 0.5)
    return exponent.astype(jnp.float32) * np.float32(np.log(2)) + (f + tail)


def _sin(x: jax.Array) -> jax.Array:
    """sin(pi x / 2) for |x| <= 1."""
    return x * _polynomial(_SIN, x * x)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    """Horner's rule; the lowest power's coefficient comes first."""
    value = jnp.float32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
