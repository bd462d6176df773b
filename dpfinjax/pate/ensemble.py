"""Teachers on disjoint parts of the private data, and students on what they answered.

Both are trained by the same `fit` as every other model, as many at a time as there is room for.
"""

import functools
import hashlib
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import NDArray
from tqdm import tqdm

from dpfinjax import memory, resumable, sealed, training, workdir
from dpfinjax.errors import InputError
from dpfinjax.training import Data, History, HParams, Membership, Spec, State

_SECONDS = "seconds.json"


class Teachers(NamedTuple):
    """What is left of an ensemble once it has been asked.

    Attributes:
      answers: int32 [teachers, q], the class that each gives to each query. Private.
      accuracy: float64 [teachers], the share of right answers on the test split. Private.
      sizes: int64 [teachers], how many examples each was trained on. Private.
      seconds: how long they trained.
    """

    answers: NDArray[np.int32]
    accuracy: NDArray[np.float64]
    sizes: NDArray[np.int64]
    seconds: float


class Trained(NamedTuple):
    """Models that were trained together.

    Attributes:
      state: their last state, with a leading axis of models.
      seconds: how long it took, without what a kill cut short.
    """

    state: State
    seconds: float


def assign(
    images: np.ndarray, labels: np.ndarray, teachers: int, seed: int | bytes
) -> NDArray[np.int64]:
    """Chooses the teacher of each example from the example alone.

    A keyed hash of image and label: adding or removing an example moves no other one to another
    teacher, so it changes the votes of one teacher and no more. Equal examples share a teacher.

    Args:
      images: float32 [n, ...].
      labels: int32 [n].
      teachers: their number, at least 1.
      seed: of the hash: a number of at most 2^32 - 1, or up to 64 bytes; five or more of these are
        the seed of no number.

    Returns:
      The teacher of each example [n]; a teacher without one votes by its first parameters.

    Raises:
      InputError: if there are more teachers than examples.
    """
    if not 1 <= teachers <= len(labels):
        raise InputError(
            f"config.teachers is {teachers}; it must be at least 1, and at most the number of "
            f"training examples, {len(labels)}."
        )
    key = seed if isinstance(seed, bytes) else seed.to_bytes(4, "little")
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(image.tobytes() + label.tobytes(), key=key, digest_size=8).digest(),
                "little",
            )
            % teachers
            for image, label in zip(images, labels, strict=True)
        ]
    )


def parts(chosen: NDArray[np.int64], teachers: int) -> Membership:
    """Turns the choice of `assign` into disjoint memberships, a teacher along the first axis.

    Args:
      chosen: the teacher of each example [n].
      teachers: their number.

    Returns:
      Rows int32 [teachers, r], ascending, padded with 0 to the largest part, and sizes [teachers].
    """
    design = chosen == np.arange(teachers)[:, None]
    assert (design.sum(axis=0) == 1).all(), "an example is in no part, or in several"
    return training.memberships(design)


def rates(hparams: HParams, sizes: jax.Array) -> HParams:
    """Returns the settings of models that see `sizes` examples each, batches as they were.

    Args:
      hparams: the settings of one model, without an axis.
      sizes: int32 [m], the number of examples of each model.

    Returns:
      The settings with an axis of m models: sample rates of 1 where there is no more than a batch.
    """
    count = jnp.maximum(sizes, 1).astype(jnp.float32)
    batch_size = jnp.minimum(hparams.batch_size, count)
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, sizes.shape), hparams)
    return many._replace(batch_size=batch_size, sample_rate=batch_size / count)


def ask(
    key: jax.Array,
    hparams: HParams,
    membership: Membership,
    train: Data,
    queries: Data,
    test: Data,
    spec: Spec,
    folder: str | Path,
    models_at_once: int,
) -> Teachers:
    """Trains teachers and asks them all queries; or reads what they answered before.

    Args:
      key: as `train_many` takes it, used for nothing else.
      hparams: the settings of one model, see `rates`.
      membership: the part of each teacher, from `parts`.
      train: the private examples.
      queries: the public images; their labels are not looked at.
      test: examples that measure the teachers.
      spec: the static settings of one teacher.
      folder: where checkpoints lie until all is answered, and then `answers.npy`, `accuracy.npy`.
      models_at_once: how many teachers a program trains at most.

    Returns:
      Answers and accuracies.

    Raises:
      InputError: when the loss of every teacher of a chunk is no longer finite, or what they
        answered before is not as it was written.
    """
    folder = Path(folder)
    files = [folder / "answers.npy", folder / "accuracy.npy"]
    sizes = np.asarray(membership.size, np.int64)
    if sealed.is_written(folder):
        sealed.check(folder, "without it the same command trains these teachers again")
        answers, accuracy = map(workdir.read_npy, files)
        return Teachers(answers, accuracy, sizes, _seconds(folder))
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{len(sizes)} teachers"
    trained = train_many(key, hparams, membership, train, spec, folder, models_at_once, name)
    params = trained.state.result
    answers = np.asarray(_classes(params, queries, spec.module), np.int32)
    right = np.asarray(_classes(params, test, spec.module)) == np.asarray(test.targets)
    accuracy = right.mean(axis=1)
    workdir.write_npy(files[0], answers)
    workdir.write_npy(files[1], accuracy)
    sealed.write(folder, [_SECONDS, *(file.name for file in files)])
    forget(folder)
    return Teachers(answers, accuracy, sizes, trained.seconds)


