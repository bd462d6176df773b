"""The candlestick classifiers, as Flax linen modules."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from dpfinjax import convolution, fields
from dpfinjax.errors import InputError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}

CONVOLUTIONS: dict[str, Callable[..., jax.Array]] = {
    "auto": convolution.auto_conv,
    "lax": jax.lax.conv_general_dilated,
    "matmul": convolution.matmul_conv,
}


# Means by channel, measured on a simulated market, so that they tell nothing of any private bar.
_IMAGE_MEAN = (-0.27, -0.66, -0.67, -0.29)
_SERIES_MEAN = (0.5, 0.22, 0.22, 0.5)


def _normalised(image: jax.Array) -> jax.Array:
    """Images with channels of about mean 0 and deviation 1."""
    return (image - jnp.array(_IMAGE_MEAN)) / 0.53


def _series(image: jax.Array) -> jax.Array:
    """The scaled channels that an image encodes, [..., length, 4], see `gaf.decode`; centred.

    Twice as long as they are there, and less their means: inputs whose mean is not 0 make steps of
    one length wrong for some weights.
    """
    diagonal = jnp.diagonal(image, axis1=-3, axis2=-2)
    scaled = jnp.sqrt(jnp.clip((diagonal + 1) / 2, 0, 1))
    constant = ~diagonal.any(axis=-1, keepdims=True)
    series = jnp.swapaxes(jnp.where(constant, 0.0, scaled), -1, -2)
    return 2 * (series - jnp.array(_SERIES_MEAN))


def _standardised(params: Any) -> Any:
    """Parameters of a convolution whose kernel has mean 0 and variance 1 / fan-in by output."""
    kernel = params["params"]["kernel"]
    axes = tuple(range(kernel.ndim - 1))
    centred = kernel - kernel.mean(axes)
    fan_in = kernel.size / kernel.shape[-1]
    norm = jnp.sqrt(fan_in * jnp.square(centred).mean(axes) + 1e-4)
    return {"params": params["params"] | {"kernel": centred / norm}}


INPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "image": lambda image: image,
    "normalised": _normalised,
    "series": _series,
}


class GafCnn(nn.Module):
    """A small network over Gramian angular field images.

    Convolutions with SAME padding, flatten, dense layers, logits. The defaults are the network of
    Wang and Tsai (2022) with 106,024 parameters on 10 x 10 x 4 images.

    Attributes:
      classes: number of logits.
      input: a name in `INPUTS`: the image as it is, with channels normalised by constants, or the
        series that its main diagonal holds, from which every other pixel can be computed, centred
        by constants; a series is not convolved.
      widths: channels of each convolution.
      strides: stride of each convolution, as long as `widths`.
      kernel_size: side of every square kernel, in pixels.
      hidden: units of each dense layer before the logits.
      groups: number of channel groups that are normalised together (Wu and He 2018) after each
        convolution, a divisor of its width; 0 for no normalisation.
      standardise: whether kernels of convolutions are standardised (Qiao et al. 2019); per-example
        gradients then need `vmap`, as parameters are used in another way than by calling a layer.
      conv_activation: a name in `ACTIVATIONS`, after each convolution.
      dense_activation: a name in `ACTIVATIONS`, after each hidden dense layer.
      convolution: a name in `CONVOLUTIONS`; they agree to rounding and differ in speed.
    """

    classes: int = 8
    input: str = "image"
    widths: tuple[int, ...] = (16, 16)
    strides: tuple[int, ...] = (1, 2)
    kernel_size: int = 2
    hidden: tuple[int, ...] = (256,)
    groups: int = 0
    standardise: bool = False
    conv_activation: str = "relu"
    dense_activation: str = "relu"
    convolution: str = "auto"

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps images [..., height, width, channels] to logits [..., classes]."""
        x, conv = INPUTS[self.input](image), CONVOLUTIONS[self.convolution]
        layer: Any = nn.Conv
        if self.standardise:
            layer = nn.map_variables(nn.Conv, "params", trans_in_fn=_standardised, init=True)
        for width, stride in zip(self.widths, self.strides, strict=True):
            kernel, strides = (self.kernel_size,) * 2, (stride,) * 2
            x = layer(width, kernel, strides, padding="SAME", conv_general_dilated=conv)(x)
            if self.groups:
                x = nn.GroupNorm(self.groups, reduction_axes=(-3, -2, -1))(x)
            x = ACTIVATIONS[self.conv_activation](x)
        x = x.reshape(*image.shape[:-3], -1)
        for units in self.hidden:
            x = ACTIVATIONS[self.dense_activation](nn.Dense(units)(x))
        return nn.Dense(self.classes)(x)


