import numpy as np
import pytest

from dpfinjax.attacks import loss
from dpfinjax.errors import InputError
from tests.attacks import reference


def test_a_lower_loss_scores_higher():
    np.testing.assert_array_equal(loss.threshold([0.5, 2.0, 0.0]), [-0.5, -2.0, 0.0])


def test_calibrated_loss_is_the_mean_of_models_that_did_not_see_it_less_the_targets():
    target, shadows, membership, *_ = reference.made()
    slow = [
        np.mean(reference.sides(shadows, membership, i)[1]) - loss_of
        for i, loss_of in enumerate(target)
    ]
    np.testing.assert_allclose(loss.calibrated(target, shadows, membership), slow, rtol=1e-12)


def test_bad_losses_are_named():
    with pytest.raises(InputError, match=r"losses\[1\] is nan"):
        loss.threshold([0.0, np.nan])
    with pytest.raises(InputError, match="Example 1 is in all shadow models"):
        loss.calibrated([0.0, 0.0], np.ones((2, 2)), np.array([[True, True], [False, True]]))
