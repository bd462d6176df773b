"""A step of this library, as it trains: the same program as `launch.dpsgd` runs."""

import jax
import jax.numpy as jnp

from dpfinjax import models, resumable, training
from launch.peers import protocol

_STEPS = 64


def main() -> None:
    """Times the step that the command line asks for."""
    task = protocol.task()
    data = training.Data(*map(jnp.asarray, protocol.made_up(task.examples)))
    spec = training.Spec(
        module=models.build("paper_dpsgd"),
        steps=_STEPS,
        epoch_steps=_STEPS,
        capacity=task.capacity,
        clip_method=task.method,
        microbatch=task.microbatch,
        momentum=task.momentum,
    )
    sample_rate = task.batch_size / task.examples
    numbers = (task.learning_rate, task.clip_norm, task.noise_multiplier, sample_rate)
    hparams = training.HParams(*map(jnp.float32, (*numbers, task.batch_size)))
    key, everyone = jax.random.key(0), training.everything(data)
    state = [resumable.init(key, data, spec)]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state[0].params))

    def call() -> None:
        # Always the epoch 0: a later one would have no step left to make.
        state[0] = jax.block_until_ready(
            resumable.train_epoch(key, state[0], jnp.int32(0), hparams, everyone, data, spec=spec)
        )[0]

    protocol.answer(task, call, _STEPS, parameters, {"jax": jax.__version__})


if __name__ == "__main__":
    main()
