"""Good noise passes, and noise with a fault does not."""

import jax
import jax.numpy as jnp
import pytest

from dpfinjax import noise
from launch import normality


def test_good_noise_passes_and_bad_noise_does_not(monkeypatch):
    params = {"kernel": jnp.ones((300, 350)), "bias": jnp.ones(1000)}
    good = normality.measure(2_000_000, params)
    assert good.draws == 19 * 106_000
    assert good.distance < 0.002
    assert good.p_value > 1e-3
    assert all(abs(tail.z) < 4 for tail in good.tails)
    assert [tail.expected / good.draws for tail in good.tails] == pytest.approx(
        [6.334248e-5, 5.733031e-7], rel=1e-6
    )
    add = noise.add_gaussian

    def wide(*args):
        return jax.tree.map(lambda x: 1.01 * x, add(*args))

    monkeypatch.setattr(noise, "add_gaussian", wide)
    assert normality.measure(500_000, params).p_value < 1e-3

    def short(*args):
        return jax.tree.map(lambda x: jnp.clip(x, -3.9, 3.9), add(*args))

    monkeypatch.setattr(noise, "add_gaussian", short)
    cut = normality.measure(500_000, params)
    assert (cut.tails[0].found, cut.largest) == (0, pytest.approx(3.9))
    assert cut.tails[0].p_value < 1e-9
    assert cut.p_value > 1e-3
