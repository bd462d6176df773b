"""`fit` epoch by epoch from the host: progress, checkpoints, and the same bits after a kill."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpfinjax import hosts, sealed, training
from dpfinjax.errors import InputError
from dpfinjax.training import Data, History, HParams, Membership, Spec, State

CHECKPOINTS = "checkpoints"
MODELS = "models"  # the first axis of the mesh; the second one is `training.BATCH`

_Tree = TypeVar("_Tree")


@functools.partial(jax.jit, static_argnames=("spec",), donate_argnames=("state",))
def train_epoch(
    key: jax.Array,
    state: State,
    epoch: jax.Array,
    hparams: HParams,
    membership: Membership,
    data: Data,
    spec: Spec,
) -> tuple[State, History]:
    """Compiles `training.train_epoch`, for one model or for several at once.

    With keys [m], the state, the settings and, where its rows are [m, r], the membership have a
    leading axis of m models too, divided over devices as `spread` does it. A device trains its
    models under `vmap`; a CPU trains them one after another within the program, which there keeps
    each core in its own cache and, with a device a core, needs no threads that wait for each other.
    One compilation serves all runs of one `Spec` and m; the state is donated.
    """

    def one(
        key: jax.Array, state: State, hparams: HParams, membership: Membership, data: Data
    ) -> tuple[State, History]:
        return training.train_epoch(key, state, epoch, hparams, membership, data, spec)

    if not key.ndim:
        return one(key, state, hparams, membership, data)
    devices = mesh_of(len(key), spec.devices)
    split, whole = PartitionSpec(MODELS), PartitionSpec()
    shared = membership.rows.ndim == 1

    def several(
        key: jax.Array, state: State, hparams: HParams, membership: Membership, data: Data
    ) -> tuple[State, History]:
        if devices.devices.flat[0].platform != "cpu":
            axes = (0, 0, 0, None if shared else 0, None)
            return jax.vmap(one, in_axes=axes)(key, state, hparams, membership, data)
        if shared:
            return jax.lax.map(
                lambda x: one(x[0], x[1], x[2], membership, data), (key, state, hparams)
            )
        return jax.lax.map(
            lambda x: one(x[0], x[1], x[2], x[3], data), (key, state, hparams, membership)
        )

    return jax.shard_map(
        several,
        mesh=devices,
        in_specs=(split, split, split, whole if shared else split, whole),
        out_specs=split,
        check_vma=False,
    )(key, state, hparams, membership, data)


def mesh_of(models: int, devices_per_model: int = 1) -> Mesh:
    """Returns the devices for so many models: no more than finish as early as all of them.

    Args:
      models: their number.
      devices_per_model: along the mesh's second axis; it divides the number of all devices.

    Returns:
      A mesh of the axes `MODELS` and `training.BATCH`. Of several processes it has devices of the
      first one alone, where these finish as early, or all.
    """
    every, own = np.array(jax.devices()), np.array(jax.local_devices())
    rounds = -(-models * devices_per_model // len(every))
    needed = -(-models // rounds) * devices_per_model
    chosen = own[:needed] if needed <= len(own) else every
    return Mesh(chosen.reshape(-1, devices_per_model), (MODELS, training.BATCH))


def spread(
    key: jax.Array,
    hparams: HParams,
    membership: Membership,
    data: Data,
    state: State,
    devices_per_model: int = 1,
) -> tuple[jax.Array, HParams, Membership, Data, State]:
    """Puts the arguments of `train_epoch` where it wants them.

    Args:
      key: one key, for which everything stays where it is, or keys [m].
      hparams: with a leading axis of models where the keys have one, as has the state.
      membership: with a leading axis too, or shared by all models.
      data: the examples, which every device will hold.
      state: before the training or from a checkpoint.
      devices_per_model: over how many devices each batch will be divided.

    Returns:
      The same, with the last model again until the devices divide the number of models.
    """
    if not key.ndim:
        return key, hparams, membership, data, state
    devices = mesh_of(len(key), devices_per_model)
    split, whole = (NamedSharding(devices, PartitionSpec(*axes)) for axes in ((MODELS,), ()))

    def divided(x: jax.Array) -> jax.Array:
        x = jnp.concatenate([x, jnp.repeat(x[-1:], -len(key) % devices.shape[MODELS], axis=0)])
        return hosts.placed(x, split)

    def copied(x: jax.Array) -> jax.Array:
        return hosts.placed(x, whole)

    shared = membership.rows.ndim == 1
    return (
        divided(key),
        jax.tree.map(divided, hparams),
        jax.tree.map(copied if shared else divided, membership),
        jax.tree.map(copied, data),
        jax.tree.map(divided, state),
    )


@functools.partial(jax.jit, static_argnames="spec")
def init(key: jax.Array, data: Data, spec: Spec) -> State:
    """Returns `training.init`'s state, with a leading axis of models where the keys have one."""
    if not key.ndim:
        return training.init(key, data, spec)
    return jax.vmap(lambda key: training.init(key, data, spec))(key)


