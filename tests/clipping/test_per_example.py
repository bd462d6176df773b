"""Per-example gradients by vmap: the sum is the definition, whatever the batch holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax import clipping, models
from dpfinjax.errors import InputError
from tests.clipping import reference

MODULE = models.build("gaf_cnn", widths=(3,), strides=(2,), hidden=(5,))
loss_fn = reference.example_loss(MODULE)


def make_batch(seed, examples):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(examples, 10, 10, 4)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 8, examples), jnp.int32)


def make_params(seed=0):
    return reference.random_params(MODULE, jnp.zeros((1, 10, 10, 4)), seed, scale=0.3)


example_grads = jax.jit(functools.partial(reference.example_grads, MODULE))


@functools.partial(jax.jit, static_argnames=("microbatch", "rule", "loss"))
def clipped_sum(params, batch, mask, clip_norm, microbatch=None, rule="flat", loss=loss_fn):
    fn = clipping.vmap_clipped_grad(loss, clip_norm, microbatch=microbatch, rule=rule)
    return fn(params, batch, mask)


@pytest.mark.parametrize(
    ("microbatch", "rule"), [(None, "flat"), (1, "automatic"), (4, "per_layer"), (9, "flat")]
)
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    clip_norm=st.floats(0.01, 30),
    mask=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_the_sum_is_the_definition(microbatch, rule, seed, clip_norm, mask):
    params, batch = make_params(seed), make_batch(seed, 6)
    total, stats = clipped_sum(params, batch, jnp.array(mask), clip_norm, microbatch, rule)
    expected, norms, clipped = reference.definition(
        example_grads(params, batch), mask, clip_norm, rule
    )
    reference.assert_sums(total, expected)
    np.testing.assert_allclose(stats.norm, norms, rtol=1e-4)
    np.testing.assert_array_equal(stats.clipped, clipped)
    assert stats.norm.dtype == stats.loss.dtype == jnp.float32


@pytest.mark.parametrize("microbatch", [None, 2])
def test_padding_never_changes_the_sum(microbatch):
    params, (images, labels) = make_params(), make_batch(1, 5)
    expected, _ = clipped_sum(params, (images, labels), jnp.ones(5, bool), 0.5, microbatch)
    padded = jnp.concatenate([images, jnp.full((4, 10, 10, 4), 1e30)])
    mask = jnp.arange(9) < 5
    total, stats = clipped_sum(params, (padded, jnp.pad(labels, (0, 4))), mask, 0.5, microbatch)
    reference.assert_sums(total, expected, rtol=1e-6)
    assert not stats.nonfinite.any()
    np.testing.assert_array_equal(stats.norm[5:], 0)
    np.testing.assert_array_equal(stats.loss[5:], 0)


def overflowing_loss(params, example):
    """Not finite for an example with a very large pixel, and only for it."""
    image, label = example
    return loss_fn(params, (jnp.tanh(image), label)) * jnp.square(jnp.max(jnp.abs(image)))


@pytest.mark.parametrize("microbatch", [None, 2])
def test_a_nonfinite_example_contributes_zero_and_is_counted(microbatch):
    params, (images, labels) = make_params(), make_batch(1, 5)
    mask = jnp.ones(5, bool)
    without = mask.at[2].set(False)
    run = functools.partial(clipped_sum, microbatch=microbatch, loss=overflowing_loss)
    expected, _ = run(params, (images, labels), without, 0.5)
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        total, stats = run(params, (images.at[2, 0, 0].set(bad), labels), mask, 0.5)
        reference.assert_sums(total, expected, rtol=1e-6)
        np.testing.assert_array_equal(stats.nonfinite, ~without)
        assert not stats.clipped[2]


@pytest.mark.parametrize("microbatch", [None, 2])
@pytest.mark.parametrize("examples", [0, 4])
def test_an_empty_batch_gives_exactly_zero(examples, microbatch):
    params, batch = make_params(), make_batch(1, examples)
    total, stats = clipped_sum(params, batch, jnp.zeros(examples, bool), 1.0, microbatch)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(total))
    assert stats.norm.shape == (examples,)
    assert not stats.clipped.any()


@pytest.mark.parametrize("rule", reference.RULES)
def test_a_zero_gradient_is_neither_clipped_nor_dropped(rule):
    fn = clipping.vmap_clipped_grad(lambda params, x: 0.0 * params * x, 1.0, rule=rule)
    total, stats = fn(jnp.ones(()), jnp.ones(3), jnp.ones(3, bool))
    assert total == 0
    assert not stats.clipped.any()
    assert not stats.nonfinite.any()


def test_parameters_in_few_bits_have_sums_in_float32():
    def loss(params, x):
        return jnp.sum(params["w"] * x).astype(jnp.float32)

    params = {"w": jnp.ones(3, jnp.bfloat16)}
    for microbatch in (None, 2):
        fn = clipping.vmap_clipped_grad(loss, 1.0, microbatch=microbatch)
        total, _ = fn(params, jnp.full((300, 3), 1.0, jnp.bfloat16), jnp.ones(300, bool))
        assert total["w"].dtype == jnp.float32
        np.testing.assert_allclose(total["w"], 300 / np.sqrt(3), rtol=1e-5)


def test_clip_norms_can_be_mapped_over():
    params, batch, mask = make_params(), make_batch(2, 4), jnp.ones(4, bool)

    def clipped(clip_norm):
        fn = clipping.vmap_clipped_grad(loss_fn, clip_norm)
        return fn(params, batch, mask)[0], fn.sensitivity

    norms = jnp.array([0.1, 1.0, 5.0])
    totals, sensitivities = jax.jit(jax.vmap(clipped))(norms)
    np.testing.assert_array_equal(sensitivities, norms)
    for row, norm in enumerate(norms):
        one = jax.tree.map(lambda t: t[row], totals)  # noqa: B023
        reference.assert_sums(one, clipped_sum(params, batch, mask, norm)[0])


def test_the_sum_is_taken_in_full_float32_on_every_backend():
    def loss(params, x):
        return jnp.sum(params * x)

    fn = clipping.vmap_clipped_grad(loss, 1.0)
    program = str(jax.make_jaxpr(fn)(jnp.ones(3), jnp.ones((4, 3)), jnp.ones(4, bool)))
    assert program.count("dot_general") == program.count("precision=(Precision.HIGHEST") == 1


@pytest.mark.parametrize("microbatch", [0, -3])
def test_a_microbatch_of_nothing_is_refused(microbatch):
    with pytest.raises(InputError, match=f"microbatch is {microbatch}"):
        clipping.vmap_clipped_grad(loss_fn, 1.0, microbatch=microbatch)