VARIANTS: dict[str, GafCnn] = {
    "paper_baseline": GafCnn(conv_activation="sigmoid"),
    "paper_dpsgd": GafCnn(),
    "gaf_cnn": GafCnn(hidden=(64,), conv_activation="tanh", dense_activation="tanh"),
    "gaf_series": GafCnn(
        input="series", widths=(), strides=(), hidden=(32, 32, 32), dense_activation="tanh"
    ),
}
"""`paper_baseline` and `paper_dpsgd` are the two networks of Wang and Tsai (2022). The others are
ours for private training: bounded activations keep per-example gradients small under clipping
(Papernot et al. 2021; their tempered sigmoid with scale and temperature 2 is tanh). `gaf_series`
reads the 40 numbers of the main diagonal: its 3,688 parameters get far less noise in all than the
paper's 106,024, and what the image holds beside them follows from them."""


_LARGEST = 2**16  # of a size: beyond it no memory holds a network
_KINDS = {
    **dict.fromkeys(("variant", "input", "conv_activation", "dense_activation"), fields.TEXT),
    **dict.fromkeys(("widths", "strides", "hidden"), fields.MANY),
    **dict.fromkeys(("classes", "kernel_size", "groups"), fields.WHOLE),
    "convolution": fields.TEXT,
    "standardise": fields.TRUTH,
}


def build(variant: str, **overrides: Any) -> GafCnn:
    """Returns a named network with some of its attributes replaced.

    Args:
      variant: a name in `VARIANTS`.
      **overrides: attributes of `GafCnn`; None keeps the variant's own.

    Returns:
      The module, hashable, without parameters.

    Raises:
      InputError: for an unknown variant, attribute or activation, or sizes that do not fit.
    """
    given = ConfigDict({"variant": variant, **overrides})
    kinds = {name: kind for name, kind in _KINDS.items() if name in given}
    fields.check(given, kinds, overrides, "model")
    if variant not in VARIANTS:
        raise InputError(f"model.variant is {variant!r}; it must be one of {', '.join(VARIANTS)}.")
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in overrides.items()
        if value is not None
    }
    unknown = sorted(set(changes) - set(GafCnn.__dataclass_fields__))
    if unknown:
        raise InputError(f"model.{unknown[0]} is not an attribute of GafCnn.")
    module = dataclasses.replace(VARIANTS[variant], **changes)
    _check(module)
    return module


def _check(module: GafCnn) -> None:
    """Raises InputError where the attributes cannot make a network."""
    sizes = {
        "widths": module.widths,
        "strides": module.strides,
        "hidden": module.hidden,
        "kernel_size": (module.kernel_size,),
        "classes": (module.classes,),
    }
    for name, values in sizes.items():
        if not isinstance(values, tuple) or not all(
            isinstance(value, int) and 1 <= value <= _LARGEST for value in values
        ):
            raise InputError(
                f"model.{name} is {values}; it takes whole numbers from 1 to {_LARGEST}."
            )
    if len(module.widths) != len(module.strides):
        raise InputError(
            f"model.widths has {len(module.widths)} entries and model.strides "
            f"{len(module.strides)}; they must have one each for every convolution."
        )
    if module.groups < 0 or any(width % (module.groups or 1) for width in module.widths):
        raise InputError(
            f"model.groups is {module.groups}; it must be 0 or divide each of model.widths."
        )
    if module.input == "series" and module.widths:
        raise InputError(
            f"model.widths is {module.widths}, but a series is not convolved; with model.input "
            "'series' model.widths and model.strides must be ()."
        )
    names: dict[str, Mapping[str, Any]] = {
        "input": INPUTS,
        "conv_activation": ACTIVATIONS,
        "dense_activation": ACTIVATIONS,
        "convolution": CONVOLUTIONS,
    }
    for name, known in names.items():
        if getattr(module, name) not in known:
            raise InputError(
                f"model.{name} is {getattr(module, name)!r}; it must be one of {', '.join(known)}."
            )
