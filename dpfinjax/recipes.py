"""Batch size and learning rate where a config leaves them open: found by search, kept as rules."""

import math

SAMPLE_RATE = 0.35
"""The share of the training examples that a batch is expected to have."""

_WANDER = 0.25  # of parameters that start at random
_WANDER_FROM_START = 0.05  # of parameters that are good already
_LONGEST_STEP = 3.0


def batch_size(examples: int) -> int:
    """Returns the expected batch size for so many training examples (or units).

    Large batches are what private training wants: noise is added once a step, whatever the batch,
    and sampling more than a third of the data no longer lowers the noise for an epsilon much.

    Args:
      examples: number of training examples, at least 1.
    """
    return max(1, round(SAMPLE_RATE * examples))


def learning_rate(
    noise_multiplier: float, clip_norm: float, batch_size: float, steps: int, pretrained: bool
) -> float:
    """Returns a learning rate for SGD without momentum, by what the noise does to the parameters.

    Over all steps the noise alone moves each parameter like a random walk, of standard deviation
    learning_rate * clip_norm * noise_multiplier / batch_size * sqrt(steps). The searches at
    epsilon 0.5 to 8, on three data sets of 1,400 to 15,500 images, all liked best a learning rate
    at which this is about 0.25, but none beyond the one where learning_rate * clip_norm is 3.
    Pretrained parameters have less to learn and more to lose: a fifth of it.

    Args:
      noise_multiplier: noise over clip norm, at least 0.
      clip_norm: the largest l2 norm of an example's gradient, positive.
      batch_size: expected number of examples of a step, positive.
      steps: number of steps, at least 1.
      pretrained: whether training starts from parameters that know the task.
    """
    wander = _WANDER_FROM_START if pretrained else _WANDER
    walk = noise_multiplier / batch_size * math.sqrt(steps)
    return min(_LONGEST_STEP, wander / walk if walk else math.inf) / clip_norm
