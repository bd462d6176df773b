"""Canaries: examples made to be recognised, and trainings with and without them.

Where several windows form one unit of privacy, a canary is a whole unit: it is there or not with
all of its windows, as the guarantee has it.

What is audited is `training.fit` itself, with the settings of the run in question. An auditor may
choose the data, since a guarantee holds for all of them, and what has no part in it: a learning
rate, or the network, as long as it takes nothing but the private gradients.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import ArrayLike, NDArray

from dpfinjax import hosts, resumable, training
from dpfinjax.attacks import checks
from dpfinjax.attacks.checks import BoolArray, FloatArray
from dpfinjax.augmentation import NO_COPIES
from dpfinjax.errors import InputError
from dpfinjax.training import Data, HParams, Membership, Spec

KINDS = ("mislabelled", "random")
SCORES = ("loss", "gradient")

# What a seed is used for: coins must know nothing of what became of the canaries.
_PLANTING, _PICKING, _COINS = range(3)
_LOUDNESS = 100.0  # a gradient-space canary's norm over the clip norm
_STEADY = 1e-2  # how far its logits may move in a whole training
# Models that a device trains at once.
_PROBES, _NETWORKS, _NETWORKS_ON_CPU = 1 << 15, 64, 1


class Canaries(NamedTuple):
    """Data with canaries among them.

    Attributes:
      data: all examples on the device, canaries included.
      rows: int64 [c], which units of the data are canaries: rows where each example is one.
    """

    data: Data
    rows: NDArray[np.int64]


def planted(seed: int, data: Data, count: int, classes: int, kind: str = "mislabelled") -> Canaries:
    """Turns some units of a data set into canaries, each with all of its examples.

    Args:
      seed: decides which units, and what becomes of them.
      data: the examples, which are not changed.
      count: number of canaries c, from 1 to the number of units.
      classes: number of classes, at least 2.
      kind: "mislabelled" for a label drawn from the wrong ones; "random" for such a label and
        inputs drawn evenly between the smallest and the largest of the data.

    Returns:
      Data of the same shapes with the canaries, and their rows, ascending.

    Raises:
      InputError: `count`, `classes` or `kind` is wrong.
    """
    checks.one_of("kind", kind, KINDS)
    examples = training.count_units(data)
    if not 1 <= count <= examples:
        raise InputError(f"count is {count}; of {examples} examples, 1 to {examples} can be it.")
    if classes < 2:
        raise InputError(f"classes is {classes}; a wrong label needs at least 2.")
    rng = np.random.default_rng([_PLANTING, seed])
    rows = np.sort(rng.choice(examples, count, replace=False))
    inputs, targets = np.array(data.inputs), np.array(data.targets)
    own = rows
    if data.units is not None:
        members = np.asarray(data.units)[rows]
        own = members[members >= 0]
    targets[own] = (targets[own] + rng.integers(1, classes, own.size)) % classes
    if kind == "random":
        inputs[own] = rng.uniform(inputs.min(), inputs.max(), inputs[own].shape)
    return Canaries(data._replace(inputs=jnp.asarray(inputs), targets=jnp.asarray(targets)), rows)


def with_one_last(seed: int, data: Data, others: int, classes: int) -> Data:
    """Picks a few units and puts a mislabelled one after them, for `many_runs`.

    Args:
      seed: decides which units, and the wrong labels.
      data: the examples to pick from.
      others: how many units the canary is added to, at least 1.
      classes: number of classes, at least 2.

    Returns:
      Data of others + 1 units, the canary last.

    Raises:
      InputError: an argument is wrong.
    """
    examples = training.count_units(data)
    if not 1 <= others < examples:
        raise InputError(f"others is {others}; beside {examples} examples it can be below that.")
    chosen = np.random.default_rng([_PICKING, seed]).choice(examples, others + 1, replace=False)
    few = training.take_units(data, chosen)
    canary = planted(seed, training.take_units(few, np.array([others])), 1, classes).data
    before = len(few.targets) - len(canary.targets)
    return few._replace(
        inputs=jnp.concatenate([few.inputs[:before], canary.inputs]),
        targets=jnp.concatenate([few.targets[:before], canary.targets]),
    )


def probe(
    count: int, hparams: HParams, spec: Spec, windows_per_unit: int | None = None
) -> tuple[Data, HParams, Spec]:
    """Turns a training into one whose canaries have gradients in fixed, orthogonal directions.

    Gradient-space canaries (Nasr et al. 2021 and 2023; the Dirac canaries of Steinke et al. 2023)
    through `training.fit` as it is: the network becomes a linear one that starts from zero, each
    canary has an input of its own, all others are zero, and the learning rate is so small that
    logits stay at zero. Then a canary's gradient is the same in each step, a hundred times the clip
    norm, and what the others do cannot move the weights that belong to it. Sampling, clipping,
    noise, division, steps and optimizer are those of the training under audit.

    Args:
      count: number of canaries c.
      hparams: the settings that are arrays, of a single model.
      spec: the settings that are compiled in.
      windows_per_unit: how many examples a unit has; None where each example is one. All examples
        of a canary have its input, so what they do together, they do in its direction.

    Returns:
      Data of c + 1 units, a first one whose gradient is zero and the canaries after it, and the
      two settings.
    """
    clip_norm = float(hparams.clip_norm)
    size = _LOUDNESS * clip_norm * math.sqrt(2)  # its gradient is size * (1/2, -1/2)
    inputs = np.zeros((count + 1, count), np.float32)
    inputs[1 + np.arange(count), np.arange(count)] = size
    module = nn.Dense(2, use_bias=False, kernel_init=nn.initializers.zeros)
    # The largest weight that keeps size * weight, a logit, steady; then the rate that reaches it.
    rate = _STEADY / (size * spec.steps)
    if spec.optimizer == "sgd":
        step = clip_norm * (1 + float(hparams.noise_multiplier)) / (1 - spec.momentum)
        rate *= float(hparams.batch_size) / step
    width = windows_per_unit or 1
    units = np.arange((count + 1) * width, dtype=np.int32).reshape(-1, width)
    return (
        Data(
            jnp.asarray(np.repeat(inputs, width, axis=0)),
            jnp.zeros(units.size, jnp.int32),
            None if windows_per_unit is None else jnp.asarray(units),
        ),
        hparams._replace(learning_rate=jnp.float32(rate)),
        dataclasses.replace(spec, module=module, augmentation=NO_COPIES, start=""),
    )


def one_run(
    key: jax.Array,
    included: ArrayLike,
    canaries: Canaries,
    hparams: HParams,
    spec: Spec,
    score: str = "loss",
) -> FloatArray:
    """Trains once with some of the canaries and scores all of them.

    Args:
      key: a JAX random key for the training.
      included: bool [c], by a fair coin each: which canaries are in the training data. All
        units that are no canaries are.
      canaries: the data.
      hparams: the settings that are arrays.
      spec: the settings that are compiled in.
      score: "loss" for the drop of the canary's loss (the mean over its examples) from the first
        to the last parameters, what one sees who has the model; "gradient" for the drop that the
        canary's first gradient foretells, the product of that gradient with the way the parameters
        went.

    Returns:
      Scores [c] for `audit.one_run`, higher for likelier members; a score that is not finite
      becomes the highest there is.

    Raises:
      InputError: `included` has another shape, or `score` is unknown.
    """
    checks.one_of("score", score, SCORES)
    coins = checks.flags("included", included, canaries.rows.shape)
    present = np.ones(training.count_units(canaries.data), bool)
    present[canaries.rows] = coins
    rows = np.zeros(present.size, np.int32)
    rows[: present.sum()] = np.flatnonzero(present)
    membership = Membership(jnp.asarray(rows), jnp.int32(present.sum()))
    targets = training.take_units(canaries.data, canaries.rows)
    return _highest_for_nonfinite(
        _trained_scores(key, membership, canaries.data, targets, hparams, spec=spec, score=score)
    )


def many_runs(
    key: jax.Array,
    runs: int,
    data: Data,
    hparams: HParams,
    spec: Spec,
    score: str = "loss",
) -> tuple[FloatArray, FloatArray]:
    """Trains many models with the last unit and as many without it, as one program.

    Models are divided over all devices. A device trains linear ones (`probe`) under `vmap`,
    networks a few at a time; a CPU one after another, which keeps each core in its own cache.

    As no batch of so few units is large, batches have room for all of them: what the sampler's
    capacity is charged for cannot happen here.

    Args:
      key: a JAX random key for all trainings.
      runs: number of models with the canary, and of models without it, at least 1.
      data: the examples, the canary last, and at least one other.
      hparams: the settings that are arrays, of a single model.
      spec: the settings that are compiled in.
      score: as in `one_run`.

    Returns:
      Scores with and without the canary, each [runs], for `audit.many_runs`; a score that is not
      finite becomes the highest there is.

    Raises:
      InputError: `runs` is below 1, `score` is unknown, or there is no other example.
    """
    checks.one_of("score", score, SCORES)
    examples = training.count_units(data)
    if runs < 1:
        raise InputError(f"runs is {runs}; it must be at least 1.")
    if examples < 2:
        raise InputError(f"data has {examples} examples; the canary must come after another one.")
    spec = dataclasses.replace(
        spec, epoch_steps=spec.steps, capacity=examples, microbatch=min(spec.microbatch, examples)
    )
    devices = resumable.mesh_of(2 * runs).devices.size
    models = 2 * runs + -2 * runs % devices
    sizes = jnp.where(jnp.arange(models) < runs, examples, examples - 1)
    arguments = jax.random.split(key, models), sizes, data, hparams
    if hosts.spans(resumable.mesh_of(models)):
        hosts.call(_scores_together, arguments, spec, score)
    found = _highest_for_nonfinite(_scores_together(arguments, spec, score))
    return found[:runs], found[runs : 2 * runs]


def coins(seed: int, count: int) -> BoolArray:
    """Flips fair coins: which canaries a single run includes, bool [count]."""
    return np.random.default_rng([_COINS, seed]).integers(0, 2, count).astype(bool)


def _scores_together(
    arguments: tuple[jax.Array, jax.Array, Data, HParams], spec: Spec, score: str
) -> np.ndarray:
    """The scores [m], in each process that has a part in them."""
    keys, sizes, data, hparams = arguments
    mesh = resumable.mesh_of(len(keys))
    split, whole = (NamedSharding(mesh, PartitionSpec(*a)) for a in ((resumable.MODELS,), ()))
    keys, sizes = (hosts.placed(x, split) for x in (keys, sizes))
    data, hparams = jax.tree.map(lambda x: hosts.placed(x, whole), (data, hparams))
    with hosts.lost_told():
        return hosts.gathered(_scores_of_models(keys, sizes, data, hparams, spec=spec, score=score))


@functools.partial(jax.jit, static_argnames=("spec", "score"))
def _scores_of_models(
    keys: jax.Array, sizes: jax.Array, data: Data, hparams: HParams, spec: Spec, score: str
) -> jax.Array:
    """The canary's score [m] in models that see the first `sizes` units."""

    def several(keys: jax.Array, sizes: jax.Array, data: Data, hparams: HParams) -> jax.Array:
        rows = training.everything(data).rows
        canary = training.take_units(data, rows[-1:])

        def one(own: tuple[jax.Array, jax.Array]) -> jax.Array:
            seen = Membership(rows, own[1])
            return _trained_scores(own[0], seen, data, canary, hparams, spec, score)[0]

        at_once = min(_models_at_once(spec), len(keys))
        return jax.lax.map(one, (keys, sizes), batch_size=at_once if at_once > 1 else None)

    mesh = resumable.mesh_of(len(keys))
    split, whole = PartitionSpec(resumable.MODELS), PartitionSpec()
    return jax.shard_map(
        several,
        mesh=mesh,
        in_specs=(split, split, whole, whole),
        out_specs=split,
        check_vma=False,
    )(keys, sizes, data, hparams)