def train_many(
    key: jax.Array,
    hparams: HParams,
    membership: Membership,
    data: Data,
    spec: Spec,
    folder: str | Path,
    models_at_once: int,
    name: str,
) -> Trained:
    """Trains a model for each part of a membership, in as few programs as memory allows.

    Args:
      key: a JAX random key, of which model i has `fold_in(key, i)`, whatever it is trained together
        with; or the keys [m] of the models.
      hparams: the settings of one model, see `rates`.
      membership: rows [m, r] and sizes [m].
      data: the examples of all models.
      spec: the static settings of one model.
      folder: where the checkpoints of each chunk lie, in `unfinished/`.
      models_at_once: how many models a program trains at most.
      name: what the progress bar calls them.

    Returns:
      The models, and how long they took.

    Raises:
      InputError: when the loss of every model of a chunk is no longer finite.
    """
    models = len(membership.size)
    size = min(models_at_once, models, memory.models_that_fit(data, spec))
    keys = key if key.ndim else keys_of(key, models)
    many, done = rates(hparams, membership.size), []
    # Below another bar it vanishes when it is full.
    total = -(-models // size) * spec.epochs
    with tqdm(total=total, desc=name, unit="epoch", leave=None) as bar:
        for start in range(0, models, size):
            chunk = slice(start, start + size)
            # Another number of models at once, on another machine say, is another checkpoint.
            place = Path(folder) / "unfinished" / f"{start} to {min(start + size, models)}"
            own, hparams, part = jax.tree.map(lambda x: x[chunk], (keys, many, membership))  # noqa: B023
            done_before, began = resumable.finished_epochs(place), time.monotonic()
            bar.update(done_before)
            show = functools.partial(_show, bar)
            every = max(1, spec.epochs // 10)
            state = resumable.fit(own, hparams, part, data, spec, place, show, every)
            done.append(jax.tree.map(np.asarray, state))
            if done_before < spec.epochs:
                spent = _seconds(folder) + time.monotonic() - began
                workdir.write_json(Path(folder) / _SECONDS, {"seconds": spent})
    state = jax.tree.map(lambda *x: jnp.asarray(np.concatenate(x)), *done)
    return Trained(state, _seconds(folder))


def keys_of(key: jax.Array, models: int) -> jax.Array:
    """Returns the keys [models] of models that share one, see `train_many`."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(models))


def forget(folder: str | Path) -> None:
    """Removes the checkpoints of `train_many`, once what follows from them is written."""
    shutil.rmtree(Path(folder) / "unfinished", ignore_errors=True)


def pseudo_labelled(
    params: Any, data: Data, membership: Membership, asked: Membership, module: nn.Module
) -> tuple[Data, Membership]:
    """Adds each student's own answers to what it was not told: pseudo-labels, Lee (2013).

    The simplest method that needs no augmentation, which would change what a candlestick means; the
    student's own answers are post-processing of the teachers' noisy ones and cost nothing.

    Args:
      params: students with a leading axis of m.
      data: examples of all students; each has rows of its own.
      membership: rows [m, r] that were answered.
      asked: rows [m, q] of all that a student may see, answered or not.
      module: the students' network.

    Returns:
      The data with the students' answers as targets of rows that were not answered, and `asked`.
    """
    targets = np.array(data.targets)
    answered = np.zeros(len(targets), bool)
    for rows, size in zip(np.asarray(membership.rows), np.asarray(membership.size), strict=True):
        answered[rows[:size]] = True
    guesses = _own_classes(params, data, asked.rows, module)
    rows = np.asarray(asked.rows)
    own = np.where(answered[rows], targets[rows], np.asarray(guesses))
    targets[rows] = own
    return data._replace(targets=jnp.asarray(targets)), asked


def _seconds(folder: str | Path) -> float:
    """The seconds that a folder's models have trained."""
    path = Path(folder) / _SECONDS
    try:
        return float(workdir.read_json(path)["seconds"]) if path.exists() else 0.0
    except (KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{path} does not say how many seconds have passed.") from error


def _show(bar: Any, epoch: int, state: State, history: History) -> None:
    """One more epoch on the bar."""
    bar.set_postfix(loss=f"{np.nanmean(history.loss):.3f}")
    bar.update()


@functools.partial(jax.jit, static_argnames=("module",))
def _classes(params: Any, data: Data, module: nn.Module) -> jax.Array:
    """The classes [m, n] that m models give to n examples."""

    def one(params: Any) -> jax.Array:
        return jnp.argmax(training.evaluate(params, data, module).logits, axis=-1)

    return jax.lax.map(one, params)


@functools.partial(jax.jit, static_argnames=("module",))
def _own_classes(params: Any, data: Data, rows: jax.Array, module: nn.Module) -> jax.Array:
    """The classes [m, q] that each of m models gives to rows [m, q] of its own."""

    def one(both: tuple[Any, jax.Array]) -> jax.Array:
        mine = jax.tree.map(lambda x: x[both[1]], data)
        return jnp.argmax(training.evaluate(both[0], mine, module).logits, axis=-1)

    return jax.lax.map(one, (params, rows))
