"""Convolutions as strided slices and one matrix product, which suits small kernels."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dpfinjax.errors import InputError

_Padding = str | Sequence[tuple[int, int]]


def auto_conv(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: _Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """Is `matmul_conv` where that is faster and `lax.conv_general_dilated` elsewhere.

    The rule: `matmul_conv` on a CPU for kernels of one place, and for kernels of at most 9 places
    whose patches hold at most 4,096 numbers an example. Measured forward and backward on two cores
    of a CPU with JAX 0.10.2, as the time of `lax` over that of the matrix product, the fastest of
    nine runs each:

        kernel, stride, channels, side    numbers    one model    ten kernels under vmap
        2x2, 1, 4 to 16, 10                 1,600          1.3                       6.0
        2x2, 2, 16 to 16, 10                1,600          1.5                       3.6
        2x2, 1, 8 to 16, 10                 3,200          1.3
        3x3, 1, 4 to 16, 10                 3,600          2.1
        2x2, 1, 16 to 16, 10                6,400          1.1                       1.4
        3x3, 1, 8 to 16, 10                 7,200          1.1                       6.4
        3x3, 1, 16 to 16, 10               14,400          0.8                       2.1
        4x4, 4, 3 to 64, 32                 3,072          0.7
        5x5, 1, 16 to 16, 16              102,400          0.3
        1x1, 1, 64 to 64, 32               65,536          2.2

    On a machine that is busy elsewhere the middle rows fall below 1, so the rule stops before them.
    The rule does not see a `vmap` over kernels, which favours the matrix product. Other backends
    have convolutions of their own that need no patches.

    Args:
      lhs: inputs [b, *space, channels].
      rhs: kernel [*kernel_space, channels / groups, features].
      window_strides: steps of the window, one for each axis of space.
      padding: as for `lax.conv_general_dilated`.
      lhs_dilation: the inputs' dilation; None for none.
      rhs_dilation: the kernel's dilation; None for none.
      dimension_numbers: where the axes are.
      feature_group_count: groups of channels that do not mix.
      precision: of the products.

    Returns:
      [b, *out_space, features].
    """
    settings: dict[str, Any] = {"lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
    convolve: Callable[..., jax.Array] = lax.conv_general_dilated
    if jax.default_backend() == "cpu" and _channels_last(lhs, rhs, dimension_numbers):
        offsets = math.prod(rhs.shape[:-2])
        gathered = jax.eval_shape(
            lambda x: patches(x, rhs.shape[:-2], window_strides, padding, *settings.values()), lhs
        )
        if offsets == 1 or (offsets <= 9 and math.prod(gathered.shape[1:]) <= 4096):
            convolve = matmul_conv
    return convolve(
        lhs,
        rhs,
        window_strides,
        padding,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
        **settings,
    )


def matmul_conv(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: _Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """Equals `lax.conv_general_dilated` to rounding; takes its place in `flax.linen.Conv`.

    One matrix product of patches and kernel, whose gradients are matrix products too. Under
    `jax.vmap` over kernels it stays a batched matrix product, where a convolution becomes a grouped
    one.

    Args:
      lhs: inputs [b, *space, channels].
      rhs: kernel [*kernel_space, channels / groups, features].
      window_strides: steps of the window, one for each axis of space.
      padding: "SAME", "SAME_LOWER", "VALID", or zeros before and after each axis.
      lhs_dilation: the inputs' dilation; None for none.
      rhs_dilation: the kernel's dilation; None for none.
      dimension_numbers: where the axes are; batch first and channels last, as Flax has them.
      feature_group_count: groups of channels that do not mix.
      precision: of the matrix product.

    Returns:
      [b, *out_space, features].

    Raises:
      InputError: for axes in another order, or a padding by name where the inputs are dilated.
    """
    if not _channels_last(lhs, rhs, dimension_numbers):
        raise InputError(
            f"dimension_numbers is {dimension_numbers}; the batch must come first and channels "
            "last, as in flax.linen.Conv."
        )
    kernel_shape = rhs.shape[:-2]
    gathered = patches(lhs, kernel_shape, window_strides, padding, lhs_dilation, rhs_dilation)
    places, (offsets, channels) = gathered.shape[:-2], gathered.shape[-2:]
    groups, features = feature_group_count, rhs.shape[-1]
    if groups == 1:
        depth = offsets * channels
        kernel = rhs.reshape(depth, features)
        return jnp.matmul(gathered.reshape(*places, depth), kernel, precision=precision)
    gathered = gathered.reshape(*places, offsets, groups, channels // groups)
    kernel = rhs.reshape(offsets, channels // groups, groups, features // groups)
    out = jnp.einsum("...kgc,kcgf->...gf", gathered, kernel, precision=precision)
    return out.reshape(*places, features)


def patches(
    inputs: jax.Array,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    padding: _Padding,
    input_dilation: Sequence[int] | None = None,
    kernel_dilation: Sequence[int] | None = None,
) -> jax.Array:
    """Gathers what a convolution multiplies with its kernel at each place of its output.

    Args:
      inputs: [b, *space, channels].
      kernel_shape: the kernel's extent along each of the k axes of space.
      strides: steps of the window, k numbers.
      padding: "SAME", "SAME_LOWER", "VALID", or zeros before and after each axis of the dilated
        inputs, k pairs; a negative number takes away.
      input_dilation: the inputs' dilation, k numbers; None for none.
      kernel_dilation: the kernel's dilation, k numbers; None for none.

    Returns:
      [b, *out_space, prod(kernel_shape), channels], the offsets of the kernel in row-major order.

    Raises:
      InputError: for a padding by name where the inputs are dilated.
    """
    ones = (1,) * len(kernel_shape)
    steps = tuple(kernel_dilation or ones)
    padded = _padded(inputs, kernel_shape, strides, padding, tuple(input_dilation or ones), steps)
    taken = []
    for offset in itertools.product(*map(range, kernel_shape)):
        starts, stops = [0], [padded.shape[0]]
        for place, step, size, extent in zip(
            offset, steps, kernel_shape, padded.shape[1:-1], strict=True
        ):
            start = min(place * step, extent)
            starts.append(start)  # a kernel larger than the inputs meets no place at all
            stops.append(max(start, extent - (size - 1 - place) * step))
        window = lax.slice(padded, [*starts, 0], [*stops, padded.shape[-1]], [1, *strides, 1])
        taken.append(window)
    return jnp.stack(taken, axis=-2)


def _padded(
    inputs: jax.Array,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    padding: _Padding,
    input_dilation: tuple[int, ...],
    kernel_dilation: tuple[int, ...],
) -> jax.Array:
    """The inputs, dilated and padded with zeros."""
    if isinstance(padding, str):
        if set(input_dilation) != {1}:
            raise InputError(
                f"padding is {padding!r} and the inputs are dilated by {list(input_dilation)}; "
                "it must be pairs of numbers there."
            )
        window = [(n - 1) * d + 1 for n, d in zip(kernel_shape, kernel_dilation, strict=True)]
        padding = lax.padtype_to_pads(inputs.shape[1:-1], window, strides, padding)
    interior = [
        (int(low), int(high), step - 1)
        for (low, high), step in zip(padding, input_dilation, strict=True)
    ]
    zero = jnp.zeros((), inputs.dtype)
    return lax.pad(inputs, zero, [(0, 0, 0), *interior, (0, 0, 0)])


def _channels_last(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any) -> bool:
    """Whether the batch comes first and channels last, as in Flax."""
    last = lhs.ndim - 1
    images, kernel = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return tuple(spec) == (images, kernel, images)
