"""Copies of an image: images of a window that might have been, and no two alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax import augmentation
from dpfinjax.augmentation import Augmentation
from dpfinjax.data import gaf

KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnames="copies")
def with_copies(key, image, copies=2, noise=0.0, jitter=0.0):
    return augmentation.with_copies(key, image, Augmentation(copies, noise, jitter))


def make_image(seed=0, length=10, flat=False):
    """An image of made bars; without shadows, and so with two constant channels, where `flat`."""
    rng = np.random.default_rng(seed)
    close = 100 + np.cumsum(rng.normal(size=length))
    open = close + rng.normal(size=length)
    upper, lower = np.zeros((2, length)) if flat else rng.exponential(size=(2, length))
    high, low = np.maximum(open, close) + upper, np.minimum(open, close) - lower
    return gaf.encode(np.stack([open, high, low, close], axis=-1)[None])[0]


def encoded(series):
    """The image of series [length, channels] that are scaled already, pixel by pixel."""
    angle = np.arccos(np.asarray(series, np.float64))
    return np.cos(angle[:, None] + angle[None])


seeds, lengths = st.integers(0, 9999), st.sampled_from([2, 10])


@settings(max_examples=30)
@given(seed=seeds, length=lengths, flat=st.booleans())
def test_copies_that_change_nothing_are_the_image(seed, length, flat):
    image = make_image(seed, length, flat)
    for copy in with_copies(KEY, image):
        np.testing.assert_allclose(copy, image, atol=1e-3)  # a number near 0 is known to 2e-4


@settings(max_examples=30)
@given(
    seed=seeds,
    length=lengths,
    flat=st.booleans(),
    noise=st.sampled_from([0.0, 0.01, 0.3]),
    jitter=st.sampled_from([0.0, 0.1, 0.49]),
)
def test_a_copy_is_the_image_of_a_series(seed, length, flat, noise, jitter):
    image = make_image(seed, length, flat)
    found = with_copies(jax.random.key(seed), image, noise=noise, jitter=jitter)
    assert found.shape == (3, length, length, 4)
    np.testing.assert_array_equal(found[0], image)
    assert float(jnp.abs(found).max()) <= 1
    constant = ~image.any(axis=(0, 1))
    assert (np.asarray(found[..., constant]) == 0).all()
    series = gaf.decode(np.asarray(found))
    for copy, numbers in zip(np.asarray(found), series, strict=True):
        np.testing.assert_allclose(copy[..., ~constant], encoded(numbers[:, ~constant]), atol=2e-3)


@pytest.mark.parametrize("flat", [False, True])
def test_all_copies_differ_where_the_image_has_a_scale(flat):
    image = make_image(flat=flat)
    found = np.asarray(with_copies(KEY, image, noise=0.02, jitter=0.1))
    for channel in np.flatnonzero(image.any(axis=(0, 1))):
        assert len({copy[..., channel].tobytes() for copy in found}) == len(found)
    again = with_copies(jax.random.key(1), image, noise=0.02, jitter=0.1)
    assert not np.array_equal(found[1:], again[1:])


def test_noise_and_ends_are_as_large_as_they_are_said_to_be():
    image = make_image()
    series = gaf.decode(image[None])[0]
    inside = (series > 0.2) & (series < 0.8)  # where nothing is cut off
    noisy = with_copies(KEY, image, 4000, noise=0.03)[1:]
    moved = gaf.decode(np.asarray(noisy))[:, inside]
    np.testing.assert_allclose(np.std(moved, axis=0), 0.03, rtol=0.1)
    np.testing.assert_allclose(np.mean(moved, axis=0), series[inside], atol=0.003)
    jittered = gaf.decode(np.asarray(with_copies(KEY, image, 4000, jitter=0.2)[1:]))
    low, high = jittered.min(axis=1), jittered.max(axis=1)
    for ends in (low, 1 - high):
        assert ends.min() >= 0
        np.testing.assert_allclose(ends.mean(axis=0), 0.1, rtol=0.05)
        np.testing.assert_allclose(ends.max(axis=0), 0.2, rtol=0.01)
    correlation = np.corrcoef(np.concatenate([low, high], axis=1).T) - np.eye(8)
    assert np.abs(correlation).max() < 0.08  # each end of each channel by its own chance


def test_without_copies_there_is_the_image_alone():
    image = make_image()
    found = augmentation.with_copies(KEY, image, augmentation.NO_COPIES)
    np.testing.assert_array_equal(found, image[None])
