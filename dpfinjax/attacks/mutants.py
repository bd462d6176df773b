"""Private mechanisms with one part broken, each with the test that refutes it.

A `Mechanism` is DP-SGD put together from the library's own parts: sampler, clipped gradient,
private gradient and update. A mutant has one of them replaced, as a programmer's slip would, and
still claims the epsilon of the unbroken one. Its neighbours are two small data sets on which the
slip shows. Examples are gradients: the loss is their product with the parameters.

What refutes a mutant assumes no distribution: the Clopper-Pearson bound of `audit.many_runs` is
above the claimed epsilon, or an exact binomial interval of the number of sampled examples is beside
the claimed sample rate.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpfinjax import accounting, clipping, dpsgd, noise, pate, sampling
from dpfinjax.attacks import audit
from dpfinjax.attacks.checks import FloatArray
from dpfinjax.attacks.metrics import clopper_pearson
from dpfinjax.clipping import ClippedGrad, ClipStats
from dpfinjax.errors import InputError

DELTA = 0.05
"""The delta of every claim here: large, for what happens rarely is what an audit cannot see."""

CONFIDENCE = 0.9999
"""With which an accusation holds, one at a time."""

_CLIP_NORM = 1.0
_UNCLIPPED = 1e30
_OTHERS = 8
_SHAPES = {"bias": (1,), "kernel": (3,)}
_HIGHEST = float(np.finfo(np.float32).max)

Loss = Callable[[Any, Any], jax.Array]
"""From parameters and an example to a number."""

# The paper's set-up, of which the original program computes epsilon for batches of 100.
_PAPER_EXAMPLES, _PAPER_BATCH, _PAPER_ACCOUNTED = 13_170, 30, 100
_PAPER_CAPACITY = 256

_VOTE_SCALE = 4.0
_VOTES = np.array([[0, 5, 4, 0, 0, 0, 0, 0], [0, 4, 5, 0, 0, 0, 0, 0]])


class Trial(NamedTuple):
    """Neighbouring data sets and the settings of a training.

    Attributes:
      others: the gradient of each of the eight other examples, a tree like the parameters.
      canary: the gradient of the example that is added.
      sample_rate: the chance of each example to be in a step's batch.
      noise_multiplier: noise over clip norm; the clip norm is 1.
      momentum: decay of the momentum, in [0, 1).
      steps: number of updates.
    """

    others: Any
    canary: Any
    sample_rate: float = 1.0
    noise_multiplier: float = 1.0
    momentum: float = 0.0
    steps: int = 1

    @property
    def batch_size(self) -> float:
        """The expected batch size without the canary."""
        return _OTHERS * self.sample_rate

    @property
    def epsilon(self) -> float:
        """What an unbroken mechanism spends at `DELTA`, in nats."""
        return float(
            accounting.epsilon(self.sample_rate, self.noise_multiplier, self.steps, DELTA, "pld")
        )


class State(NamedTuple):
    """Parameters and their velocity."""

    params: Any
    velocity: Any


def momentum_of_private_grad(
    key: jax.Array, state: State, mechanism: "Mechanism", batch: Any, mask: jax.Array, trial: Trial
) -> State:
    """Makes a step of momentum SGD from the private gradient: what follows it costs no privacy.

    Args:
      key: a JAX random key for the noise.
      state: before the step.
      mechanism: whose clipped and private gradients are used.
      batch: the sampled examples, a tree of [b, ...].
      mask: bool [b], False for padding.
      trial: the settings.

    Returns:
      The state after the step, at learning rate 1.
    """
    clipped_grad = mechanism.clipped_grad(_product, _CLIP_NORM)
    grad, _ = mechanism.private_grad(
        key, clipped_grad, state.params, batch, mask, trial.noise_multiplier, trial.batch_size
    )
    step, trace = _momentum(grad, state.velocity, trial)
    return State(jax.tree.map(jnp.subtract, state.params, step), trace)


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """DP-SGD of exchangeable parts, each the library's own unless it is replaced.

    Attributes:
      sample: `(key, n, sample_rate, capacity)` to rows and mask.
      clipped_grad: `(loss, clip_norm)` to a clipped gradient.
      private_grad: called as `dpsgd.private_grad` is.
      update: called as `momentum_of_private_grad` is.
    """

    sample: Callable[..., tuple[jax.Array, jax.Array]] = sampling.poisson
    clipped_grad: Callable[..., ClippedGrad] = clipping.vmap_clipped_grad
    private_grad: Callable[..., tuple[Any, ClipStats]] = dpsgd.private_grad
    update: Callable[..., State] = momentum_of_private_grad


class Verdict(NamedTuple):
    """What a test found.

    Attributes:
      test: the test, in words.
      claimed: the number that was claimed.
      low: the least that the test leaves possible.
      high: the most, inf where the test bounds from below alone.
    """

    test: str
    claimed: float
    low: float
    high: float = math.inf

    @property
    def refuted(self) -> bool:
        """Whether the claim is outside what is possible."""
        return not self.low <= self.claimed <= self.high

    def sentence(self) -> str:
        """Returns the test and its numbers in one line."""
        found = f"at least {self.low:.3g}"
        if math.isfinite(self.high):
            found = f"from {self.low:.3g} to {self.high:.3g}"
        return f"{self.test}: {found}, {self.claimed:.3g} is claimed"


Test = Callable[[int, int], Verdict]
"""From a seed and a number of trainings, with and without the canary each, to a verdict."""


class Mutant(NamedTuple):
    """A break and the same test of the broken and of the unbroken mechanism."""

    broken: Test
    unbroken: Test


def try_mutant(name: str, seed: int = 0, runs: int = 4000) -> tuple[Verdict, Verdict]:
    """Tests a mutant, and the unbroken mechanism on the same neighbours.

    Args:
      name: a name in `MUTANTS`.
      seed: decides all randomness.
      runs: trainings with the canary, and as many without it, at least 1.

    Returns:
      The verdicts on the mutant, which should be refuted, and on the unbroken mechanism, which is
      with a probability of at most 1 - `CONFIDENCE`.

    Raises:
      InputError: there is no such mutant, or `runs` is below 1.
    """
    if name not in MUTANTS:
        raise InputError(f"mutant {name!r} does not exist; there are {', '.join(MUTANTS)}.")
    if runs < 1:
        raise InputError(f"runs is {runs}; it must be at least 1.")
    return MUTANTS[name].broken(seed, runs), MUTANTS[name].unbroken(seed, runs)


def epsilon_test(
    mechanism: Mechanism, trial: Trial, claimed: float, seed: int, runs: int
) -> Verdict:
    """Bounds the epsilon of a mechanism from below by many trainings.

    The score of a training is how far the parameters went in the canary's direction, or the highest
    there is where they are not finite.

    Args:
      mechanism: what is trained.
      trial: neighbours and settings.
      claimed: the epsilon that is claimed at `DELTA`, in nats.
      seed: decides all randomness.
      runs: trainings with the canary, and as many without it.

    Returns:
      The verdict, whose `low` is the Clopper-Pearson bound.
    """
    with_canary = jax.tree.map(
        lambda x, y: np.concatenate([x, y[None]]), trial.others, trial.canary
    )
    keys = jax.random.split(jax.random.key(seed), (2, runs))
    inside, outside = (
        _finite(_scores(keys[i], examples, trial, mechanism=mechanism, steps=trial.steps))
        for i, examples in enumerate((with_canary, trial.others))
    )
    low = audit.many_runs(inside, outside, DELTA, CONFIDENCE)
    return Verdict("epsilon from below, many runs", claimed, low)


def vote_test(answer: Callable[..., jax.Array], seed: int, runs: int) -> Verdict:
    """Bounds the epsilon of one noisy answer from below, by how often either neighbour is given.

    Args:
      answer: called as `pate.noisy_argmax` is.
      seed: decides all randomness.
      runs: answers to either of two histograms that differ in one teacher's vote.

    Returns:
      The verdict, against the data-independent epsilon of GNMax.
    """
    keys = jax.random.split(jax.random.key(seed))
    inside, outside = (
        np.asarray(answer(key, np.tile(votes, (runs, 1)), _VOTE_SCALE))
        for key, votes in zip(keys, _VOTES, strict=True)
    )
    # Classes 1 and 2 are those whose counts differ.
    inside, outside = (1.0 * (chosen == 1) - (chosen == 2) for chosen in (inside, outside))
    low = audit.many_runs(inside, outside, DELTA, CONFIDENCE)
    claimed = pate.epsilon(_VOTES[:1], _VOTE_SCALE, DELTA, data_dependent=False)
    return Verdict("epsilon from below, many answers", float(claimed), low)


def draws_test(
    sample: Callable[..., tuple[jax.Array, jax.Array]],
    sample_rate: float,
    claimed: float,
    seed: int,
) -> Verdict:
    """Tests a claimed sample rate by how many examples an epoch of the paper's training drew.

    Args:
      sample: `(key, n, sample_rate, capacity)` to rows and mask.
      sample_rate: with which it is called.
      claimed: the rate that epsilon was computed for.
      seed: decides all randomness.

    Returns:
      The verdict, with the Clopper-Pearson interval of the rate.
    """
    steps = _PAPER_EXAMPLES // _PAPER_BATCH
    keys = jax.random.split(jax.random.key(seed), steps)
    drawn = int(_drawn(keys, sample_rate, sample=sample).sum())
    low, high = clopper_pearson(drawn, steps * _PAPER_EXAMPLES, CONFIDENCE)
    return Verdict("sample rate, drawn examples", claimed, float(low), float(high))


@functools.partial(jax.jit, static_argnames="sample")
def _drawn(
    keys: jax.Array, sample_rate: float, sample: Callable[..., tuple[jax.Array, jax.Array]]
) -> jax.Array:
    """How many examples of the paper's are in each batch."""

    def count(key: jax.Array) -> jax.Array:
        return jnp.sum(sample(key, _PAPER_EXAMPLES, sample_rate, _PAPER_CAPACITY)[1])

    return jax.lax.map(count, keys)


