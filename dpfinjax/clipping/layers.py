"""Per-example gradients of single layers, as norms and as weighted sums, from one backward pass.

A layer's call is recorded as what its parameters met (its features) and the cotangent of its
output, both with a leading axis of examples. Goodfellow (2015) has the norm of a dense layer's
gradient from the two; Li et al. (2022) the norm over a sequence without the gradient ("ghost"
norm); Bu et al. (2023, "book-keeping") the weighted sum from the same pass.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes
from jax import lax

from dpfinjax import convolution

_ROUNDING = 8 * float(jnp.finfo(jnp.float32).eps)
_SMALL_PRODUCT = 1 << 15
_CHUNK_BYTES = {"cpu": 4 << 20, "accelerator": 256 << 20}


class Call(NamedTuple):
    """One call of a layer on a batch.

    Attributes:
      features: a pytree with leaves [b, ...], what `features` made of the layer's arguments.
      cotangent: [b, ..., f], the gradient of each example's loss by the layer's output.
    """

    features: Any
    cotangent: jax.Array


class Part(NamedTuple):
    """The gradient of a parameter of a layer, not yet formed.

    Attributes:
      name: the parameter's name in its layer.
      square: float32 [b], the squared l2 norm of each example's gradient, never too small beyond
        float32 rounding.
      weighted: maps weights [b] and keep [b] to the sum over kept examples of weight times
        gradient, float32; what is not kept may be nan.
    """

    name: str
    square: jax.Array
    weighted: Callable[[jax.Array, jax.Array], jax.Array]


def refusal(layer: nn.Module) -> str | None:
    """Returns why the gradients of a module's parameters are not known here; None if they are."""
    if type(layer) not in _RULES:
        return f"only the types {', '.join(kind.__name__ for kind in _RULES)} are known"
    for name, known in _RULES[type(layer)].settings.items():
        value: Any = getattr(layer, name, known[0])
        if not any(value is one or (isinstance(one, int) and value == one) for one in known):
            return f"its {name} is not one that is known"
    return None


