"""A step of jax_privacy's `clipped_grad`, on a network in plain JAX."""

import functools
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import jax_privacy
import optax
from jax_privacy import sharding_utils

from launch.peers import protocol

_STEPS = 4


def network() -> dict[str, tuple[jax.Array, jax.Array]]:
    """Makes the parameters of `paper_dpsgd`: a kernel and a bias of each layer."""
    shapes = {
        "conv_0": (2, 2, 4, 16),
        "conv_1": (2, 2, 16, 16),
        "dense_0": (400, 256),
        "dense_1": (256, protocol.CLASSES),
    }
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0), len(shapes)), strict=True))
    initial = jax.nn.initializers.lecun_normal()
    return {name: (initial(keys[name], s), jnp.zeros(s[-1])) for name, s in shapes.items()}


def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy [] of images [b, 10, 10, 4]."""
    x = images
    for name, stride in (("conv_0", 1), ("conv_1", 2)):
        kernel, bias = params[name]
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + bias)
    x = x.reshape(len(x), -1)
    x = jax.nn.relu(x @ params["dense_0"][0] + params["dense_0"][1])
    logits = x @ params["dense_1"][0] + params["dense_1"][1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main() -> None:
    """Times the step that the command line asks for."""
    task = protocol.task()
    images, labels = map(jnp.asarray, protocol.made_up(task.examples))
    grad_fn = jax_privacy.clipped_grad(
        loss,
        l2_clip_norm=task.clip_norm,
        normalize_by=task.batch_size,
        batch_argnums=(1, 2),
        microbatch_size=task.microbatch,
    )
    capacity = -(-task.capacity // task.microbatch) * task.microbatch
    order = sharding_utils.compute_early_stopping_order(capacity, task.microbatch)
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    optimizer = optax.chain(
        jax_privacy.noise_addition.gaussian_privatizer(
            stddev=task.noise_multiplier * grad_fn.sensitivity(relation),
            prng_key=jax.random.key(1),
        ),
        optax.sgd(task.learning_rate, task.momentum),
    )

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
        params, opt_state = state
        drawn = jax.random.bernoulli(key, task.batch_size / task.examples, (task.examples,))
        (rows,) = jnp.nonzero(drawn, size=capacity, fill_value=-1)
        rows = rows[order]  # so that microbatches of padding come last, and are skipped
        grad = grad_fn(params, images[rows], labels[rows], is_padding_example=rows < 0)
        updates, opt_state = optimizer.update(grad, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state: Any, key: jax.Array) -> Any:
        return jax.lax.scan(step, state, jax.random.split(key, _STEPS))[0]

    params = network()
    state = [(params, optimizer.init(params))]

    def call() -> None:
        state[0] = jax.block_until_ready(steps(state[0], jax.random.key(2)))

    versions = {"jax_privacy": jax_privacy.__version__, "jax": jax.__version__}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    protocol.answer(task, call, _STEPS, parameters, versions)


if __name__ == "__main__":
    main()
