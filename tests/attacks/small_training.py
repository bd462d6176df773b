"""A training so small that audits of it take a moment."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dpfinjax import accounting
from dpfinjax.privacy import Statement
from dpfinjax.settings import Plan
from dpfinjax.training import Data, HParams, Spec

EXAMPLES, FEATURES, CLASSES = 300, 6, 3
DELTA = 1e-5


class Network(nn.Module):
    """Logits of a network that is as small as can be."""

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(CLASSES)(nn.tanh(nn.Dense(4)(inputs)))


def make_data(seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(EXAMPLES, FEATURES))
    targets = rng.integers(0, CLASSES, EXAMPLES)
    return Data(jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.int32))


def make_plan(noise=2.0, rate=0.5, steps=4, stated=None, **spec):
    """A plan; `stated` changes the numbers that its epsilon is computed from."""
    numbers = {"sample_rate": rate, "noise_multiplier": noise, "steps": steps} | (stated or {})
    batch_size = rate * EXAMPLES
    hparams = HParams(*map(jnp.float32, (0.5, 1.0, noise, rate, batch_size)))
    statement = Statement(
        epsilon=float(accounting.epsilon(**numbers, delta=DELTA, method="pld")),
        delta=DELTA,
        **numbers,
        clip_norm=1.0,
        batch_size=batch_size,
        examples=EXAMPLES,
        overflow_probability=0.0,
        unit="one example",
        sampler="Poisson",
        accountant="pld",
        assumptions=(),
    )
    options = {"module": Network(), "microbatch": 512, "clip_method": "vmap"} | spec
    return Plan(hparams, Spec(steps=steps, epoch_steps=2, capacity=304, **options), statement)


def each(tree, index):
    return jax.tree.map(lambda x: x[index], tree)