def features(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Returns what the parameters of a layer meet in a call: arrays to keep for `parts`.

    Args:
      layer: a module that `refusal` has nothing against.
      *args: the call's arguments.
      **kwargs: the call's arguments by name.

    Returns:
      A pytree of arrays.
    """
    return _RULES[type(layer)].features(layer, *args, **kwargs)


def parts(layer: nn.Module, calls: Sequence[Call], params: Any) -> list[Part]:
    """Returns the gradients of a layer's parameters over all of its calls.

    Args:
      layer: a module that `refusal` has nothing against.
      calls: its calls, at least one; with several the gradients add up.
      params: the layer's own parameters, for their names and shapes.

    Returns:
      A part for each parameter.
    """
    if any(x.dtype.itemsize < 4 for x in jax.tree.leaves(calls)):
        # A compiler may skip the rounding to few bits in one place and not in another: the norm
        # would be that of other numbers than the sum's.
        calls = lax.optimization_barrier(calls)
    return _RULES[type(layer)].parts(layer, calls, params)


def unused(name: str, param: jax.Array, examples: int) -> Part:
    """Returns the part of a parameter on which no loss depends."""
    nothing = jnp.zeros(param.shape, jnp.float32)
    return Part(name, jnp.zeros(examples), lambda weights, keep: nothing)


class _Rule(NamedTuple):
    """How to treat one kind of layer; `settings` has the values of attributes that it covers."""

    features: Callable[..., Any]
    parts: Callable[[Any, Sequence[Call], Any], list[Part]]
    settings: dict[str, tuple]


def _promoted(layer: Any, inputs: jax.Array) -> jax.Array:
    """The inputs in the type in which the layer multiplies them."""
    params = layer.variables["params"].values()
    return dtypes.promote_dtype(inputs, *params, dtype=layer.dtype)[0]


def _dense(layer: nn.Dense, calls: Sequence[Call], params: Any) -> list[Part]:
    """Y = x W + b over any axes between example and features."""

    def operands(calls: Sequence[Call]) -> tuple[jax.Array, jax.Array]:
        return _rows(*(call.features for call in calls)), _rows(*(c.cotangent for c in calls))

    return [_kernel(operands, calls, params), *_bias(calls, params)]


def _conv(layer: nn.Conv, calls: Sequence[Call], params: Any) -> list[Part]:
    """A convolution is a dense layer over patches, in each group of channels."""
    groups = layer.feature_group_count

    def operands(calls: Sequence[Call]) -> tuple[jax.Array, jax.Array]:
        patches = jnp.concatenate([_patches(layer, call.features) for call in calls])
        cotangent = _rows(*(call.cotangent for call in calls))
        places, offsets, channels = patches.shape
        depth, width = offsets * channels // groups, layer.features // groups
        if groups == 1:
            return patches.reshape(places, depth), cotangent
        grouped = jnp.moveaxis(patches.reshape(places, offsets, groups, channels // groups), 2, 0)
        return (
            grouped.reshape(groups, places, depth),
            jnp.moveaxis(cotangent.reshape(places, groups, width), 1, 0),
        )

    return [_kernel(operands, calls, params), *_bias(calls, params)]


def _patches(layer: nn.Conv, inputs: jax.Array) -> jax.Array:
    """What meets the kernel in the inputs [..., *space, channels]: [places, offsets, channels]."""
    size = layer.kernel_size
    kernel_size = (size,) if isinstance(size, int) else tuple(size)
    strides, input_dilation, kernel_dilation = (
        (value or 1,) * len(kernel_size) if value is None or isinstance(value, int) else value
        for value in (layer.strides, layer.input_dilation, layer.kernel_dilation)
    )
    images = inputs.reshape(-1, *inputs.shape[-len(kernel_size) - 1 :]).astype(jnp.float32)
    reach = [(n - 1) * step for n, step in zip(kernel_size, kernel_dilation, strict=True)]
    images, padding = _padded(layer.padding, images, reach)
    gathered = convolution.patches(
        images, kernel_size, strides, padding, input_dilation, kernel_dilation
    )
    return gathered.reshape(-1, *gathered.shape[-2:])


def _padded(padding: Any, images: jax.Array, reach: Sequence[int]) -> tuple[jax.Array, Any]:
    """Images and the zero padding that is left to do, as `nn.Conv` understands its padding."""
    if padding in ("CIRCULAR", "REFLECT"):
        pads = [(0, 0), *((far // 2, far - far // 2) for far in reach), (0, 0)]
        mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}[padding]
        return jnp.pad(images, pads, mode=mode), "VALID"
    if padding == "CAUSAL":
        return jnp.pad(images, [(0, 0), (reach[0], 0), (0, 0)]), "VALID"
    if isinstance(padding, str):
        return images, padding
    if isinstance(padding, int):
        padding = [padding] * len(reach)
    return images, [(pad, pad) if isinstance(pad, int) else tuple(pad) for pad in padding]


def _embed_features(layer: nn.Embed, inputs: jax.Array) -> jax.Array:
    """The rows that are looked up, as `jnp.take` understands them; a table of one has but one."""
    rows = jnp.asarray(inputs).reshape(-1).astype(jnp.int32)
    rows = jnp.where(rows < 0, rows + layer.num_embeddings, rows)
    return jnp.zeros_like(rows) if layer.num_embeddings == 1 else rows


def _embed(layer: nn.Embed, calls: Sequence[Call], params: Any) -> list[Part]:
    """A row's gradient is the sum of cotangents wherever the row was looked up."""
    rows = jnp.concatenate([call.features for call in calls], axis=1)
    shape = params["embedding"].shape
    exists = (rows >= 0) & (rows < shape[0])  # others read nan and receive nothing
    cotangent = jnp.where(exists[..., None], _cotangents(calls), 0.0)

    def scattered(cotangent: jax.Array, rows: jax.Array) -> jax.Array:
        flat = cotangent.reshape(-1, shape[-1])
        return jnp.zeros(shape, jnp.float32).at[rows.reshape(-1)].add(flat)

    if 2 * rows.shape[1] ** 2 > shape[0] * shape[1]:
        return [_formed("embedding", jax.vmap(scattered)(cotangent, rows))]

    def weighted(weights: jax.Array, keep: jax.Array) -> jax.Array:
        return scattered(_scaled(weights, keep, cotangent), rows)

    same = (rows[:, :, None] == rows[:, None, :]).astype(jnp.float32)
    return [Part("embedding", _ghost_square(same, _gram(cotangent)), weighted)]


def _norm_features(layer: Any, x: jax.Array, *, mask: Any = None) -> Any:
    """The arguments, to normalise again."""
    return x, mask


def _norm(layer: Any, calls: Sequence[Call], params: Any) -> list[Part]:
    """Y = scale * normalised(x) + bias, over the last axis."""
    if "scale" not in params:
        return _bias(calls, params)
    without = {"use_scale": False, "dtype": jnp.float32, "parent": None, "name": None}
    if hasattr(layer, "use_bias"):
        without["use_bias"] = False
    bare = layer.clone(**without)

    def scale(calls: Sequence[Call]) -> jax.Array:
        normalised = [bare.apply({}, x, mask=mask) for (x, mask), _ in calls]
        return (_rows(*normalised) * _rows(*(call.cotangent for call in calls))).sum(axis=0)

    return [_formed("scale", jax.vmap(scale)(calls)), *_bias(calls, params)]


_PROMOTION = {"promote_dtype": (dtypes.promote_dtype,)}
_AXES = {"feature_axes": (-1,), "axis_name": (None,)}
_RULES: dict[type, _Rule] = {
    nn.Dense: _Rule(
        _promoted,
        _dense,
        {"dot_general": (None, lax.dot_general), "dot_general_cls": (None,), **_PROMOTION},
    ),
    nn.Conv: _Rule(
        _promoted,
        _conv,
        {
            "mask": (None,),
            "conv_general_dilated": (
                None,
                lax.conv_general_dilated,
                convolution.matmul_conv,
                convolution.auto_conv,
            ),
            "conv_general_dilated_cls": (None,),
            **_PROMOTION,
        },
    ),
    nn.Embed: _Rule(_embed_features, _embed, _PROMOTION),
    nn.LayerNorm: _Rule(_norm_features, _norm, _AXES),
    nn.GroupNorm: _Rule(_norm_features, _norm, _AXES),
    nn.RMSNorm: _Rule(_norm_features, _norm, _AXES),
}


def _kernel(
    operands: Callable[[Sequence[Call]], tuple[jax.Array, jax.Array]],
    calls: Sequence[Call],
    params: Any,
) -> Part:
    """The kernel's part; its gradient is the product of an example's two operands over places.

    These are [..., t, d] and [..., t, p] with the groups of channels in front. The norm costs 2 t^2
    numbers an example without the gradient and d p with it; the cheaper way is taken.
    """
    inputs, cotangent = jax.eval_shape(jax.vmap(operands), calls)
    places, depth = inputs.shape[-2:]
    width = cotangent.shape[-1]
    turned = depth > width  # the longer side last makes the faster product

    def formed(one: Sequence[Call]) -> jax.Array:
        left, right = operands(one)
        return _outer(right, left) if turned else _outer(left, right)

    def shaped(gradient: jax.Array) -> jax.Array:
        if gradient.ndim == 3:
            gradient = gradient.swapaxes(0, 1)
        return gradient.reshape(params["kernel"].shape)

    def turned_back(gradient: jax.Array) -> jax.Array:
        return shaped(gradient.swapaxes(-1, -2) if turned else gradient)

    if 2 * places**2 > depth * width:
        return _formed("kernel", _in_chunks(formed, inputs)(calls), turned_back)
    inputs, cotangent = jax.vmap(operands)(calls)

    def weighted(weights: jax.Array, keep: jax.Array) -> jax.Array:
        finite = _scaled(jnp.ones_like(weights), keep, inputs)
        return shaped(_einsum("b...td,b...tp->...dp", finite, _scaled(weights, keep, cotangent)))

    return Part("kernel", _ghost_square(_gram(inputs), _gram(cotangent)), weighted)


def _outer(left: jax.Array, right: jax.Array) -> jax.Array:
    """The sum over t of the outer products of [..., t, l] and [..., t, r]: [..., l, r]."""
    places, rows = left.shape[-2:]
    if places * rows * right.shape[-1] <= _SMALL_PRODUCT:
        # Small products are fast along rows of memory; the barrier keeps XLA from reading columns.
        turned = lax.optimization_barrier(left.swapaxes(-1, -2))
        return _einsum("...lt,...tr->...lr", turned, right)
    return _einsum("...tl,...tr->...lr", left, right)


def _in_chunks(function: Callable[[Any], jax.Array], operand: jax.ShapeDtypeStruct) -> Callable:
    """A function of one example for a batch of them; `operand` is its largest value for all.

    Patches of a whole batch would be the largest arrays of the step, and outgrow a CPU's cache.
    """
    budget = _CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    examples, *shape = operand.shape
    chunk = max(1, budget // max(1, 4 * math.prod(shape)))

    def mapped(values: Any) -> jax.Array:
        # The barrier keeps operands from being made before the backward pass needs its memory.
        values = lax.optimization_barrier(values)
        if examples <= chunk:
            return jax.vmap(function)(values)

        def step(number: int, result: jax.Array) -> jax.Array:
            start = jnp.minimum(number * chunk, examples - chunk)
            part = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, chunk), values)
            return lax.dynamic_update_slice_in_dim(result, jax.vmap(function)(part), start, 0)

        result = jax.eval_shape(jax.vmap(function), values)
        zeros = jnp.zeros(result.shape, result.dtype)
        return lax.fori_loop(0, -(-examples // chunk), step, zeros)

    return mapped


def _bias(calls: Sequence[Call], params: Any) -> list[Part]:
    """The bias's part, if the layer has one."""
    return [_formed("bias", _cotangents(calls).sum(axis=1))] if "bias" in params else []


def _formed(
    name: str, gradient: jax.Array, shaped: Callable[[jax.Array], jax.Array] = lambda x: x
) -> Part:
    """A part whose per-example gradient [b, ...] is formed; `shaped` gives a sum its shape."""

    def weighted(weights: jax.Array, keep: jax.Array) -> jax.Array:
        return shaped(_scaled(weights, keep, gradient).sum(axis=0))

    return Part(name, jnp.sum(jnp.square(gradient), axis=range(1, gradient.ndim)), weighted)


def _gram(values: jax.Array) -> jax.Array:
    """The products [b, ..., t, t] of all pairs of places of values [b, ..., t, f]."""
    if values.shape[-2] == 1:
        return jnp.sum(jnp.square(values), axis=-1, keepdims=True)
    return _einsum("...sf,...tf->...st", values, values)


def _ghost_square(left: jax.Array, right: jax.Array) -> jax.Array:
    """The squared norm [b] of sum_t l_t r_t', from the products of all pairs of l and of r.

    Where terms of the sum cancel, rounding could hide a norm that is small beside its terms, and
    the gradient would be clipped too little. What rounding can hide is added.
    """
    total = jnp.sum(left * right, axis=range(1, left.ndim))
    if left.shape[-1] == 1:
        return total
    diagonal = jnp.diagonal(left, axis1=-2, axis2=-1) * jnp.diagonal(right, axis1=-2, axis2=-1)
    terms = jnp.square(jnp.sum(jnp.sqrt(diagonal), axis=-1))
    return jnp.maximum(total, 0.0) + _ROUNDING * jnp.sum(terms, axis=range(1, terms.ndim))


def _einsum(formula: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """A product in full float32, which accelerators shorten unless told not to."""
    return jnp.einsum(formula, left, right, precision=lax.Precision.HIGHEST)


def _scaled(weights: jax.Array, keep: jax.Array, values: jax.Array) -> jax.Array:
    """Values [b, ...] times weights, zero where not kept, whatever is there."""
    axes = (-1, *(1,) * (values.ndim - 1))
    return jnp.where(keep.reshape(axes), weights.reshape(axes) * values, 0.0)


def _rows(*values: jax.Array) -> jax.Array:
    """What one example has in several calls, [..., f] each, as [places, f] in float32."""
    return jnp.concatenate([x.reshape(-1, x.shape[-1]).astype(jnp.float32) for x in values])


def _cotangents(calls: Sequence[Call]) -> jax.Array:
    """The cotangents of all calls as [b, places, features]."""
    return jax.vmap(_rows)(*(call.cotangent for call in calls))