def fit(
    key: jax.Array,
    hparams: HParams,
    membership: Membership,
    data: Data,
    spec: Spec,
    folder: str | Path,
    on_epoch: Callable[[int, State, History], None],
    checkpoint_epochs: int = 1,
    stop_when_lost: bool = True,
    epoch_of: Callable[..., tuple[State, History]] = train_epoch,
    followers: tuple[Any, ...] | None = None,
) -> State:
    """Trains as `training.fit` does, from the last checkpoint in `folder` if there is one.

    A run that was killed and is called again ends with the parameters, bit for bit, that it would
    have had: a state and its epoch are all that randomness depends on.

    Args:
      key: as in `training.fit`, as are the next four; with keys [m] it trains m models at once, see
        `train_epoch`.
      hparams: the settings that are arrays.
      membership: which rows of the data the model may see.
      data: the examples.
      spec: the settings that are compiled in.
      folder: where `checkpoints/` is or will be.
      on_epoch: called after each epoch with the number of finished epochs, the state and what the
        epoch saw; it may not keep the state, which is donated to the next epoch.
      checkpoint_epochs: epochs from one checkpoint to the next; the last epoch always makes one.
      stop_when_lost: whether to raise when no model's loss is finite, or to train on regardless.
      epoch_of: makes the updates of an epoch, as `train_epoch` does; see `streaming`.
      followers: a function for `hosts.call` that does what `take_part` does with such an
        `epoch_of`, and its further settings; None for `take_part` itself.

    Returns:
      The state after the last epoch.

    Raises:
      InputError: when the loss of the model, or of every one of several, is no longer finite and
        `stop_when_lost` is set; when the last checkpoint is not as it was written.
    """
    spec = dataclasses.replace(spec, devices=hosts.devices_per_model())
    state = init(key, data, spec)
    with _manager(folder) as manager:
        first = _last(manager)
        if first:
            state = _restored(manager, first, state)
        arguments = key, hparams, membership, data, state
        if _together(key, spec):
            follower, *more = followers or (take_part,)
            hosts.call(follower, arguments, spec, first, *more)
        for epoch, state, history in _epochs(arguments, spec, first, epoch_of):
            if stop_when_lost and not np.isfinite(history.loss).any():
                raise InputError(
                    f"The loss is not finite in epoch {epoch + 1} of {spec.epochs}; a smaller "
                    "config.learning_rate keeps it finite."
                )
            on_epoch(epoch + 1, state, history)
            if (epoch + 1) % checkpoint_epochs == 0 or epoch + 1 == spec.epochs:
                _save(manager, epoch + 1, state)
    return state


def _epochs(
    arguments: tuple[jax.Array, HParams, Membership, Data, State],
    spec: Spec,
    first: int,
    epoch_of: Callable[..., tuple[State, History]],
) -> Iterator[tuple[int, State, History]]:
    """Trains on, in each process that has a part in it; yields after each epoch."""
    models, numbers = arguments[0].shape, range(first, spec.epochs)
    steps = hosts.in_step(numbers) if _together(arguments[0], spec) else numbers
    if not models and spec.devices > 1:
        arguments = _one_of_one(*arguments)
    key, hparams, membership, data, state = spread(*arguments, spec.devices)
    for epoch in steps:
        with hosts.lost_told():
            state, history = epoch_of(
                key, state, np.int32(epoch), hparams, membership, data, spec=spec
            )
        found = hosts.gathered((state, history))
        yield epoch, *(_first(models, found) if key.ndim else found)


def _together(key: jax.Array, spec: Spec) -> bool:
    """Whether the models of these keys are divided over several processes."""
    many = key.ndim > 0 or spec.devices > 1
    return many and hosts.spans(mesh_of(key.size, spec.devices))


