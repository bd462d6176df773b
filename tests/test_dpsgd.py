"""The private gradient: sensitivity, noise and divisor together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpfinjax import clipping, dpsgd

PARAMS = {"w": jnp.zeros(4000), "b": jnp.zeros(100)}


def zero_loss(params, example):
    return 0.0 * (params["w"].sum() + params["b"].sum()) * example


def linear_loss(params, example):
    return params["w"].sum() * example


def noisy(loss_fn, batch, mask, noise_multiplier, clip_norm=0.5, expected=8.0, seed=0):
    fn = clipping.vmap_clipped_grad(loss_fn, clip_norm)
    key = jax.random.key(seed)
    return dpsgd.private_grad(key, fn, PARAMS, batch, mask, noise_multiplier, expected)[0]


def test_noise_on_a_zero_gradient_has_the_claimed_size():
    grad = noisy(zero_loss, jnp.ones(8), jnp.ones(8, bool), noise_multiplier=3.0)
    values, stddev = np.asarray(grad["w"]), 3.0 * 0.5 / 8
    assert stats.kstest(values, stats.norm(0, stddev).cdf).pvalue > 1e-3
    assert stats.kstest(values, stats.norm(0, stddev * 2 / 3).cdf).pvalue < 1e-9
    assert stats.kstest(values, stats.norm(0, stddev * 3 / 2).cdf).pvalue < 1e-9


@pytest.mark.parametrize("realised", [0, 1, 5, 8])
def test_the_divisor_is_the_expected_batch_size_whatever_was_drawn(realised):
    mask = jnp.arange(8) < realised
    grad = noisy(linear_loss, jnp.full(8, 1e-3), mask, noise_multiplier=0.0)
    np.testing.assert_allclose(grad["w"], realised * 1e-3 / 8, rtol=1e-5)
    with_noise = noisy(linear_loss, jnp.full(8, 1e-3), mask, noise_multiplier=2.0)
    spread = np.std(with_noise["w"] - grad["w"])
    np.testing.assert_allclose(spread, 2.0 * 0.5 / 8, rtol=0.1)


def test_noise_scales_with_the_sensitivity_of_the_clipping():
    zero = (zero_loss, jnp.ones(8), jnp.ones(8, bool), 1.0)
    small, large = noisy(*zero, clip_norm=0.1), noisy(*zero, clip_norm=0.7)
    np.testing.assert_allclose(large["w"], 7 * small["w"], rtol=1e-5)
