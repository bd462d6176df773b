"""Clipped gradient sums without per-example gradients, for modules made of known layers."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from flax.core import tracers
from jax.extend import core

from dpfinjax.clipping import layers, rules
from dpfinjax.clipping.contract import ClippedGrad, ClipStats, check_clip_norm
from dpfinjax.errors import InputError

_Path = tuple[str, ...]
_Visit = Callable[[nn.Module, Any, jax.Array], jax.Array]
_ExampleLoss = Callable[[Any, Any, _Visit], jax.Array]


class _Survey(NamedTuple):
    """The calls of known layers in a module, by the layer's path.

    Attributes:
      layers: the layers, without parameters.
      outputs: the shape and type of what each call returns for one example.
    """

    layers: dict[_Path, nn.Module]
    outputs: dict[_Path, list[jax.ShapeDtypeStruct]]


def ghost_clipped_grad(
    module: nn.Module,
    loss_fn: Callable[[Any, Any], jax.Array],
    clip_norm: jax.Array | float,
    *,
    rule: str = "flat",
    grouped: bool = False,
) -> ClippedGrad:
    """Sums per-example gradients, each scaled to an l2 norm of at most `clip_norm`.

    The same sum as `vmap_clipped_grad` to float32 rounding, at about the cost of one batch
    gradient. A single forward and backward pass gives every layer's inputs and output cotangents;
    from them come the norms (Goodfellow 2015; Li et al. 2022) and then the clipped sum (Bu et al.
    2023), and per-example gradients are formed only for layers where that is cheaper.

    Module and loss are applied to one example at a time under `jax.vmap`, as a batch of one, so
    nothing can mix examples. An example may itself be a group of k, all windows of one unit say:
    the module sees it as a batch of k, and the group's one gradient is clipped once.

    Args:
      module: a Flax linen module from inputs to outputs, both pytrees. All parameters that its
        outputs depend on must belong to `Dense`, `Conv`, `Embed`, `LayerNorm`, `GroupNorm` or
        `RMSNorm` layers and be used by calling these; a layer may be called several times. It gets
        its parameters and no other variables or random keys.
      loss_fn: a pure function `(outputs [b, ...], targets [b, ...]) -> [b]`, example by example.
      clip_norm: the largest l2 norm of one example's contribution, positive; may be traced.
      rule: "flat", or "automatic" or "per_layer", see `clipping.rules`; `clip_norm` bounds the
        whole contribution under each.
      grouped: whether an example is a group: inputs [b, k, ...], and `loss_fn` takes the outputs
        [k, ...] and the targets of one group to the loss of the group, [].

    Returns:
      The clipped gradient function, with sensitivity `clip_norm`; its batch is a pair
      `(inputs, targets)`, its parameters a nested dict.

    Raises:
      InputError: if `clip_norm` is not positive and finite or `rule` is unknown. The function
        itself raises it, when traced, for a parameter that it cannot handle, with its name.
    """
    check_clip_norm(clip_norm)
    scaling = rules.get(rule)
    example_loss = functools.partial(_example_loss, module, loss_fn, grouped)

    def clipped_sum(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, ClipStats]:
        survey = _survey(module, example_loss, params, batch)
        loss, parts = _backward(example_loss, params, batch, survey)
        squares = {path: part.square for path, part in parts.items()}
        scale, keep, stats = rules.decide(scaling, squares, clip_norm, loss, mask)
        total = [part.weighted(scale[path], keep) for path, part in parts.items()]
        return jax.tree.unflatten(jax.tree.structure(params), total), stats

    return ClippedGrad(clipped_sum, clip_norm)


def _backward(
    example_loss: _ExampleLoss, params: Any, batch: Any, survey: _Survey
) -> tuple[jax.Array, dict[_Path, layers.Part]]:
    """The loss of each example, and the gradient of each parameter in order, not yet formed."""
    examples = jax.tree.leaves(batch)[0].shape[0]

    def one(example: Any, taps: Any) -> tuple[jax.Array, Any]:
        noted: dict[_Path, list[Any]] = collections.defaultdict(list)

        def visit(layer: nn.Module, features: Any, output: jax.Array) -> jax.Array:
            tap = taps[layer.path][len(noted[layer.path])]
            noted[layer.path].append(features)
            return output + tap

        return example_loss(params, example, visit), dict(noted)

    def forward(taps: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        loss, noted = jax.vmap(one)(batch, taps)
        return jnp.sum(loss), (loss, noted)

    taps = jax.tree.map(lambda x: jnp.zeros((examples, *x.shape), x.dtype), survey.outputs)
    cotangents, (loss, noted) = jax.grad(forward, has_aux=True)(taps)
    parts = {}
    for path, layer in survey.layers.items():
        calls = [layers.Call(*call) for call in zip(noted[path], cotangents[path], strict=True)]
        for part in layers.parts(layer, calls, _at(params, path)):
            parts[*path, part.name] = part
    return loss, {
        path: parts.get(path) or layers.unused(path[-1], leaf, examples)
        for path, leaf in _flatten(params)
    }


def _survey(module: nn.Module, example_loss: _ExampleLoss, params: Any, batch: Any) -> _Survey:
    """Finds the calls of known layers and refuses what cannot be handled, on shapes alone."""
    paths = [path for path, _ in _flatten(params)]
    survey = _Survey({}, {})
    seen: dict[_Path, nn.Module] = {}

    def note(next_fn: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        seen[context.module.path] = context.module
        return next_fn(*args, **kwargs)

    def one(params: Any, example: Any) -> Any:
        met = []

        def visit(layer: nn.Module, features: Any, output: jax.Array) -> jax.Array:
            bare = layer.clone(parent=None, name=None)
            if survey.layers.setdefault(layer.path, bare) != bare:
                raise _refused(layer.path, "two different layers share it")
            calls = survey.outputs.setdefault(layer.path, [])
            calls.append(jax.ShapeDtypeStruct(output.shape, output.dtype))
            met.append(features)
            return jnp.zeros_like(output)

        return example_loss(params, example, visit), met

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), params)
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], x.dtype), batch)
    try:
        with nn.intercept_methods(note):
            program = jax.make_jaxpr(one)(shapes, example).jaxpr
    except errors.FlaxError as error:
        raise InputError(
            f"{type(module).__name__} cannot be applied with its parameters alone, as ghost "
            f"clipping does: {str(error).split(' (http')[0]}"
        ) from error
    # Known layers answer zeros here, so whatever still depends on a parameter goes around them.
    around = _dependences(program)
    for path, variable in zip(paths, program.invars, strict=False):
        if variable in around:
            raise _refused(path, _why(seen.get(path[:-1])))
    return survey


def _dependences(program: core.Jaxpr) -> set[core.Var]:
    """The variables on which the results of a program may depend."""
    needed = {variable for variable in program.outvars if isinstance(variable, core.Var)}
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed |= {variable for variable in equation.invars if isinstance(variable, core.Var)}
    return needed


def _example_loss(
    module: nn.Module,
    loss_fn: Callable,
    grouped: bool,
    params: Any,
    example: Any,
    visit: _Visit,
) -> jax.Array:
    """The loss of one example; `visit` replaces the output of each call of a known layer."""
    trace = tracers.current_trace()

    def intercept(next_fn: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        output = next_fn(*args, **kwargs)
        if context.method_name != "__call__" or layers.refusal(layer):
            return output
        own = layer.variables.get("params", {})
        if not own:
            return output
        given = _at(params, layer.path)
        if tracers.current_trace() != trace or any(own[name] is not given[name] for name in own):
            raise _refused(layer.path, "it is called inside a transformation")
        return visit(layer, layers.features(layer, *args, **kwargs), output)

    inputs, targets = example if grouped else jax.tree.map(lambda x: x[None], example)
    with nn.intercept_methods(intercept):
        outputs = module.apply({"params": params}, inputs)
    loss = loss_fn(outputs, targets)
    if grouped:
        if jnp.shape(loss):
            raise InputError(
                f"loss_fn returned shape {list(jnp.shape(loss))} for a group; it must return one "
                "loss for the whole group, []."
            )
        return loss
    if jnp.shape(loss) != (1,):
        raise InputError(
            f"loss_fn returned shape {list(jnp.shape(loss))} for a batch of one example; it must "
            "return one loss for each example, [b]."
        )
    return loss[0]


def _why(layer: nn.Module | None) -> str:
    """Why a parameter of a layer cannot be handled, when it is used around the layer's call."""
    if layer is None:
        return "it belongs to no module"
    reason = layers.refusal(layer) or "it is used in another way than by calling the layer"
    return f"its module is of type {type(layer).__name__}, and {reason}"


def _refused(path: _Path, reason: str) -> InputError:
    """The error for a parameter or layer that ghost clipping cannot handle."""
    return InputError(
        f"Ghost clipping cannot handle {'/'.join(path) or 'the module'}: {reason}; use vmap "
        "clipping for this module."
    )


def _at(params: Any, path: _Path) -> Any:
    """The parameters of the layer at a path."""
    for name in path:
        params = params[name]
    return params


def _flatten(params: Any) -> list[tuple[_Path, Any]]:
    """The parameters with their paths, in the order of the tree."""
    flat = jax.tree.flatten_with_path(params)[0]
    if not all(isinstance(key, jax.tree_util.DictKey) for keys, _ in flat for key in keys):
        raise InputError(
            "params must be nested dicts of arrays; take them out of their boxes with "
            "flax.core.meta.unbox."
        )
    return [(tuple(key.key for key in keys), leaf) for keys, leaf in flat]
