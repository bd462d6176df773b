"""Noisy answers from the votes of teachers: LNMax, GNMax and Confident GNMax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dpfinjax import noise
from dpfinjax.errors import InputError
from dpfinjax.pate import histograms

MECHANISMS = ("gaussian", "laplace")
"""GNMax of Papernot et al. (2018) and LNMax of Papernot et al. (2017)."""

REFUSED = -1
"""The answer of `confident` where it gives none."""


def votes(predictions: jax.Array, classes: int) -> jax.Array:
    """Counts how many teachers choose each class.

    Args:
      predictions: whole numbers [teachers, q] in 0..classes-1.
      classes: number of classes, at least 2.

    Returns:
      int32 [q, classes], whose rows sum to the number of teachers.

    Raises:
      InputError: a prediction is not a class.

    Example:
      >>> print(votes(jnp.array([[0, 2], [0, 1], [2, 1]]), 3).tolist())
      [[2, 0, 1], [0, 2, 1]]
    """
    if not _traced(predictions):
        _check_predictions(np.asarray(predictions), classes)
    return _count(jnp.asarray(predictions), classes)


def noisy_argmax(
    key: jax.Array, votes: jax.Array, scale: jax.Array | float, mechanism: str = "gaussian"
) -> jax.Array:
    """Answers each query with the class of the most votes after noise on every class.

    Noise is independent for every query and class. "gaussian" is GNMax, Papernot et al. (2018):
    noise N(0, scale^2). "laplace" is LNMax, Papernot et al. (2017): noise with density
    exp(-|x| / scale) / (2 scale); their gamma is 1 / scale, and the Laplace scales of Wang and Tsai
    (2022) are of this kind. One training example changes the vote of one teacher, and so two counts
    by one each: `analysis` says what that costs. The guarantee is one for real numbers; noise is
    float32. Classes that are equal even then are chosen among by further random words, so that no
    class gains by its place.

    Args:
      key: a JAX random key, used for nothing else.
      votes: whole numbers [q, c], c >= 2, with rows of equal sums; may be traced.
      scale: above 0, in votes; may be traced.
      mechanism: "gaussian" or "laplace".

    Returns:
      int32 [q], in 0..c-1.

    Raises:
      InputError: an argument is outside its range, as far as it is not traced.
    """
    histograms.check_mechanism(mechanism, MECHANISMS)
    _check_scales(scale=scale)
    if not _traced(votes):
        histograms.checked(votes)
    return _noisy_argmax(key, jnp.asarray(votes), scale, mechanism)


def confident(
    key: jax.Array,
    votes: jax.Array,
    threshold: jax.Array | float,
    threshold_scale: jax.Array | float,
    scale: jax.Array | float,
    limit: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Answers the queries on which teachers seem to agree: Confident GNMax.

    Papernot et al. (2018), Algorithm 1: a query is answered where its largest count plus N(0,
    threshold_scale^2) is at least `threshold`, by GNMax with fresh noise N(0, scale^2). With a
    limit, every query after the limit-th answer is refused, whatever its votes: then `limit`
    answers bound the cost in advance.

    Args:
      key: a JAX random key, used for nothing else.
      votes: whole numbers [q, c], c >= 2, with rows of equal sums; may be traced.
      threshold: votes asked for, from 0 to the number of teachers; may be traced.
      threshold_scale: standard deviation of the check's noise, above 0, in votes; may be traced.
      scale: standard deviation of the answer's noise, above 0, in votes; may be traced.
      limit: the most answers, at least 1, or None.

    Returns:
      `answers` int32 [q], -1 where refused, and `answered` bool [q].

    Raises:
      InputError: an argument is outside its range, as far as it is not traced.
    """
    _check_scales(threshold_scale=threshold_scale, scale=scale)
    if limit is not None:
        histograms.check_count("limit", limit)
    if not _traced(votes):
        teachers = int(histograms.checked(votes)[0].sum())
        if not _traced(threshold):
            histograms.check_threshold(float(threshold), teachers)
    most = len(votes) if limit is None else limit
    return _confident(key, jnp.asarray(votes), threshold, threshold_scale, scale, most)


@functools.partial(jax.jit, static_argnames="classes")
def _count(predictions: jax.Array, classes: int) -> jax.Array:
    return jnp.sum(predictions[..., None] == jnp.arange(classes), axis=0, dtype=jnp.int32)


@functools.partial(jax.jit, static_argnames="mechanism")
def _noisy_argmax(
    key: jax.Array, votes: jax.Array, scale: jax.Array | float, mechanism: str
) -> jax.Array:
    draw_key, tie_key = jax.random.split(key)
    draw = _laplaces if mechanism == "laplace" else noise.normals
    draws = draw(draw_key, votes.size)
    # Only differences matter. Counts below the largest are exact in float32, and near it they are
    # small, so that they do not take digits from the noise.
    below = (votes - votes.max(axis=1, keepdims=True)).astype(jnp.float32)
    noisy = below + scale * draws.reshape(votes.shape)
    first = noisy == noisy.max(axis=1, keepdims=True)
    # Half of the words, plus one, so that they are above the 0 of classes that are not first.
    lots = (jax.random.bits(tie_key, votes.shape) >> 1) + 1
    return jnp.argmax(jnp.where(first, lots, 0), axis=1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="limit")
def _confident(
    key: jax.Array,
    votes: jax.Array,
    threshold: jax.Array | float,
    threshold_scale: jax.Array | float,
    scale: jax.Array | float,
    limit: int,
) -> tuple[jax.Array, jax.Array]:
    check_key, answer_key = jax.random.split(key)
    largest = votes.max(axis=1)
    seen = largest + threshold_scale * noise.normals(check_key, largest.size)
    passed = seen >= threshold
    answered = passed & (jnp.cumsum(passed) <= limit)
    answers = _noisy_argmax(answer_key, votes, scale, "gaussian")
    return jnp.where(answered, answers, REFUSED), answered


def _laplaces(key: jax.Array, count: int) -> jax.Array:
    """Standard Laplace numbers: N1 N2 + N3 N4 has characteristic function 1 / (1 + t^2), theirs."""
    a, b, c, d = noise.normals(key, 4 * count).reshape(4, count)
    return a * b + c * d


def _traced(value: object) -> bool:
    return isinstance(value, jax.core.Tracer)


def _check_scales(**scales: jax.Array | float) -> None:
    for name, value in scales.items():
        if not _traced(value):
            histograms.check_positive(name, float(value))


def _check_predictions(predictions: np.ndarray, classes: int) -> None:
    """Names the first prediction that is not a class."""
    if predictions.ndim != 2 or predictions.dtype.kind not in "iu":
        raise InputError(
            "predictions must be whole numbers of shape [teachers, queries], but they have type "
            f"{predictions.dtype} and shape {predictions.shape}."
        )
    bad = (predictions < 0) | (predictions >= classes)
    if bad.any():
        teacher, query = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"predictions must be classes 0 to {classes - 1}, but teacher {teacher} gives "
            f"{predictions[teacher, query]} for query {query}."
        )