def _models_at_once(spec: Spec) -> int:
    """How many models a device trains under one `vmap`."""
    if isinstance(spec.module, nn.Dense):
        return _PROBES
    return _NETWORKS_ON_CPU if jax.default_backend() == "cpu" else _NETWORKS


@functools.partial(jax.jit, static_argnames=("spec", "score"))
def _trained_scores(
    key: jax.Array,
    membership: Membership,
    data: Data,
    canaries: Data,
    hparams: HParams,
    spec: Spec,
    score: str,
) -> jax.Array:
    """Trains a model and scores canaries by it."""
    first = training.init(key, data, spec).params
    last, _ = training.fit(key, hparams, membership, data, spec)

    def losses(params: object) -> jax.Array:
        logits = training.evaluate(params, canaries, spec.module).logits
        chosen = jnp.take_along_axis(logits, canaries.targets[:, None], axis=1)[:, 0]
        return training.unit_means(jax.nn.logsumexp(logits, axis=1) - chosen, canaries.units)

    if score == "loss":
        return losses(first) - losses(last)
    return jax.jvp(losses, (first,), (jax.tree.map(jnp.subtract, first, last),))[1]


def _highest_for_nonfinite(scores: ArrayLike) -> FloatArray:
    """Scores in float64; a training that broke is a sign like any other."""
    values = np.asarray(scores, np.float64)
    return np.where(np.isfinite(values), values, float(np.finfo(np.float32).max))
