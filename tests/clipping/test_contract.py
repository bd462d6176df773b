"""What every clipped gradient checks before it runs."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dpfinjax import clipping
from dpfinjax.errors import InputError
from tests.clipping import reference

MODULE = nn.Dense(2)
BATCH = jnp.ones((4, 3)), jnp.zeros(4, jnp.int32)
METHODS = [
    lambda *args, **kwargs: clipping.ghost_clipped_grad(MODULE, reference.loss_fn, *args, **kwargs),
    lambda *args, **kwargs: clipping.vmap_clipped_grad(
        reference.example_loss(MODULE), *args, **kwargs
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=["ghost", "vmap"])
@pytest.mark.parametrize("clip_norm", [0.0, -1.0, np.nan, np.inf, np.array([1.0, 0.0])])
def test_a_clip_norm_that_bounds_nothing_is_refused(method, clip_norm):
    with pytest.raises(InputError, match="clip_norm"):
        method(clip_norm)


@pytest.mark.parametrize("method", METHODS, ids=["ghost", "vmap"])
def test_an_unknown_rule_is_refused_by_name(method):
    with pytest.raises(InputError, match="rule is 'flatt'; it must be one of flat, automatic"):
        method(1.0, rule="flatt")


@pytest.mark.parametrize("method", METHODS, ids=["ghost", "vmap"])
@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.ones(4, np.float32), "mask is float32"),
        (np.ones((4, 1), bool), r"mask is bool \[4, 1\]"),
        (np.ones(3, bool), r"leaf of shape \[4, 3\].* each of the 3 examples"),
    ],
)
def test_a_mask_that_is_not_one_bool_an_example_is_refused(method, mask, reason):
    params = reference.random_params(MODULE, BATCH[0])
    with pytest.raises(InputError, match=reason):
        method(1.0)(params, BATCH, jnp.asarray(mask))
