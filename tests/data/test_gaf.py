import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpfinjax.data import gaf
from dpfinjax.errors import InputError


def bars_from(draws: np.ndarray) -> np.ndarray:
    """Bars whose four prices are in order, made from any [..., 4] numbers."""
    lowest, inner, outer, highest = np.moveaxis(np.sort(draws, axis=-1), -1, 0)
    rises = draws[..., 0] < draws[..., 1]
    open, close = np.where(rises, inner, outer), np.where(rises, outer, inner)
    return np.stack([open, highest, lowest, close], axis=-1)


# Few distinct prices, so that ties and constant channels are common.
windows = (
    st.tuples(st.integers(0, 5), st.integers(1, 12))
    .flatmap(lambda shape: hnp.arrays(np.float64, (*shape, 4), elements=st.integers(1, 9)))
    .map(bars_from)
)


def slow_scaled(window):
    """The four scaled channels of one window, number by number."""
    rows = [[c, h - max(o, c), min(o, c) - low, c - o] for o, h, low, c in window.tolist()]
    scaled = np.zeros((len(rows), 4))
    for channel in range(4):
        values = [row[channel] for row in rows]
        lowest, highest = min(values), max(values)
        for bar, value in enumerate(values):
            if highest > lowest:
                scaled[bar, channel] = (value - lowest) / (highest - lowest)
    return scaled


def slow_image(window):
    """cos(phi_i + phi_j), entry by entry, by the angles themselves."""
    scaled = slow_scaled(window)
    bars = len(scaled)
    image = np.zeros((bars, bars, 4))
    for channel in range(4):
        if not scaled[:, channel].any():
            continue
        angles = np.arccos(scaled[:, channel])
        for i in range(bars):
            for j in range(bars):
                image[i, j, channel] = np.cos(angles[i] + angles[j])
    return image


@settings(max_examples=100, deadline=None)
@given(windows)
def test_images_are_the_cosines_of_summed_angles(ohlc):
    image = gaf.encode(ohlc)
    assert image.dtype == np.float32
    assert image.shape == (len(ohlc), ohlc.shape[1], ohlc.shape[1], 4)
    for window, encoded in zip(ohlc, image, strict=True):
        np.testing.assert_allclose(encoded, slow_image(window), atol=3e-7)


@settings(max_examples=100, deadline=None)
@given(windows)
def test_the_scaled_series_is_read_back_from_the_image(ohlc):
    scaled = gaf.decode(gaf.encode(ohlc))
    assert scaled.shape == ohlc.shape
    for window, decoded in zip(ohlc, scaled, strict=True):
        np.testing.assert_allclose(decoded, slow_scaled(window), atol=3e-4)
        # Small x lose their digits in 2 x^2 - 1; the square does not.
        np.testing.assert_allclose(decoded**2, slow_scaled(window) ** 2, atol=1e-7)


def random_windows(seed: int, count: int) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(0, 1, (count, 10, 4))
    return bars_from(100 + draws.cumsum(axis=1))


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 700])
def test_a_window_is_encoded_alike_alone_and_among_others(count):
    ohlc = random_windows(1, count)
    image = gaf.encode(ohlc)
    alone = [gaf.encode(window[None])[0] for window in ohlc]
    np.testing.assert_array_equal(image, np.reshape(alone, image.shape))


def test_the_image_does_not_depend_on_unit_or_level_of_the_price():
    ohlc = random_windows(2, 50)
    np.testing.assert_allclose(gaf.encode(ohlc), gaf.encode(1024 * ohlc + 4096), atol=1e-6)


def test_a_constant_channel_gives_a_zero_image_channel_and_no_other_does():
    ohlc = random_windows(3, 20)
    ohlc[:10, :, 1] = np.maximum(ohlc[:10, :, 0], ohlc[:10, :, 3])  # no upper shadow
    zero = ~gaf.encode(ohlc).any(axis=(1, 2))
    assert (zero == [[False, row < 10, False, False] for row in range(20)]).all()
    assert not gaf.decode(gaf.encode(ohlc))[:10, :, 1].any()


def test_a_price_that_is_not_finite_never_looks_like_a_good_image():
    ohlc = random_windows(4, 3)
    ohlc[1, 4, 3] = np.nan
    finite = np.isfinite(gaf.encode(ohlc)).all(axis=(1, 2))
    assert not finite[1, [0, 3]].any()
    assert finite[[0, 2]].all()


def test_the_channels_are_close_shadows_and_body():
    falling, rising = [4.0, 5.0, 1.0, 2.0], [2.0, 5.0, 1.5, 4.0]
    np.testing.assert_array_equal(
        gaf.culr(np.array([falling, rising])), [[2.0, 1.0, 1.0, -2.0], [4.0, 1.0, 0.5, 2.0]]
    )


@pytest.mark.parametrize("shape", [(10, 4), (1, 10, 3), (1, 0, 4)])
def test_windows_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(InputError, match="encode got windows of shape"):
        gaf.encode(np.zeros(shape))


@pytest.mark.parametrize("shape", [(10, 10, 4), (1, 10, 9, 4), (1, 10, 10, 3)])
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(InputError, match="decode got images of shape"):
        gaf.decode(np.zeros(shape))
