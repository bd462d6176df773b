"""The same training from examples on disk: what a step draws is read, and nothing else.

The sample of a step follows from its key and its number alone. So the samples of the next steps are
drawn over the whole set, as in memory, before these steps are made; their rows are read by grain's
threads while the device trains; and the accounting, the capacity and the statement are those of a
training in memory, which this one equals bit for bit.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from dpfinjax import resumable, training
from dpfinjax.data import Stored
from dpfinjax.errors import InputError
from dpfinjax.training import Data, History, HParams, Membership, Spec, State

CHUNK_BYTES = 2**23
"""Images that are read and sent to the device at a time, about: 8 MiB; at least one step's."""

_AHEAD = 2  # chunks that are read while one is trained on
_EVALUATION_CHUNK = 4096


class Chunk(NamedTuple):
    """The next steps of a training, for one model or with a leading axis of models.

    Attributes:
      numbers: int32 [c], the steps.
      rows: int32 [..., c, b], the drawn examples, as numbers in the whole set.
      mask: bool [..., c, b], False for padding.
      images: float32 [..., c, b, length, length, 4], zeros for padding.
      labels: int32 [..., c, b], zeros for padding.
    """

    numbers: np.ndarray
    rows: np.ndarray
    mask: np.ndarray
    images: np.ndarray
    labels: np.ndarray


class Measured(NamedTuple):
    """A model's answers to a set of examples, counted; each may have a leading axis of models.

    Attributes:
      loss: float32 [], the mean cross-entropy in nats.
      accuracy: float32 [], the share of right answers.
      counts: int64 [classes, classes], examples by their class and, second, the answer.
    """

    loss: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray


def shapes(examples: Stored, start: Any = None) -> Data:
    """Returns one example of zeros, which stands for the set where only shapes are asked for.

    Args:
      examples: the set.
      start: see `Data`.
    """
    images, labels = jnp.zeros((1, *examples.image_shape)), jnp.zeros(1, jnp.int32)
    return Data(images, labels, start=start)


def everything(examples: Stored) -> Membership:
    """Returns the membership of a model that sees the whole set, without the list of its rows."""
    return Membership(jnp.zeros(0, jnp.int32), jnp.int32(len(examples)))