def _product(params: Any, example: Any) -> jax.Array:
    """A loss whose gradient is the example."""
    return optax.tree.vdot(params, example)


def _momentum(grad: Any, velocity: Any, trial: Trial) -> tuple[Any, Any]:
    """The step of momentum SGD, and the next velocity."""
    step, state = optax.trace(trial.momentum).update(grad, optax.TraceState(velocity))
    return step, state.trace


@functools.partial(jax.jit, static_argnames=("mechanism", "steps"))
def _scores(
    keys: jax.Array, examples: Any, trial: Trial, mechanism: Mechanism, steps: int
) -> jax.Array:
    """How far trainings [r] of a mechanism go in the canary's direction."""
    count = len(jax.tree.leaves(examples)[0])
    zeros = {name: jnp.zeros(shape) for name, shape in _SHAPES.items()}

    def step(state: State, key: jax.Array) -> tuple[State, None]:
        sample_key, noise_key = jax.random.split(key)
        rows, mask = mechanism.sample(sample_key, count, trial.sample_rate, count)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], examples)
        return mechanism.update(noise_key, state, mechanism, batch, mask, trial), None

    def train(key: jax.Array) -> jax.Array:
        state, _ = jax.lax.scan(step, State(zeros, zeros), jax.random.split(key, steps))
        return -optax.tree.vdot(state.params, jax.tree.map(jnp.nan_to_num, trial.canary))

    return jax.vmap(train)(keys)


