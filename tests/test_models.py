"""The networks are the paper's, by size and by name, and ours read what an image holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpfinjax import models
from dpfinjax.data import gaf, simulate
from dpfinjax.errors import InputError

IMAGE = jnp.zeros((3, 10, 10, 4))


@pytest.mark.parametrize("variant", ["paper_baseline", "paper_dpsgd"])
def test_the_paper_s_network_has_106024_parameters(variant):
    params = models.build(variant).init(jax.random.key(0), IMAGE)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 106_024


def test_the_network_on_the_series_has_3688_parameters():
    params = models.build("gaf_series").init(jax.random.key(0), IMAGE)["params"]
    assert params["Dense_0"]["kernel"].shape == (40, 32)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3688


def make_images(windows=200):
    """Images of simulated windows; in the last two some channels, or all of them, are constant."""
    bars = simulate.bars(10 * windows, 0)
    prices = np.stack([bars.open, bars.high, bars.low, bars.close], axis=-1)
    prices = prices.reshape(windows, 10, 4)
    prices[-2, :, 1] = prices[-2, :, [0, 3]].max(axis=0)  # no upper shadow
    prices[-1] = 7.0
    return gaf.encode(prices)


def test_the_series_of_an_image_is_what_it_encodes():
    images = make_images()
    found = models.INPUTS["series"](jnp.asarray(images))
    means = np.array([0.5, 0.22, 0.22, 0.5])
    np.testing.assert_allclose(found, 2 * (gaf.decode(images) - means), atol=1e-6)
    constant = ~images.any(axis=(1, 2))
    assert constant[-1].all()
    assert constant[-2, 1]
    smallest = np.broadcast_to(-2 * means, (len(images), 10, 4)).transpose(0, 2, 1)
    np.testing.assert_allclose(
        np.asarray(found).transpose(0, 2, 1)[constant], smallest[constant], rtol=1e-6
    )


def test_a_series_is_centred_by_the_constants_of_a_simulated_market():
    found = np.asarray(models.INPUTS["series"](jnp.asarray(make_images(1000)[:-2])))
    # The market has more windows than those of a pattern, so it is about what was measured.
    assert np.abs(found.mean(axis=(0, 1))).max() < 0.3


def test_a_normalised_image_has_the_constants_of_a_simulated_market():
    images = make_images(1000)[:-2]
    found = np.asarray(models.INPUTS["normalised"](jnp.asarray(images)))
    shift = np.array([-0.27, -0.66, -0.67, -0.29])
    np.testing.assert_allclose(found, (images - shift) / 0.53, rtol=1e-5, atol=1e-6)
    # The market has more windows than those of a pattern, so it is about what was measured.
    assert np.abs(found.mean(axis=(0, 1, 2))).max() < 0.3
    assert 0.8 < found.std() < 1.2


@pytest.mark.parametrize("overrides", [{}, {"input": "normalised"}, {"groups": 4}])
def test_logits_come_for_any_leading_axes(overrides):
    module = models.build("gaf_cnn", classes=5, **overrides)
    params = module.init(jax.random.key(0), IMAGE)
    image = jax.random.normal(jax.random.key(1), (2, 3, 10, 10, 4))
    logits = module.apply(params, image)
    assert logits.shape == (2, 3, 5)
    np.testing.assert_allclose(logits[1, 2], module.apply(params, image[1, 2]), atol=1e-5)


def test_a_network_on_the_series_answers_for_any_leading_axes():
    module, images = models.build("gaf_series"), jnp.asarray(make_images(6))
    params = module.init(jax.random.key(0), IMAGE)
    logits = module.apply(params, images.reshape(2, 3, 10, 10, 4))
    np.testing.assert_allclose(
        logits.reshape(6, 8), [module.apply(params, image) for image in images], atol=1e-5
    )


@pytest.mark.parametrize(
    ("variant", "overrides"),
    [("paper_baseline", {}), ("gaf_series", {}), ("gaf_cnn", {"groups": 4})],
)
def test_each_example_is_answered_alone(variant, overrides):
    module = models.build(variant, **overrides)
    params = module.init(jax.random.key(0), IMAGE)
    image = jax.random.normal(jax.random.key(1), (4, 10, 10, 4))
    changed = image.at[3].set(9.0)
    np.testing.assert_array_equal(
        module.apply(params, image)[:3], module.apply(params, changed)[:3]
    )


def test_the_paper_s_convolutions_differ_in_their_activation_alone():
    baseline, dpsgd = models.build("paper_baseline"), models.build("paper_dpsgd")
    assert (baseline.conv_activation, dpsgd.conv_activation) == ("sigmoid", "relu")
    assert baseline.dense_activation == dpsgd.dense_activation == "relu"


def test_overrides_replace_and_none_keeps():
    module = models.build("gaf_cnn", widths=[8, 8, 8], strides=[1, 1, 2], hidden=None)
    assert module.widths == (8, 8, 8)
    assert module.hidden == (64,)
    assert hash(module) == hash(models.build("gaf_cnn", widths=(8, 8, 8), strides=(1, 1, 2)))


def test_standardised_kernels_are_free_of_scale_and_shift():
    module = models.build("gaf_cnn", widths=(4, 6), hidden=(8,), standardise=True)
    params = module.init(jax.random.key(0), IMAGE)["params"]
    image = jax.random.normal(jax.random.key(1), (3, 10, 10, 4))
    kernels = [name for name in params if "Conv" in name]
    assert len(kernels) == 2
    for name in kernels:
        kernel = params[name]["kernel"]
        changed = params | {name: params[name] | {"kernel": 3 * kernel + 0.5}}
        np.testing.assert_allclose(
            module.apply({"params": params}, image),
            module.apply({"params": changed}, image),
            atol=1e-3,
        )
        standardised = np.asarray(
            models._standardised({"params": params[name]})["params"]["kernel"]
        )
        flat = standardised.reshape(-1, standardised.shape[-1])
        np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(flat.var(axis=0), 1 / len(flat), rtol=1e-2)


@pytest.mark.parametrize(
    ("variant", "overrides", "field"),
    [
        ("resnet", {}, "model.variant"),
        ("gaf_cnn", {"depth": 3}, "model.depth"),
        ("gaf_cnn", {"widths": (8,)}, "model.widths"),
        ("gaf_cnn", {"hidden": (0,)}, "model.hidden"),
        ("gaf_cnn", {"kernel_size": 0}, "model.kernel_size"),
        ("gaf_cnn", {"conv_activation": "step"}, "model.conv_activation"),
        ("gaf_cnn", {"input": "candles"}, "model.input"),
        ("gaf_cnn", {"groups": 3}, "model.groups"),
        ("gaf_cnn", {"groups": -1}, "model.groups"),
        ("gaf_series", {"widths": (8,), "strides": (1,)}, "a series is not convolved"),
        ("gaf_cnn", {"input": "series"}, "a series is not convolved"),
    ],
)
def test_what_cannot_make_a_network_is_refused_by_field(variant, overrides, field):
    with pytest.raises(InputError, match=field):
        models.build(variant, **overrides)
