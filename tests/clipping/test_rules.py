"""Clipping rules: the sensitivity that is claimed is the one that holds, and no smaller one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax import clipping
from dpfinjax.clipping import rules
from tests.clipping import reference


class Net(nn.Module):
    """Three layers, one of them over a sequence."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(3, 2)(x[..., None]))
        return nn.Dense(3)(nn.LayerNorm()(x).reshape(*x.shape[:-2], -1))


MODULE = Net()
# Where tanh is saturated its derivative 1 - tanh^2 cancels, times parameters of some units. XLA may
# compute a gradient once for its norm and once for the sum, with other rounding.
GRADIENT_ROUNDING = 4e-6


def make_batch(seed, examples=5):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(examples, 6)).astype(np.float32)
    return jnp.asarray(inputs), jnp.asarray(rng.integers(0, 3, examples), jnp.int32)


@functools.partial(jax.jit, static_argnames=("method", "rule"))
def clipped_sum(params, batch, mask, clip_norm, method, rule):
    if method == "ghost":
        fn = clipping.ghost_clipped_grad(MODULE, reference.loss_fn, clip_norm, rule=rule)
    else:
        loss = reference.example_loss(MODULE)
        fn = clipping.vmap_clipped_grad(loss, clip_norm, rule=rule)
    return fn(params, batch, mask), fn.sensitivity


@pytest.mark.parametrize("method", ["ghost", "vmap"])
@pytest.mark.parametrize("rule", reference.RULES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), clip_norm=st.floats(1e-3, 10), row=st.integers(0, 4))
def test_a_neighbour_changes_the_sum_by_at_most_the_sensitivity(method, rule, seed, clip_norm, row):
    params = reference.random_params(MODULE, jnp.zeros((1, 6)), seed, scale=2.0)
    batch, mask = make_batch(seed), np.ones(5, bool)
    without = mask.copy()
    without[row] = False
    run = functools.partial(clipped_sum, params, batch, method=method, rule=rule)
    (larger, stats), sensitivity = run(jnp.array(mask), clip_norm)
    (smaller, _), _ = run(jnp.array(without), clip_norm)
    assert sensitivity == np.float32(clip_norm)
    change = reference.norm_of(
        np.float64(a) - b
        for a, b in zip(jax.tree.leaves(larger), jax.tree.leaves(smaller), strict=True)
    )
    assert change <= clip_norm * (1 + 1e-4)
    # The bound is attained, so a smaller sensitivity would be a lie.
    norm = float(stats.norm[row])
    if rule == "flat" and norm > clip_norm:
        assert change >= clip_norm * (1 - 1e-3)
    if rule == "automatic":
        expected = clip_norm * norm / (norm + rules.GAMMA)
        rounding = clip_norm * GRADIENT_ROUNDING / rules.GAMMA
        assert change == pytest.approx(expected, rel=1e-3, abs=rounding)
    if rule == "per_layer" and stats.clipped[row]:
        assert change >= clip_norm / math.sqrt(3) * (1 - 1e-3)


@pytest.mark.parametrize("method", ["ghost", "vmap"])
@pytest.mark.parametrize("rule", reference.RULES)
def test_the_sensitivity_is_attained_where_every_layer_is_clipped(method, rule):
    params, batch = reference.random_params(MODULE, jnp.zeros((1, 6)), 3), make_batch(3)
    run = functools.partial(clipped_sum, params, batch, method=method, rule=rule)
    (_, stats), _ = run(jnp.ones(5, bool), 1e-4)
    row = jnp.argmax(stats.norm)
    assert stats.norm[row] > 1  # far above the clip norm and gamma
    (total, _), sensitivity = run(jnp.arange(5) == row, 1e-4)
    assert reference.norm_of(jax.tree.leaves(total)) == pytest.approx(float(sensitivity), rel=0.01)


@settings(max_examples=50, deadline=None)
@given(
    norms=st.lists(st.floats(0, 1e3), min_size=1, max_size=6),
    clip_norm=st.floats(1e-3, 1e3),
    rule=st.sampled_from(reference.RULES),
)
def test_scales_are_the_definition(norms, clip_norm, rule):
    grad = {("layer", i, "kernel"): np.array([norm]) for i, norm in enumerate(norms)}
    # Each layer has two parameters: its norm is that of both.
    grad |= {("layer", i, "bias"): np.array([norm / 2]) for i, norm in enumerate(norms)}
    clipped, _, was_clipped = reference.clip(grad, clip_norm, rule)
    squares = {path: jnp.square(jnp.asarray(g, jnp.float32)) for path, g in grad.items()}
    layers = {}
    for path, square in squares.items():
        layers[path[:-1]] = layers.get(path[:-1], 0) + square
    factors, flags = rules.get(rule)(layers, clip_norm)
    for path, leaf in grad.items():
        np.testing.assert_allclose(factors[path[:-1]] * leaf, clipped[path], rtol=1e-4, atol=1e-30)
    if abs(min(np.min(f) for f in factors.values()) - 1) > 1e-4:
        assert bool(flags[0]) == was_clipped


def test_a_layer_is_what_shares_a_parent():
    squares = {("a", "kernel"): jnp.ones(2), ("a", "bias"): jnp.ones(2), ("b", "kernel"): 4.0}
    squares = {path: jnp.broadcast_to(square, 2) for path, square in squares.items()}
    decided = rules.decide(
        rules.get("per_layer"), squares, 1.0, jnp.zeros(2), jnp.array([True, False])
    )
    half = math.sqrt(0.5)
    np.testing.assert_allclose(decided.scale["a", "kernel"], [half / math.sqrt(2), 0])
    np.testing.assert_allclose(decided.scale["a", "bias"], [half / math.sqrt(2), 0])
    np.testing.assert_allclose(decided.scale["b", "kernel"], [half / 2, 0])
    np.testing.assert_allclose(decided.stats.norm, [math.sqrt(6), 0])


def test_automatic_clipping_brings_small_gradients_near_the_clip_norm():
    factors, clipped = rules.automatic({"layer": jnp.array([1e-2, 1e-8]) ** 2}, 1.0)
    np.testing.assert_allclose(factors["layer"] * np.array([1e-2, 1e-8]), [0.5, 1e-6], rtol=1e-4)
    assert not clipped.any()  # these are scaled up