def chunk_steps(models: int, capacity: int, image_shape: tuple[int, ...]) -> int:
    """Returns how many steps' examples are in memory at a time, at least 1.

    Args:
      models: how many train at once.
      capacity: places in a batch.
      image_shape: of one image, float32.
    """
    return max(1, CHUNK_BYTES // (4 * models * capacity * int(np.prod(image_shape))))


@functools.partial(jax.jit, static_argnames=("units", "capacity"))
def draw(
    key: jax.Array, numbers: jax.Array, sample_rate: jax.Array, units: int, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """Draws the samples of several steps over all units, as `training.train_epoch` draws them.

    Args:
      key: the key of a training, or keys [m].
      numbers: int32 [c], the steps.
      sample_rate: float32 [] or [m].
      units: number of units in the whole set.
      capacity: places in a batch.

    Returns:
      Rows int32 and mask bool [..., c, capacity], as `sampling.poisson`.
    """

    def one(key: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda at: training.draw(key, at, units, rate, capacity), numbers)

    # One after another: a draw holds a few bits for each unit of the whole set.
    return jax.lax.map(lambda x: one(*x), (key, sample_rate)) if key.ndim else one(key, sample_rate)


def read(
    examples: Stored,
    key: jax.Array,
    sample_rate: jax.Array,
    numbers: np.ndarray,
    capacity: int,
) -> Chunk:
    """Draws the samples of some steps and reads their examples.

    Args:
      examples: the set.
      key: as in `draw`, as are the next two.
      sample_rate: float32 [] or [m].
      numbers: int32 [c], the steps.
      capacity: places in a batch.

    Returns:
      The batches.
    """
    drawn = draw(key, jnp.asarray(numbers), sample_rate, len(examples), capacity)
    rows, mask = map(np.asarray, drawn)
    images = np.zeros((*mask.shape, *examples.image_shape), np.float32)
    labels = np.zeros(mask.shape, np.int32)
    images[mask], labels[mask] = examples.images(rows[mask])
    return Chunk(numbers, rows, mask, images, labels)


class Stream:
    """Makes the updates of an epoch as `resumable.train_epoch` does, from a set on disk."""

    def __init__(self, examples: Stored) -> None:
        self._examples = examples

    def train_epoch(
        self,
        key: jax.Array,
        state: State,
        epoch: jax.Array,
        hparams: HParams,
        membership: Membership,
        data: Data,
        spec: Spec,
    ) -> tuple[State, History]:
        """Trains one epoch; the arguments are those of `resumable.train_epoch`.

        Args:
          key: one key, or keys [m] for m models, each with samples of its own.
          state: is donated.
          epoch: the epoch's number from 0.
          hparams: the settings that are arrays.
          membership: `everything` of the set.
          data: unused; shapes alone.
          spec: the settings that are compiled in.

        Returns:
          The state after the epoch, and what the epoch saw.

        Raises:
          InputError: for another membership.
        """
        del data
        if membership.rows.size or int(membership.size) != len(self._examples):
            raise InputError(
                "A streamed training sees all examples of its split, but was given a choice of "
                "them; such a training needs config.data.stream='never'."
            )
        first = int(epoch) * spec.epoch_steps
        stop = min(first + spec.epoch_steps, spec.steps)
        sums: list[History] = []
        for chunk in self.chunks(key, hparams, first, stop, spec):
            jax.block_until_ready(sums[-1:])  # else chunks would pile up on the device
            state, seen = _train(key, state, jnp.int32(stop), hparams, chunk, spec)
            sums.append(seen)
        whole = jax.tree.map(lambda *x: jnp.concatenate(x, -1)[..., : spec.epoch_steps], *sums)
        return state, _history(whole, jnp.int32(stop - first))

    def chunks(
        self, key: jax.Array, hparams: HParams, first: int, stop: int, spec: Spec
    ) -> Iterator[Chunk]:
        """Yields the chunks of some steps in order; other threads read the next ones meanwhile.

        Args:
          key: as in `train_epoch`, as are the settings.
          hparams: of which it uses the sample rate.
          first: the first step.
          stop: the step after the last one; the last chunk may go beyond it.
          spec: the settings that are compiled in.
        """
        models = key.shape[0] if key.ndim else 1
        most = chunk_steps(models, spec.capacity, self._examples.image_shape)
        size = -(-spec.epoch_steps // -(-spec.epoch_steps // most))  # all of them alike
        # Plain arrays, so that a thread draws on one device whatever the training's devices are.
        key = jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(key))))
        rate = jnp.asarray(np.asarray(hparams.sample_rate))

        def chunk(start: int) -> Chunk:
            numbers = np.arange(start, start + size, dtype=np.int32)
            return read(self._examples, key, rate, numbers, spec.capacity)

        ahead = grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
        starts = grain.MapDataset.range(first, stop, size)
        yield from starts.map(chunk).to_iter_dataset(ahead)


def _train(
    key: jax.Array, state: State, stop: jax.Array, hparams: HParams, chunk: Chunk, spec: Spec
) -> tuple[State, History]:
    """The updates of one chunk, with its examples where their models are."""
    examples: Any = chunk.images, chunk.labels
    parts: Any = (chunk.rows, chunk.mask), Data(*examples)
    if key.ndim:
        devices = resumable.mesh_of(len(key))
        parts = jax.device_put(parts, NamedSharding(devices, PartitionSpec(devices.axis_names[0])))
    return _train_chunk(key, state, jnp.asarray(chunk.numbers), stop, hparams, *parts, spec=spec)


