"""Windows of bars as Gramian angular summation field images, and back.

Wang and Oates (2015), "Encoding time series as images for visual inspection and classification
using tiled convolutional neural networks"; Chen and Tsai (2020) for the four channels.
"""

import numpy as np

from dpfinjax.errors import InputError

CHANNELS = ("close", "upper shadow", "lower shadow", "real body")
"""The image channels C, U, L and R, in order."""

# Large enough to hide what a NumPy call costs, small enough for the images to stay in the cache.
_CHUNK_PIXELS = 25_600


def culr(ohlc: np.ndarray) -> np.ndarray:
    """Turns open, high, low, close into the four channels of an image.

    Close; upper shadow = high - max(open, close); lower shadow = min(open, close) - low; real body
    = close - open.

    Args:
      ohlc: float64 [..., 4], prices in the order open, high, low, close.

    Returns:
      float64 [..., 4], in the prices' unit, in the order of `CHANNELS`.

    >>> culr(np.array([2.0, 5.0, 1.0, 4.0]))
    array([4., 1., 1., 2.])
    """
    return _culr(np.asarray(ohlc, np.float64), axis=-1)


def encode(ohlc: np.ndarray) -> np.ndarray:
    """Encodes windows of bars as images.

    Each channel of a window is min-max scaled to x = cos(phi) in [0, 1] over the window's bars;
    image[i, j] = cos(phi_i + phi_j) = x_i x_j - sqrt(1 - x_i^2) sqrt(1 - x_j^2), Wang and Oates
    (2015). A channel that is constant over the window has no scale: its image channel is zero
    everywhere, which no other channel can be.

    Args:
      ohlc: float64 [n, length, 4], prices in the order open, high, low, close; any length >= 1.

    Returns:
      float32 [n, length, length, 4] in [-1, 1], in the order of `CHANNELS`.

    Raises:
      InputError: if `ohlc` has another shape.

    >>> bars = np.array([[[2.0, 5.0, 1.0, 4.0], [4.0, 4.5, 3.0, 3.5]]])
    >>> encode(bars)[0, :, :, 0]  # the close falls from 4 to 3.5
    array([[ 1.,  0.],
           [ 0., -1.]], dtype=float32)
    """
    ohlc = np.asarray(ohlc, np.float64)
    if ohlc.ndim != 3 or ohlc.shape[1] < 1 or ohlc.shape[2] != 4:
        raise InputError(
            f"gaf.encode got windows of shape {ohlc.shape}; it needs [n, length, 4], "
            "the last axis being open, high, low, close."
        )
    windows, length, _ = ohlc.shape
    image = np.empty((windows, length, length, 4), np.float32)
    step = max(1, _CHUNK_PIXELS // length**2)
    for start in range(0, windows, step):
        chunk = slice(start, start + step)
        _encode_into(image[chunk], ohlc[chunk])
    return image


def angles(ohlc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the images of windows are made of, for a device to make them.

    Args:
      ohlc: float64 [n, length, 4], prices in the order open, high, low, close.

    Returns:
      float32 [n, length, 4] each, cos(phi) and sin(phi) of each channel; zeros where a channel is
      constant.
    """
    channels = _culr(np.ascontiguousarray(ohlc.transpose(1, 2, 0)), axis=1)
    cosine, sine = _angles(channels)
    return cosine.transpose(2, 0, 1), sine.transpose(2, 0, 1)


def decode(image: np.ndarray) -> np.ndarray:
    """Reads the scaled channels back from an image's diagonal.

    The diagonal is 2 x^2 - 1, so x = sqrt((diagonal + 1) / 2). A float32 image gives x to about
    2e-4 near 0 and 1e-7 near 1. A channel that was constant gives zeros.

    Args:
      image: float32 [n, length, length, 4], as `encode` makes it.

    Returns:
      float64 [n, length, 4] in [0, 1], the scaled close, upper shadow, lower shadow, real body.

    Raises:
      InputError: if `image` has another shape.
    """
    image = np.asarray(image)
    if image.ndim != 4 or image.shape[1] != image.shape[2] or image.shape[3] != 4:
        raise InputError(
            f"gaf.decode got images of shape {image.shape}; it needs [n, length, length, 4]."
        )
    diagonal = np.einsum("niic->nic", image).astype(np.float64)
    scaled = np.sqrt(np.clip((diagonal + 1) / 2, 0, 1))
    # A channel with a scale has its smallest value at x = 0, which is -1 on the diagonal.
    constant = ~diagonal.any(axis=1, keepdims=True)
    return np.where(constant, 0.0, scaled)


def _culr(ohlc: np.ndarray, axis: int) -> np.ndarray:
    """The four channels, on the axis on which the four prices are."""
    open, high, low, close = np.moveaxis(ohlc, axis, 0)
    upper = high - np.maximum(open, close)
    lower = np.minimum(open, close) - low
    return np.stack([close, upper, lower, close - open], axis=axis)


def _encode_into(image: np.ndarray, ohlc: np.ndarray) -> None:
    """Writes the images of a few windows, computed with the windows innermost."""
    cosine, sine = _angles(_culr(np.ascontiguousarray(ohlc.transpose(1, 2, 0)), axis=1))
    length, channels, windows = cosine.shape
    product = np.empty((length, length, channels, windows), np.float32)
    sines = np.empty_like(cosine)
    for bar in range(length):
        np.multiply(cosine, cosine[bar], out=product[bar])
        np.multiply(sine, sine[bar], out=sines)
        product[bar] -= sines
    image.reshape(windows, -1)[...] = product.reshape(-1, windows).T


def _angles(channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float32 cos(phi) and sin(phi) of each channel [length, 4, n]; zeros where it is constant."""
    lowest = channels.min(axis=0)
    span = channels.max(axis=0) - lowest
    cosine = (channels - lowest) / np.where(span > 0, span, 1)
    # (1 - x)(1 + x) keeps the digits that 1 - x^2 loses near 1.
    sine = np.sqrt((1 - cosine) * (1 + cosine)) * (span > 0)
    return cosine.astype(np.float32), sine.astype(np.float32)
