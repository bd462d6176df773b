"""Gradients of single layers: their norms are never too small, whatever way they are found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.clipping import layers
from tests.clipping import reference


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def dense_part(inputs, cotangent, bias=False):
    params = {"kernel": jnp.zeros((inputs.shape[-1], cotangent.shape[-1]))}
    layer = nn.Dense(cotangent.shape[-1], use_bias=bias)
    return layers.parts(layer, [layers.Call(inputs, cotangent)], params)[0]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 999),
    places=st.integers(1, 6),
    depth=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_a_kernel_s_norm_and_sum_are_those_of_its_gradient(seed, places, depth, width):
    rng = np.random.default_rng(seed)
    inputs, cotangent = normal(rng, 3, places, depth), normal(rng, 3, places, width)
    weights = jnp.asarray(rng.uniform(size=3), jnp.float32)

    def results(inputs, cotangent):
        part = dense_part(inputs, cotangent)
        return part.square, part.weighted(weights, jnp.array([True, False, True]))

    square, total = reference.run(results, inputs, cotangent)
    grads = np.einsum("btd,btp->bdp", np.float64(inputs), np.float64(cotangent))
    np.testing.assert_allclose(square, np.square(grads).sum((1, 2)), rtol=1e-4)
    expected = np.tensordot(np.float64(weights) * [1, 0, 1], grads, 1)
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4, 1e-5])
def test_terms_that_cancel_never_hide_a_norm(spread):
    # Two places whose terms nearly cancel: what is left is small beside what rounding may hide.
    rng = np.random.default_rng(0)
    examples, depth, width = 200, 30, 30
    first, right = normal(rng, examples, 1, depth), normal(rng, examples, 1, width)
    inputs = 1e3 * jnp.concatenate([first, first + spread * normal(rng, *first.shape)], 1)
    cotangent = jnp.concatenate([right, -right], 1)
    part = dense_part(inputs, cotangent)
    grads = np.einsum("btd,btp->bdp", np.float64(inputs), np.float64(cotangent))
    norms = np.sqrt(np.square(grads).sum((1, 2)))
    assert (np.sqrt(part.square) >= norms * (1 - 1e-3)).all()


def test_rows_that_cancel_never_hide_a_norm():
    rng = np.random.default_rng(0)
    right = normal(rng, 200, 1, 64)
    cotangent = jnp.concatenate([right, -right + 1e-5 * normal(rng, 200, 1, 64)], 1)
    rows = jnp.ones((200, 2), jnp.int32)
    part = layers.parts(
        nn.Embed(9, 64), [layers.Call(rows, cotangent)], {"embedding": jnp.zeros((9, 64))}
    )[0]
    norms = np.sqrt(np.square(np.float64(cotangent).sum(axis=1)).sum(axis=1))
    assert (np.sqrt(part.square) >= norms * (1 - 1e-3)).all()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("examples", [1, 7])
def test_chunks_of_examples_never_change_the_result(monkeypatch, groups, examples):
    rng = np.random.default_rng(examples)
    layer = nn.Conv(4, (2, 2), feature_group_count=groups)
    params = {"kernel": jnp.zeros((2, 2, 2 // groups, 4)), "bias": jnp.zeros(4)}
    call = layers.Call(normal(rng, examples, 1, 5, 5, 2), normal(rng, examples, 1, 5, 5, 4))
    keep, weights = jnp.ones(examples, bool), jnp.asarray(rng.uniform(size=examples), jnp.float32)

    def results(call):
        parts = layers.parts(layer, [call], params)
        return [(part.square, part.weighted(weights, keep)) for part in parts]

    whole = reference.run(results, call)
    numbers = 25 * 4 * 2  # of one example's patches
    for chunk in (1, 3):
        monkeypatch.setattr(layers, "_CHUNK_BYTES", {"cpu": 4 * numbers * chunk + 1})
        in_chunks = reference.run(lambda call: results(call), call)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), in_chunks, whole)


LAYERS = {
    "formed": (nn.Dense(2), (9, 3), (9, 2), {"kernel": (3, 2), "bias": (2,)}),
    "large": (nn.Dense(20), (90, 30), (90, 20), {"kernel": (30, 20), "bias": (20,)}),
    "ghost": (nn.Dense(20), (2, 30), (2, 20), {"kernel": (30, 20), "bias": (20,)}),
    "table": (nn.Embed(9, 20), (3,), (3, 20), {"embedding": (9, 20)}),
    "convolution": (nn.Conv(2, (2,)), (1, 6, 1), (1, 6, 2), {"kernel": (2, 1, 2), "bias": (2,)}),
}


@pytest.mark.parametrize("name", ["large", "ghost", "table"])
def test_products_are_taken_in_full_float32_on_every_backend(name):
    layer, inputs, cotangent, params = LAYERS[name]
    kind = jnp.int32 if name == "table" else jnp.float32
    call = layers.Call(jnp.zeros((4, *inputs), kind), jnp.zeros((4, *cotangent)))
    shapes = {name: jnp.zeros(shape) for name, shape in params.items()}

    def results(call, weights, keep):
        parts = layers.parts(layer, [call], shapes)
        return [(part.square, part.weighted(weights, keep)) for part in parts]

    program = str(jax.make_jaxpr(results)(call, jnp.ones(4), jnp.ones(4, bool)))
    products = program.count("dot_general")
    assert products >= 1
    assert products == program.count("precision=(Precision.HIGHEST")


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_not_kept_may_be_anything(name):
    layer, inputs, cotangent, params = LAYERS[name]
    rng = np.random.default_rng(0)
    met = jnp.zeros((4, *inputs), jnp.int32) if name == "table" else normal(rng, 4, *inputs)
    values = normal(rng, 4, *cotangent)
    shapes = {name: jnp.zeros(shape) for name, shape in params.items()}
    keep = jnp.array([True, False, True, True])

    def total(met, values):
        parts = layers.parts(layer, [layers.Call(met, values)], shapes)
        return {part.name: part.weighted(jnp.ones(4) * keep, keep) for part in parts}

    program = reference.compiled(total, met, values)
    junk = met if name == "table" else met.at[1].set(np.inf)
    reference.assert_sums(program(junk, values.at[1].set(np.nan)), program(met, values), rtol=1e-6)
