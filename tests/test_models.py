"""The networks are the paper's, by size and by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpfinjax import models
from dpfinjax.errors import InputError

IMAGE = jnp.zeros((3, 10, 10, 4))


@pytest.mark.parametrize("variant", ["paper_baseline", "paper_dpsgd"])
def test_the_paper_s_network_has_106024_parameters(variant):
    params = models.build(variant).init(jax.random.key(0), IMAGE)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 106_024


def test_logits_come_for_any_leading_axes():
    module = models.build("gaf_cnn", classes=5)
    params = module.init(jax.random.key(0), IMAGE)
    image = jax.random.normal(jax.random.key(1), (2, 3, 10, 10, 4))
    logits = module.apply(params, image)
    assert logits.shape == (2, 3, 5)
    np.testing.assert_allclose(logits[1, 2], module.apply(params, image[1, 2]), atol=1e-5)


def test_each_example_is_answered_alone():
    module = models.build("paper_baseline")
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


@pytest.mark.parametrize(
    ("variant", "overrides", "field"),
    [
        ("resnet", {}, "model.variant"),
        ("gaf_cnn", {"depth": 3}, "model.depth"),
        ("gaf_cnn", {"widths": (8,)}, "model.widths"),
        ("gaf_cnn", {"hidden": (0,)}, "model.hidden"),
        ("gaf_cnn", {"kernel_size": 0}, "model.kernel_size"),
        ("gaf_cnn", {"conv_activation": "step"}, "model.conv_activation"),
    ],
)
def test_what_cannot_make_a_network_is_refused_by_field(variant, overrides, field):
    with pytest.raises(InputError, match=field):
        models.build(variant, **overrides)
