"""Clipping rules: how much of each example's gradient is kept, from its norms alone.

A layer is all parameters that share a parent in the tree: a kernel and its bias, say.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpfinjax.clipping.contract import ClipStats
from dpfinjax.errors import InputError

GAMMA = 0.01
"""The stability constant of automatic clipping, in units of the gradient's norm."""

Layer = Hashable
Rule = Callable[[Mapping[Layer, jax.Array], Any], tuple[dict[Layer, jax.Array], jax.Array]]
"""From squared norms [b] by layer and the clip norm to factors [b] by layer, and clipped [b]."""


class Clipping(NamedTuple):
    """What becomes of the examples of a batch.

    Attributes:
      scale: by path of a parameter, float32 [b], the factor of each example's gradient; zero
        where it is not kept.
      keep: bool [b], whether the example contributes; what does not may be nan.
      stats: what the trainer may see.
    """

    scale: dict[tuple, jax.Array]
    keep: jax.Array
    stats: ClipStats


def get(name: str) -> Rule:
    """Returns a rule by its name.

    Args:
      name: "flat", "automatic" or "per_layer".

    Returns:
      The rule. Under each the l2 norm of one example's contribution is at most the clip norm.

    Raises:
      InputError: for another name.
    """
    if name not in _RULES:
        raise InputError(f"rule is {name!r}; it must be one of {', '.join(_RULES)}.")
    return _RULES[name]


def decide(
    rule: Rule,
    squares: Mapping[tuple, jax.Array],
    clip_norm: jax.Array | float,
    loss: jax.Array,
    mask: jax.Array,
) -> Clipping:
    """Applies a rule to the examples of a batch.

    Args:
      rule: how gradients are scaled.
      squares: by path of a parameter, float32 [b], its gradient's squared l2 norm.
      clip_norm: the largest l2 norm of one example's contribution.
      loss: float [b].
      mask: bool [b], False for padding.

    Returns:
      The factors and the statistics. An example that is masked or whose norm is not finite is not
      kept.
    """
    layers: dict[Layer, jax.Array] = {}
    for path, square in squares.items():
        layers[path[:-1]] = layers.get(path[:-1], 0.0) + square
    norm = jnp.sqrt(_total(layers))
    finite = jnp.isfinite(norm)
    keep = mask & finite
    factors, clipped = rule(layers, clip_norm)
    factors = {layer: jnp.where(keep, factor, 0.0) for layer, factor in factors.items()}
    stats = ClipStats(
        norm=jnp.where(mask, norm, 0.0),
        clipped=keep & clipped,
        nonfinite=mask & ~finite,
        loss=jnp.where(mask, loss, 0.0).astype(jnp.float32),
    )
    return Clipping({path: factors[path[:-1]] for path in squares}, keep, stats)


def flat(
    squares: Mapping[Layer, jax.Array], clip_norm: jax.Array | float
) -> tuple[dict[Layer, jax.Array], jax.Array]:
    """Scales by min(1, C / |g|), Abadi et al. (2016); clipped are those with |g| > C."""
    norm = jnp.sqrt(_total(squares))
    return dict.fromkeys(squares, jnp.minimum(1.0, clip_norm / norm)), norm > clip_norm


def automatic(
    squares: Mapping[Layer, jax.Array], clip_norm: jax.Array | float
) -> tuple[dict[Layer, jax.Array], jax.Array]:
    """Scales by C / (|g| + gamma), Bu et al. (2023); clipped are those with |g| + gamma > C.

    Every gradient is brought close to the clip norm: small ones are scaled up, so the clip norm
    only multiplies the learning rate. The contribution's norm C |g| / (|g| + gamma) comes as close
    to C as |g| is large.
    """
    norm = jnp.sqrt(_total(squares))
    return dict.fromkeys(squares, clip_norm / (norm + GAMMA)), norm + GAMMA > clip_norm


def per_layer(
    squares: Mapping[Layer, jax.Array], clip_norm: jax.Array | float
) -> tuple[dict[Layer, jax.Array], jax.Array]:
    """Scales each of k layers by min(1, C / (sqrt(k) |g_l|)), McMahan et al. (2018).

    The whole has at most the norm sqrt(k C^2 / k) = C. Clipped are the examples with any layer
    above C / sqrt(k).
    """
    share = clip_norm / jnp.sqrt(float(len(squares)))
    norms = {layer: jnp.sqrt(square) for layer, square in squares.items()}
    factors = {layer: jnp.minimum(1.0, share / norm) for layer, norm in norms.items()}
    return factors, jnp.stack([norm > share for norm in norms.values()]).any(axis=0)


_RULES: dict[str, Rule] = {"flat": flat, "automatic": automatic, "per_layer": per_layer}
RULES = tuple(_RULES)


def _total(squares: Mapping[Layer, jax.Array]) -> jax.Array:
    """The squared norm over all layers."""
    first, *others = squares.values()
    return sum(others, first)