def _one_of_one(
    key: jax.Array, hparams: HParams, membership: Membership, data: Data, state: State
) -> tuple[jax.Array, HParams, Membership, Data, State]:
    """The arguments of one model as those of a sweep with one cell."""
    key, hparams, state = jax.tree.map(lambda x: jnp.asarray(x)[None], (key, hparams, state))
    return key, hparams, membership, data, state


def take_part(
    arguments: tuple[jax.Array, HParams, Membership, Data, State],
    spec: Spec,
    first: int,
    epoch_of: Callable[..., tuple[State, History]] = train_epoch,
) -> None:
    """Is a follower's part in `fit`, for `hosts.call`.

    Args:
      arguments: the leader's, before they are spread.
      spec: the settings that are compiled in.
      first: how many epochs are done.
      epoch_of: as in `fit`.
    """
    for _ in _epochs(arguments, spec, first, epoch_of):
        pass


def finished_epochs(folder: str | Path) -> int:
    """Returns how many epochs the last checkpoint in `folder` has behind it."""
    if not (Path(folder) / CHECKPOINTS).exists():
        return 0
    with _manager(folder) as manager:
        return _last(manager)


def restore(folder: str | Path, like: State) -> State:
    """Returns the state of the last checkpoint in `folder`.

    Args:
      folder: where `checkpoints/` is.
      like: a state of the same structure and shapes, such as `init` returns.

    Raises:
      InputError: if there is none, or its files are not those that were written.
    """
    with _manager(folder) as manager:
        if not _last(manager):
            raise InputError(
                f"{folder} holds no checkpoint; it must be the folder of a trained model."
            )
        return _restored(manager, _last(manager), like)


def save(folder: str | Path, epochs: int, state: State) -> None:
    """Writes a checkpoint of a training that has `epochs` behind it, unless it is there."""
    with _manager(folder) as manager:
        if _last(manager) != epochs:
            _save(manager, epochs, state)


def _first(models: tuple[int, ...], tree: _Tree) -> _Tree:
    """What `spread` was given: of several models so many, of one itself."""
    return jax.tree.map(lambda x: x[: models[0]] if models else x[0], tree)


def _save(manager: ocp.CheckpointManager, epochs: int, state: State) -> None:
    """Writes a checkpoint and, when it is whole, the digests by which damage is noticed."""
    if epochs in manager.all_steps():
        manager.delete(epochs)  # a kill came before its digests
    with _logging_nothing():  # what a disk refuses is raised, and logged with a traceback too
        manager.save(epochs, args=ocp.args.StandardSave(jax.device_get(state)))
    sealed.write(_folder(manager, epochs))


@contextlib.contextmanager
def _logging_nothing() -> Iterator[None]:
    """Silences Orbax, which logs by absl."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _last(manager: ocp.CheckpointManager) -> int:
    """The epochs behind the last checkpoint that is whole, 0 where there is none."""
    whole = (n for n in manager.all_steps() if sealed.is_written(_folder(manager, n)))
    return max(whole, default=0)


def _restored(manager: ocp.CheckpointManager, epochs: int, like: State) -> State:
    """A checkpoint, as uncommitted arrays like a fresh run's: they share its program."""
    # Before TensorStore reads them: its threads go on complaining after it has refused a file.
    sealed.check(
        _folder(manager, epochs), "without it the same command goes on from an earlier checkpoint"
    )
    saved = manager.restore(epochs, args=ocp.args.StandardRestore(like))
    return jax.tree.map(lambda x: jnp.array(np.asarray(x)), saved)


def _folder(manager: ocp.CheckpointManager, epochs: int) -> Path:
    """Where a checkpoint lies."""
    return Path(manager.directory) / str(epochs)


def _manager(folder: str | Path) -> ocp.CheckpointManager:
    """Orbax's keeper of the last two checkpoints; see `_last` for those that count."""
    path = (Path(folder) / CHECKPOINTS).resolve()
    path.mkdir(parents=True, exist_ok=True)
    # Of several processes this one alone writes, so Orbax must not wait for the others.
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        create=False,
        multiprocessing_options=hosts.alone(),
        enable_async_checkpointing=False,  # its threads would wait minutes for a disk that refuses
    )
    return ocp.CheckpointManager(path, options=options)
