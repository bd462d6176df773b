"""The paper's attack: a network that learns from shadow models what members look like."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import ArrayLike
from scipy import special

from dpfinjax import accounting, training
from dpfinjax.attacks import answers, checks
from dpfinjax.attacks.answers import Answers
from dpfinjax.attacks.checks import FloatArray
from dpfinjax.errors import InputError
from dpfinjax.training import Data, HParams, Spec

_OVERFLOW = 1e-6  # the chance that one of the batches loses an example
_LEAST_WIDTH = 1e-6  # of a feature: one that is the same everywhere says nothing
_LEAST_NORM = 1e-12  # in gradient norms: an example that a model fits exactly has none


class AttackModel(nn.Module):
    """A network from features of an answer to the logits of "not a member" and "member".

    Attributes:
        hidden: Units of each hidden layer.
    """

    hidden: tuple[int, ...] = (64, 32)

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features [..., f] to logits [..., 2]."""
        x = features
        for units in self.hidden:
            x = nn.relu(nn.Dense(units)(x))
        return nn.Dense(2)(x)


def attack(
    key: jax.Array,
    target: Answers,
    shadows: Answers,
    membership: ArrayLike,
    labels: ArrayLike,
    *,
    hidden: tuple[int, ...] = (64, 32),
    steps: int = 2000,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
) -> FloatArray:
    """Gives each example a probability that the target was trained on it.

    An attack model learns from the shadow models, whose members are known, and is asked about the
    target (Shokri et al. 2017; the features are those of Wang and Tsai 2022 and of Nasr et al.
    2019). Each example is in half of the shadow models, so a probability of 1/2 says nothing. One
    attack model serves all classes; the true class is one of its features. The features of each
    model are centred and scaled over all examples: one that is surer of everything than its shadow
    models, as a single model by chance is, is not taken to know everybody.

    Args:
        key: A JAX random key, for the attack model's training.
        target: Answers of the model under attack: logits [e, classes], gradient norms [e].
        shadows: Answers of m >= 2 shadow models: [m, e, classes], [m, e].
        membership: bool [m, e], whether a shadow model was trained on an example.
        labels: int [e], the true classes.
        hidden: Units of the attack model's hidden layers.
        steps: Number of its updates, >= 1.
        batch_size: Expected number of answers in an update, >= 1.
        learning_rate: Adam's, at the first step, from where it falls to 0 as a cosine.

    Returns:
        Probabilities float64 [e].

    Raises:
        InputError: A shape, a type or a value is wrong, there are fewer than 2 shadow models, or
            an example was seen by all of them or by none.
    """
    classes = _checked(target, shadows, membership, labels)
    known = _standardised(features(shadows, classes))
    rows = known.reshape(-1, known.shape[-1])
    is_member = np.asarray(membership).reshape(-1)
    data = Data(jnp.asarray(rows), jnp.asarray(is_member, jnp.int32))
    module = AttackModel(tuple(hidden))
    params = _train(key, data, module, steps, min(batch_size, len(rows)), learning_rate)
    asked = jnp.asarray(_standardised(features(target, classes)))
    logits = np.asarray(module.apply({"params": params}, asked), np.float64)
    return special.expit(logits[:, 1] - logits[:, 0])


def features(given: Answers, labels: np.ndarray) -> np.ndarray:
    """Turns answers into what the attack model sees.

    Args:
        given: Logits [..., e, classes] and gradient norms [..., e].
        labels: int [e], the true classes.

    Returns:
        float32 [..., e, f]: the class probabilities in descending order, the loss in nats, the
        logit margin of the true class, the logarithm of the gradient norm, and the true class as
        one of as many zeros and a one.
    """
    logits = np.asarray(given.logits, np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    confidences = np.sort(weights / weights.sum(axis=-1, keepdims=True), axis=-1)[..., ::-1]
    numbers = (
        answers.losses(logits, labels),
        answers.margins(logits, labels),
        np.log(np.maximum(given.grad_norm, _LEAST_NORM)),
    )
    true = np.broadcast_to(np.eye(logits.shape[-1])[labels], logits.shape)
    parts = [confidences, *(number[..., None] for number in numbers), true]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def _checked(
    target: Answers, shadows: Answers, membership: ArrayLike, labels: ArrayLike
) -> np.ndarray:
    """The labels, once everything is of a shape that fits and finite."""
    classes = np.asarray(labels)
    if classes.shape != target.grad_norm.shape or classes.shape != target.logits.shape[:1]:
        raise InputError(
            f"labels has shape {classes.shape}, the target's logits {target.logits.shape} and its "
            f"gradient norms {target.grad_norm.shape}; examples must be as many in each."
        )
    if shadows.logits.shape != (*shadows.grad_norm.shape, target.logits.shape[1]):
        raise InputError(
            f"shadows has logits of shape {shadows.logits.shape} and gradient norms of "
            f"{shadows.grad_norm.shape}; models and examples must be as many in each."
        )
    of_target, of_shadows = (answers.margins(a.logits, classes) for a in (target, shadows))
    checks.shadow_scores(of_target, of_shadows, membership, offline=False)
    checks.shadow_scores(target.grad_norm, shadows.grad_norm, membership, offline=False)
    return classes


def _standardised(values: np.ndarray) -> np.ndarray:
    """Features [..., e, f] with mean 0 and deviation 1 over the examples of each model."""
    center, width = values.mean(axis=-2, keepdims=True), values.std(axis=-2, keepdims=True)
    return (values - center) / np.maximum(width, _LEAST_WIDTH)


_fit = functools.partial(jax.jit, static_argnames=("spec",))(training.fit)


def _train(
    key: jax.Array, data: Data, module: nn.Module, steps: int, batch_size: int, rate: float
) -> dict:
    """The parameters of an attack model."""
    rows = len(data.targets)
    share = float(np.float32(batch_size / rows))
    capacity = 8 * math.ceil(accounting.capacity(rows, share, steps, _OVERFLOW) / 8)
    spec = Spec(
        module=module,
        steps=steps,
        epoch_steps=steps,
        capacity=capacity,
        clip_method="none",
        microbatch=capacity,
        optimizer="adam",
        schedule="cosine",
    )
    hparams = HParams(*map(jnp.float32, (rate, 1.0, 0.0, share, batch_size)))
    params, history = _fit(key, hparams, training.everything(data), data, spec=spec)
    if not np.isfinite(history.loss).all():
        raise InputError(
            f"The attack model's loss is not finite; a learning rate below {rate:g} keeps it so."
        )
    return params