@functools.partial(jax.jit, static_argnames=("spec",), donate_argnames=("state",))
def _train_chunk(
    key: jax.Array,
    state: State,
    numbers: jax.Array,
    stop: jax.Array,
    hparams: HParams,
    samples: tuple[jax.Array, jax.Array],
    data: Data,
    spec: Spec,
) -> tuple[State, History]:
    """`training.train_on_samples` for one model, or for several as `resumable.train_epoch`."""

    def one(own: Any) -> tuple[State, History]:
        key, state, hparams, samples, data = own
        return training.train_on_samples(key, state, numbers, stop, hparams, samples, data, spec)

    own = (key, state, hparams, samples, data)
    if not key.ndim:
        return one(own)
    devices = resumable.mesh_of(len(key))
    split = PartitionSpec(devices.axis_names[0])
    on_cpu = devices.devices.flat[0].platform == "cpu"
    several = functools.partial(jax.lax.map, one) if on_cpu else jax.vmap(one)
    return jax.shard_map(
        several, mesh=devices, in_specs=(split,), out_specs=split, check_vma=False
    )(own)


@jax.jit
def _history(sums: History, steps: jax.Array) -> History:
    """`training.history_of`, also with a leading axis of models."""
    if sums.loss.ndim == 1:
        return training.history_of(sums, steps)
    return jax.vmap(training.history_of, in_axes=(0, None))(sums, steps)


def evaluate(params: Any, examples: Stored, module: nn.Module) -> Measured:
    """Evaluates one model on a set on disk, as `training.evaluate` does, some examples at a time.

    Args:
      params: the parameters of `module`.
      examples: at least one example.
      module: a Flax linen module from inputs to logits.

    Returns:
      Loss, accuracy and answers by class.
    """
    several = evaluate_many(jax.tree.map(lambda x: x[None], params), examples, module)
    return jax.tree.map(lambda x: x[0], several)


def evaluate_many(params: Any, examples: Stored, module: nn.Module) -> Measured:
    """Does what `evaluate` does for several models at once, in one pass over the set.

    Args:
      params: with a leading axis of m models.
      examples: at least one example.
      module: a Flax linen module from inputs to logits.

    Returns:
      The same with a leading axis of models.
    """
    tallies = [
        jax.device_get(_tally(params, *chunk, module)) for chunk in _evaluation_chunks(examples)
    ]
    losses, counted = zip(*tallies, strict=True)
    loss = np.asarray(losses).sum(axis=0, dtype=np.float64) / len(examples)
    counts = np.asarray(counted).sum(axis=0, dtype=np.int64)
    accuracy = np.trace(counts, axis1=-2, axis2=-1) / len(examples)
    return Measured(loss.astype(np.float32), accuracy.astype(np.float32), counts)


def _evaluation_chunks(examples: Stored) -> Iterator[tuple[Any, Any]]:
    """Data of one shape and which of them are present; the next ones are read meanwhile."""

    def chunk(start: int) -> tuple[Any, Any]:
        size = min(_EVALUATION_CHUNK, len(examples))
        left = min(size, len(examples) - start)
        data: Any = np.zeros((size, *examples.image_shape), np.float32), np.zeros(size, np.int32)
        data[0][:left], data[1][:left] = examples.images(range(start, start + left))
        return Data(*data), np.arange(size) < left

    ahead = grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
    starts = grain.MapDataset.range(0, len(examples), _EVALUATION_CHUNK)
    yield from starts.map(chunk).to_iter_dataset(ahead)


@functools.partial(jax.jit, static_argnames=("module",))
def _tally(
    params: Any, data: Data, present: jax.Array, module: nn.Module
) -> tuple[jax.Array, jax.Array]:
    """The summed loss [m] and the answers by class [m, classes, classes] of the present ones."""

    def one(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = training.evaluate(params, data, module).logits
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, data.targets)
        counts = jnp.zeros((logits.shape[-1],) * 2, jnp.int32)
        counts = counts.at[data.targets, jnp.argmax(logits, axis=-1)].add(present)
        return jnp.sum(jnp.where(present, loss, 0.0)), counts

    return jax.vmap(one)(params)
