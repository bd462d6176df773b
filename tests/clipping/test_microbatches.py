"""Microbatches: the same sum, and no work for padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax import clipping


def loss_fn(params, x):
    return jnp.sum(jnp.tanh(params * x)) + jnp.sum(x * params**2)


WHOLE = clipping.vmap_clipped_grad(loss_fn, 0.7)
PARAMS = jnp.linspace(-1, 1, 5)
parted = {size: jax.jit(clipping.in_microbatches(WHOLE, size)) for size in (1, 4, 10, 16)}


def make_batch(seed):
    return jax.random.normal(jax.random.key(seed), (10, 5))


def assert_close(actual, expected):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6), actual, expected
    )


@pytest.mark.parametrize("size", parted)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), mask=st.lists(st.booleans(), min_size=10, max_size=10))
def test_pieces_add_up_to_the_whole_wherever_the_padding_is(size, seed, mask):
    batch, mask = make_batch(seed), jnp.array(mask)
    assert_close(parted[size](PARAMS, batch, mask), WHOLE(PARAMS, batch, mask))


def test_the_sensitivity_stays():
    assert clipping.in_microbatches(WHOLE, 3).sensitivity == WHOLE.sensitivity


@pytest.mark.parametrize(("filled", "pieces"), [(0, 1), (1, 1), (3, 1), (4, 2), (7, 3), (10, 4)])
def test_pieces_of_padding_are_not_computed(filled, pieces):
    calls = []

    def counted(params, batch, mask):
        jax.debug.callback(lambda: calls.append(1))
        return WHOLE(params, batch, mask)

    fn = clipping.in_microbatches(clipping.ClippedGrad(counted, 0.7), 3)
    jax.block_until_ready(jax.jit(fn)(PARAMS, make_batch(0), jnp.arange(10) < filled))
    jax.effects_barrier()
    assert len(calls) == pieces


def test_models_can_be_mapped_over():
    masks = jnp.arange(10) < jnp.array([[0], [2], [9]])
    params = jnp.stack([PARAMS, 2 * PARAMS, -PARAMS])
    fn = clipping.in_microbatches(WHOLE, 4)
    batch = make_batch(1)
    mapped = jax.vmap(fn, in_axes=(0, None, 0))(params, batch, masks)
    for row in range(3):
        expected = WHOLE(params[row], batch, masks[row])
        assert_close(jax.tree.map(lambda x: x[row], mapped), expected)  # noqa: B023
