"""Whether the noise of a training is normal: draws of it against exact probabilities."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from dpfinjax import noise

_GRID = 1 << 16  # places where the normals' distribution is compared
_TAILS = (4.0, 5.0)


class Tail(NamedTuple):
    """How many normals lie far out.

    Attributes:
      sigma: how far, in standard deviations, on either side.
      found: how many do.
      expected: how many should.
      z: the difference in standard deviations of what is found.
      p_value: of so unlikely a number, two-sided.
    """

    sigma: float
    found: int
    expected: float
    z: float
    p_value: float


class NoiseQuality(NamedTuple):
    """Draws of the noise against the normal distribution.

    Attributes:
      draws: how many.
      distance: Kolmogorov and Smirnov's, over 65,536 quantiles, which can hide 1.6e-5 of it.
      p_value: of a distance as large.
      largest: the largest absolute value.
      tails: one for each distance looked at.
    """

    draws: int
    distance: float
    p_value: float
    largest: float
    tails: tuple[Tail, ...]


def measure(draws: int, params: Any) -> NoiseQuality:
    """Compares draws of `noise.add_gaussian`, as a training makes them, with exact probabilities.

    Args:
      draws: how many at least; whole draws for all parameters of a network are made.
      params: the parameters, a pytree, for their shapes.

    Returns:
      What they are like.
    """
    params = jax.tree.map(jnp.zeros_like, params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))

    @jax.jit
    def draw(number: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(0), number)
        noisy = noise.add_gaussian(key, params, 1.0)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(noisy)])

    counts, beyond, largest = np.zeros(_GRID, np.int64), np.zeros(len(_TAILS), np.int64), 0.0
    for number in range(-(-draws // size)):
        normals = np.asarray(draw(number), np.float64)
        places = np.minimum(special.ndtr(normals) * _GRID, _GRID - 1).astype(np.int64)
        counts += np.bincount(places, minlength=_GRID)
        far = np.abs(normals)
        beyond += (far > np.array(_TAILS)[:, None]).sum(axis=1)
        largest = max(largest, float(far.max()))
    total = int(counts.sum())
    distance = np.abs(np.cumsum(counts) / total - np.arange(1, _GRID + 1) / _GRID).max()
    return NoiseQuality(
        draws=total,
        distance=float(distance),
        p_value=float(special.kolmogorov(np.sqrt(total) * distance)),
        largest=largest,
        tails=tuple(_tail(s, n, total) for s, n in zip(_TAILS, beyond.tolist(), strict=True)),
    )


def show(quality: NoiseQuality) -> None:
    """Prints what the noise is like."""
    print(
        f"\nNoise, {quality.draws:,} draws against the normal distribution\n"
        f"Kolmogorov-Smirnov distance {quality.distance:.2e} (p = {quality.p_value:.2g}); "
        f"largest {quality.largest:.2f} sigma"
    )
    for tail in quality.tails:
        print(
            f"beyond {tail.sigma:g} sigma: {tail.found:,}, expected {tail.expected:,.1f} "
            f"(z = {tail.z:+.2f}, p = {tail.p_value:.2g})"
        )


def _tail(sigma: float, count: int, draws: int) -> Tail:
    """A count of normals beyond `sigma` against the binomial distribution that it should have."""
    chance = 2 * special.ndtr(-sigma)
    expected, deviation = draws * chance, np.sqrt(draws * chance * (1 - chance))
    p_value = stats.binomtest(count, draws, chance).pvalue
    z = (count - expected) / deviation
    return Tail(sigma, count, float(expected), float(z), float(p_value))
