"""The private gradient of one DP-SGD step."""

from typing import Any

import jax

from dpfinjax import noise
from dpfinjax.clipping import ClippedGrad, ClipStats


def private_grad(
    key: jax.Array,
    clipped_grad: ClippedGrad,
    params: Any,
    batch: Any,
    mask: jax.Array,
    noise_multiplier: jax.Array | float,
    expected_batch_size: jax.Array | float,
) -> tuple[Any, ClipStats]:
    """Returns the noisy mean of clipped gradients, the only thing of a batch that may be used.

    (sum_i clip(g_i) + noise_multiplier * sensitivity * N(0, I)) / expected_batch_size, Abadi et al.
    (2016). Dividing by the expected batch size, never by the realised one, keeps the number of
    sampled examples secret: the realised size would change both terms with the added example.

    Formal guarantee: over a Poisson sample of the data, each call is one subsampled Gaussian
    mechanism of `noise_multiplier` under adding or removing one example;
    `accounting.event(sample_rate, noise_multiplier, steps)` is the event of all calls of a run.

    Args:
      key: a JAX random key, used for nothing else.
      clipped_grad: a clipped gradient with its sensitivity, from `dpfinjax.clipping`.
      params: the parameters, a pytree.
      batch: a pytree with a leading axis of b examples.
      mask: bool [b], False for padding.
      noise_multiplier: standard deviation of the noise over the sensitivity; may be traced.
      expected_batch_size: sample rate times number of examples, positive; may be traced.

    Returns:
      A gradient like `params`, and the per-example statistics, which are not private.
    """
    total, stats = clipped_grad(params, batch, mask)
    noisy = noise.add_gaussian(key, total, noise_multiplier * clipped_grad.sensitivity)
    return jax.tree.map(lambda g: g / expected_batch_size, noisy), stats
