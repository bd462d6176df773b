"""Rules for what a config leaves open: as they are said to be, and only where they are meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpfinjax import recipes, training
from dpfinjax.training import Data, HParams, Spec
from tests.test_training import Flat

POSITIVE = {"min_value": 0.01, "max_value": 100.0}


@pytest.mark.parametrize(
    ("examples", "expected"),
    [(1, 1), (2, 1), (10, 4), (1000, 350), (5769, 2019), (13_170, 4610)],
)
def test_a_batch_is_about_a_third_of_the_examples(examples, expected):
    assert recipes.batch_size(examples) == expected


@given(examples=st.integers(1, 10**7))
def test_a_batch_has_at_least_one_example_and_never_more_than_there_are(examples):
    assert 1 <= recipes.batch_size(examples) <= examples
    assert recipes.batch_size(examples) <= recipes.batch_size(examples + 1)


@pytest.mark.parametrize(
    ("numbers", "pretrained", "expected"),
    [
        ((1.0, 0.3, 100, 400), False, 1.25 / 0.3),  # 0.25 over 1 / 100 * 20
        ((1.0, 0.3, 100, 400), True, 0.25 / 0.3),
        ((2.0, 1.0, 100, 400), False, 0.625),
        ((0.5, 0.3, 2000, 100), False, 10.0),  # the noise would allow 333
        ((0.5, 0.3, 2000, 100), True, 10.0),
        ((0.0, 1.5, 100, 400), False, 2.0),
    ],
)
def test_the_learning_rate_is_what_the_noise_allows_up_to_the_longest_step(
    numbers, pretrained, expected
):
    assert recipes.learning_rate(*numbers, pretrained) == pytest.approx(expected)


@given(
    noise=st.floats(**POSITIVE),
    clip_norm=st.floats(**POSITIVE),
    batch=st.floats(1.0, 1e5),
    steps=st.integers(1, 10**5),
    pretrained=st.booleans(),
)
def test_more_noise_or_more_steps_never_make_longer_steps(
    noise, clip_norm, batch, steps, pretrained
):
    rate = recipes.learning_rate(noise, clip_norm, batch, steps, pretrained)
    assert 0 < rate * clip_norm <= 3.0 * (1 + 1e-12)
    assert recipes.learning_rate(2 * noise, clip_norm, batch, steps, pretrained) <= rate
    assert recipes.learning_rate(noise, clip_norm, batch, 2 * steps, pretrained) <= rate
    assert recipes.learning_rate(noise, clip_norm, 2 * batch, steps, pretrained) >= rate
    assert recipes.learning_rate(noise, clip_norm, batch, steps, True) <= rate
    # A clip norm only sets the unit in which gradients are measured.
    halved = recipes.learning_rate(noise, clip_norm / 2, batch, steps, pretrained)
    assert halved == pytest.approx(2 * rate)


@pytest.mark.parametrize(("pretrained", "wander"), [(False, 0.25), (True, 0.05)])
def test_noise_alone_moves_a_parameter_as_far_as_the_rule_says(pretrained, wander):
    noise, clip_norm, batch, steps = 1.7, 0.3, 20.0, 25
    rate = recipes.learning_rate(noise, clip_norm, batch, steps, pretrained)
    data = Data(jnp.zeros((40, 500)), jnp.zeros(40, jnp.int32))  # no gradient at all
    spec = Spec(Flat(), steps, steps, 40, "vmap", 40)
    hparams = HParams(*map(jnp.float32, (rate, clip_norm, noise, 0.5, batch)))
    fit = jax.jit(training.fit, static_argnames="spec")
    params, _ = fit(jax.random.key(0), hparams, training.everything(data), data, spec)
    np.testing.assert_allclose(np.std(params["Dense_0"]["kernel"]), wander, rtol=0.05)