def _finite(scores: jax.Array) -> FloatArray:
    """Scores in float64, the highest for those that are not finite."""
    values = np.asarray(scores, np.float64)
    return np.where(np.isfinite(values), values, _HIGHEST)


_private_grad: Callable[..., tuple[Any, ClipStats]] = dpsgd.private_grad


def _half_the_noise(*args: Any) -> tuple[Any, ClipStats]:
    *others, noise_multiplier, size = args
    return _private_grad(*others, noise_multiplier / 2, size)


def _bias_without_noise(*args: Any) -> tuple[Any, ClipStats]:
    *others, noise_multiplier, size = args
    noisy, stats = _private_grad(*others, noise_multiplier, size)
    clean, _ = _private_grad(*others, 0.0, size)
    return noisy | {"bias": clean["bias"]}, stats


def _over_realised_batch(*args: Any) -> tuple[Any, ClipStats]:
    *others, mask, noise_multiplier, _ = args
    size = jnp.maximum(jnp.sum(mask), 1)
    return _private_grad(*others, mask, noise_multiplier, size)


def _unclipped(loss: Loss, clip_norm: float) -> ClippedGrad:
    return ClippedGrad(clipping.vmap_clipped_grad(loss, _UNCLIPPED).function, clip_norm)


def _clipped_mean(loss: Loss, clip_norm: float) -> ClippedGrad:
    unclipped = _unclipped(loss, clip_norm)

    def function(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, ClipStats]:
        total, stats = unclipped(params, batch, mask)
        norm_of_mean = optax.tree.norm(total) / jnp.maximum(jnp.sum(mask), 1)
        factor = jnp.minimum(1.0, clip_norm / jnp.maximum(norm_of_mean, 1e-9))
        return jax.tree.map(lambda g: factor * g, total), stats

    return ClippedGrad(function, clip_norm)


def _nonfinite_kept(loss: Loss, clip_norm: float) -> ClippedGrad:
    sound = clipping.vmap_clipped_grad(loss, clip_norm)

    def function(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, ClipStats]:
        total, stats = sound(params, batch, mask)
        grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)
        dropped = jax.tree.map(lambda g: jnp.where(stats.nonfinite[:, None], g, 0).sum(0), grads)
        return jax.tree.map(jnp.add, total, dropped), stats

    return ClippedGrad(function, clip_norm)


