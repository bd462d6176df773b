import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.attacks import design
from dpfinjax.errors import InputError


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 200))
def test_each_example_is_in_exactly_half_of_the_models(seed, half, examples):
    membership = design.balanced(seed, 2 * half, examples)
    assert membership.shape == (2 * half, examples)
    assert membership.dtype == np.bool_
    np.testing.assert_array_equal(membership.sum(axis=0), half)


def test_each_model_sees_about_half_and_any_two_share_what_chance_says():
    models, examples = 8, 40_000
    membership = design.balanced(3, models, examples).astype(float)
    share = membership @ membership.T / examples
    # Two models share an example with probability 1/2 (m/2 - 1) / (m - 1); 5 standard deviations.
    expected = np.where(np.eye(models), 0.5, 0.5 * (models / 2 - 1) / (models - 1))
    np.testing.assert_allclose(share, expected, atol=5 * 0.5 / np.sqrt(examples))


def test_a_seed_repeats_and_another_differs():
    first, again, other = (design.balanced(seed, 6, 50) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(30, 80))
def test_rows_hold_the_examples_of_each_model_and_nothing_else(seed, half, examples):
    membership = design.balanced(seed, 2 * half, examples)
    padded, sizes = (np.asarray(array) for array in design.rows(membership))
    assert padded.dtype == sizes.dtype == np.int32
    assert padded.shape == (2 * half, membership.sum(axis=1).max())
    for model, (row, size) in enumerate(zip(padded, sizes, strict=True)):
        np.testing.assert_array_equal(row[:size], np.flatnonzero(membership[model]))
        np.testing.assert_array_equal(row[size:], 0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: design.balanced(0, 3, 10), "models is 3; it must be even"),
        (lambda: design.balanced(0, 0, 10), "models is 0"),
        (lambda: design.balanced(0, 2, 0), "examples is 0"),
        (lambda: design.rows(np.ones((2, 3))), "bool"),
        (lambda: design.rows(np.ones(3, bool)), "2 axes"),
        (lambda: design.rows(np.array([[True], [False]])), "Model 1 has no example"),
    ],
)
def test_a_design_that_cannot_be_is_refused(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_examples_in_docstrings():
    assert doctest.testmod(design).failed == 0
