"""The definition of clipped sums, an example at a time in float64, and what tests share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpfinjax import clipping

RULES = ("flat", "automatic", "per_layer")


def compiled(function, *args):
    """A program for arguments like these, compiled in haste."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function).lower(*args).compile(compiler_options=options)


def run(function, *args):
    """What a function gives, compiled in haste."""
    return compiled(function, *args)(*args)


def random_params(module, inputs, seed=0, scale=0.5):
    """Random parameters for a module, without compiling its initializers."""
    rng = np.random.default_rng(seed)
    one = jax.tree.map(lambda x: x[:1], inputs)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one).get("params", {})
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(0, scale, p.shape)).astype(p.dtype), shapes
    )


def loss_fn(outputs, targets):
    """Cross-entropy of all numbers of an output against a class, example by example."""
    logits = outputs.reshape(outputs.shape[0], -1).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(3 * jnp.tanh(logits), targets)


def example_loss(module, loss=loss_fn):
    """The same loss as a function of parameters and one example."""

    def one(params, example):
        inputs, targets = jax.tree.map(lambda x: x[None], example)
        return loss(module.apply({"params": params}, inputs), targets)[0]

    return one


def example_grads(module, params, batch, loss=loss_fn):
    """The gradient of each example, with a leading axis."""
    return jax.vmap(jax.grad(example_loss(module, loss)), in_axes=(None, 0))(params, batch)


def norm_of(leaves):
    """The l2 norm of some arrays together, in float64."""
    return math.sqrt(sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in leaves))


def clip(grad, clip_norm, rule):
    """One example's gradient, a dict of arrays by path, clipped."""
    layers = {}
    for path, leaf in grad.items():
        layers.setdefault(path[:-1], []).append(leaf)
    norm = norm_of(grad.values())
    if rule == "per_layer":
        share = clip_norm / math.sqrt(len(layers))
        factors = {name: min(1.0, share / max(norm_of(g), 1e-300)) for name, g in layers.items()}
    elif rule == "automatic":
        factors = dict.fromkeys(layers, clip_norm / (norm + 0.01))
    else:
        factors = dict.fromkeys(layers, min(1.0, clip_norm / max(norm, 1e-300)))
    clipped = min(factors.values()) < 1
    return {path: factors[path[:-1]] * leaf for path, leaf in grad.items()}, norm, clipped


def definition(grads, mask, clip_norm, rule="flat"):
    """Sums clipped gradients one by one; returns the sum by path, norms and what was clipped."""
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in by_path(grads).items()}
    total = {path: np.zeros(leaf.shape[1:]) for path, leaf in flat.items()}
    norms, clipped = np.zeros(len(mask)), np.zeros(len(mask), bool)
    for row in np.flatnonzero(mask):
        grad, norms[row], clipped[row] = clip(
            {path: leaf[row] for path, leaf in flat.items()}, float(clip_norm), rule
        )
        if np.isfinite(norms[row]):
            total = {path: total[path] + grad[path] for path in total}
    return total, norms, clipped


def paths(tree):
    """A tree's leaves by their paths."""
    return dict(jax.tree.flatten_with_path(tree)[0])


def by_path(tree):
    """A tree's leaves by their paths, or what is that already."""
    if isinstance(tree, dict) and all(isinstance(key, tuple) for key in tree):
        return tree
    return dict(jax.tree.flatten_with_path(tree)[0])


def assert_sums(actual, expected, rtol=1e-4):
    """Two sums agree in every leaf, beside its largest number or a hundredth of the largest."""
    actual, expected = by_path(actual), by_path(expected)
    assert actual.keys() == expected.keys()
    largest = max(np.max(np.abs(leaf), initial=0.0) for leaf in expected.values())
    for path, leaf in expected.items():
        scale = max(np.max(np.abs(leaf), initial=0.0), 0.01 * largest)
        np.testing.assert_allclose(
            actual[path], leaf, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
        )


def agreement(module, batch, rule="flat", seed=0, mask=None, loss=loss_fn, rtol=1e-4, params=None):
    """Checks that ghost clipping of a module is the definition; returns the sum and statistics.

    The clip norm is near the median of the norms: some examples are clipped and some are not.
    """
    if params is None:
        params = random_params(module, batch[0], seed)
    mask = np.ones(len(jax.tree.leaves(batch)[0]), bool) if mask is None else np.asarray(mask)

    def both(params, batch, mask):
        grads = example_grads(module, params, batch, loss)
        squares = [
            jnp.sum(jnp.square(g.astype(jnp.float32)), axis=range(1, g.ndim))
            for g in jax.tree.leaves(grads)
        ]
        clip_norm = 1.1 * jnp.median(jnp.sqrt(sum(squares)))
        ghost = clipping.ghost_clipped_grad(module, loss, clip_norm, rule=rule)
        return ghost(params, batch, mask), grads, clip_norm

    (total, stats), grads, clip_norm = run(both, params, batch, jnp.asarray(mask))
    expected, norms, clipped = definition(grads, mask, clip_norm, rule)
    np.testing.assert_allclose(stats.norm, norms, rtol=rtol)
    np.testing.assert_array_equal(stats.clipped, clipped)
    assert_sums(total, expected, rtol)
    assert jax.tree.structure(total) == jax.tree.structure(params)
    return total, stats
