import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpfinjax import models
from dpfinjax.attacks import answers
from dpfinjax.training import Data

LOGITS = np.random.default_rng(0).normal(size=(3, 7, 4)) * 3
LABELS = np.array([0, 1, 2, 3, 0, 1, 2])


def test_docstrings_are_true():
    assert doctest.testmod(answers).failed == 0


def test_numbers_are_those_of_the_softmax():
    weights = np.exp(LOGITS)
    p = (weights / weights.sum(-1, keepdims=True))[:, np.arange(7), LABELS]
    np.testing.assert_allclose(answers.probabilities(LOGITS, LABELS), p, rtol=1e-12)
    np.testing.assert_allclose(answers.losses(LOGITS, LABELS), -np.log(p), rtol=1e-12)
    np.testing.assert_allclose(answers.margins(LOGITS, LABELS), np.log(p / (1 - p)), rtol=1e-9)


def test_a_model_that_is_sure_still_has_a_loss_and_a_margin():
    logits = np.array([[1000.0, 0.0], [0.0, 300.0]], np.float32)
    assert answers.margins(logits, np.array([0, 0])).tolist() == [1000.0, -300.0]
    assert answers.losses(logits[1:], np.array([1]))[0] > 0
    assert np.isfinite(answers.losses(logits, np.array([1, 0]))).all()


def test_gradient_norms_are_those_of_each_example_s_gradient():
    module = models.build("gaf_cnn", widths=(3, 3), hidden=(5,))
    rng = np.random.default_rng(1)
    count = answers._CHUNK + 3
    images = rng.normal(size=(count, 10, 10, 4)).astype(np.float32)
    data = Data(jnp.asarray(images), jnp.asarray(rng.integers(0, 8, count), jnp.int32))
    params = module.init(jax.random.key(0), data.inputs[:1])["params"]

    def logits(params, image):
        return module.apply({"params": params}, image[None])[0]

    def loss(params, image, label):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, image), label)

    given = answers.answer(params, data, module)
    rows = jnp.array([0, 1, answers._CHUNK, count - 1])
    each = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))
    grads = each(params, data.inputs[rows], data.targets[rows])
    norms = np.sqrt(sum(np.sum(np.square(g).reshape(4, -1), 1) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(given.grad_norm[rows], norms, rtol=1e-4)
    expected = jax.vmap(logits, in_axes=(None, 0))(params, data.inputs[rows])
    np.testing.assert_allclose(given.logits[rows], expected, rtol=1e-4, atol=1e-5)