def _without_replacement(
    key: jax.Array, n: int, sample_rate: float, capacity: int
) -> tuple[jax.Array, jax.Array]:
    mask = jnp.arange(capacity) < jnp.round(_OTHERS * sample_rate)
    return jax.random.permutation(key, n)[:capacity], mask


def _momentum_before_noise(
    key: jax.Array, state: State, mechanism: Mechanism, batch: Any, mask: jax.Array, trial: Trial
) -> State:
    clipped_grad = mechanism.clipped_grad(_product, _CLIP_NORM)
    grad, _ = mechanism.private_grad(
        key, clipped_grad, state.params, batch, mask, 0.0, trial.batch_size
    )
    step, velocity = _momentum(grad, state.velocity, trial)
    stddev = trial.noise_multiplier * clipped_grad.sensitivity / trial.batch_size
    step = noise.add_gaussian(key, step, stddev)
    return State(jax.tree.map(jnp.subtract, state.params, step), velocity)


def _noise_on_class_0(key: jax.Array, votes: np.ndarray, scale: float) -> jax.Array:
    noisy = jnp.asarray(votes, jnp.float32).at[:, 0].add(scale * noise.normals(key, len(votes)))
    return jnp.argmax(noisy, axis=1)


def _along(leaf: str, size: float, shape: tuple[int, ...] = ()) -> Any:
    """Gradients, a tree of [*shape, ...], of a given size in the first number of a leaf."""
    tree = {name: np.zeros(shape + last, np.float32) for name, last in _SHAPES.items()}
    tree[leaf][..., 0] = size
    return tree


def _trial(canary: float, others: float = 0.0, leaf: str = "kernel", **settings: Any) -> Trial:
    """Neighbours whose gradients all have one direction."""
    return Trial(_along(leaf, others, (_OTHERS,)), _along(leaf, canary), **settings)


def _by_epsilon(trial: Trial, accounted: Trial | None = None, **parts: Any) -> Mutant:
    """A mechanism with other parts, or one that claims what another training spends."""

    def test(mechanism: Mechanism, claim: Trial, seed: int, runs: int) -> Verdict:
        return epsilon_test(mechanism, trial, claim.epsilon, seed, runs)

    return Mutant(
        functools.partial(test, Mechanism(**parts), accounted or trial),
        functools.partial(test, Mechanism(), trial),
    )


def _by_draws(accounted: int) -> Mutant:
    """The paper's training, with the sample rate of another batch size."""

    def test(batch_size: int, seed: int, runs: int) -> Verdict:
        del runs
        rate, claimed = (size / _PAPER_EXAMPLES for size in (_PAPER_BATCH, batch_size))
        return draws_test(sampling.poisson, rate, claimed, seed)

    return Mutant(functools.partial(test, accounted), functools.partial(test, _PAPER_BATCH))


# A canary of norm 100 is clipped to 1. One of norm 1 against eight others of the opposite sign is
# where a change of the batch's size or of its other members tells as much again.
_FULL = _trial(canary=100.0)
_AGAINST_OTHERS = _trial(canary=-1.0, others=1.0)
_FOUR_EPOCHS = _trial(canary=100.0, noise_multiplier=2.0, steps=4)

MUTANTS: Mapping[str, Mutant] = {
    "noise halved": _by_epsilon(_FULL, private_grad=_half_the_noise),
    "noise not added to one leaf": _by_epsilon(
        _trial(canary=100.0, leaf="bias"), private_grad=_bias_without_noise
    ),
    "no clipping": _by_epsilon(_FULL, clipped_grad=_unclipped),
    "clipping after averaging": _by_epsilon(_FULL, clipped_grad=_clipped_mean),
    "divided by the realised batch": _by_epsilon(
        _AGAINST_OTHERS, private_grad=_over_realised_batch
    ),
    "epsilon of a smaller batch": _by_epsilon(
        _FOUR_EPOCHS, accounted=_FOUR_EPOCHS._replace(sample_rate=0.25, steps=16)
    ),
    "epsilon of another batch, as the original": _by_draws(_PAPER_ACCOUNTED),
    "sampled without replacement": _by_epsilon(
        _AGAINST_OTHERS._replace(sample_rate=0.5), sample=_without_replacement
    ),
    "PATE noise on class 0 only": Mutant(
        functools.partial(vote_test, _noise_on_class_0),
        functools.partial(vote_test, pate.noisy_argmax),
    ),
    "non-finite example passed through": _by_epsilon(
        _trial(canary=math.nan), clipped_grad=_nonfinite_kept
    ),
    "momentum before the noise": _by_epsilon(
        _trial(canary=100.0, noise_multiplier=math.sqrt(8), momentum=0.9, steps=8),
        update=_momentum_before_noise,
    ),
}
"""The mutants by what is broken."""
