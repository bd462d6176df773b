"""`fit` epoch by epoch from the host: progress, checkpoints, and the same bits after a kill."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpfinjax import training
from dpfinjax.errors import InputError
from dpfinjax.training import Data, History, HParams, Membership, Spec, State

CHECKPOINTS = "checkpoints"
_MODELS = "models"  # the axis of the mesh

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
    devices = mesh_of(len(key))
    split, whole = PartitionSpec(_MODELS), PartitionSpec()
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


def mesh_of(models: int) -> Mesh:
    """Returns the devices for so many models: no more than finish as early as all of them."""
    devices = jax.devices()
    rounds = -(-models // len(devices))
    return Mesh(np.array(devices[: -(-models // rounds)]), (_MODELS,))


def spread(
    key: jax.Array, hparams: HParams, membership: Membership, data: Data, state: State
) -> tuple[jax.Array, HParams, Membership, Data, State]:
    """Puts the arguments of `train_epoch` where it wants them.

    Args:
      key: one key, for which everything stays where it is, or keys [m].
      hparams: with a leading axis of models where the keys have one, as has the state.
      membership: with a leading axis too, or shared by all models.
      data: the examples, which every device will hold.
      state: before the training or from a checkpoint.

    Returns:
      The same, with the last model again until the devices divide the number of models.
    """
    if not key.ndim:
        return key, hparams, membership, data, state
    devices = mesh_of(len(key))
    split, whole = (NamedSharding(devices, PartitionSpec(*axes)) for axes in ((_MODELS,), ()))

    def divided(x: jax.Array) -> jax.Array:
        x = jnp.concatenate([x, jnp.repeat(x[-1:], -len(key) % devices.size, axis=0)])
        return jax.device_put(x, split)

    shared = membership.rows.ndim == 1
    return (
        divided(key),
        jax.tree.map(divided, hparams),
        jax.device_put(membership, whole) if shared else jax.tree.map(divided, membership),
        jax.device_put(data, whole),
        jax.tree.map(divided, state),
    )


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

    Returns:
      The state after the last epoch.

    Raises:
      InputError: when the loss of the model, or of every one of several, is no longer finite and
        `stop_when_lost` is set.
    """
    state = init(key, data, spec)
    with _manager(folder) as manager:
        first = manager.latest_step() or 0
        if first:
            state = _restored(manager, state)
        models = key.shape
        key, hparams, membership, data, state = spread(key, hparams, membership, data, state)
        for epoch in range(first, spec.epochs):
            state, history = epoch_of(
                key, state, jnp.int32(epoch), hparams, membership, data, spec=spec
            )
            if stop_when_lost and not np.isfinite(history.loss).any():
                raise InputError(
                    f"The loss is not finite in epoch {epoch + 1} of {spec.epochs}; a smaller "
                    "config.learning_rate keeps it finite."
                )
            on_epoch(epoch + 1, _first(models, state), _first(models, history))
            if (epoch + 1) % checkpoint_epochs == 0 or epoch + 1 == spec.epochs:
                saved = _on_host(_first(models, state))
                manager.save(epoch + 1, args=ocp.args.StandardSave(saved))
    return _first(models, state)


def finished_epochs(folder: str | Path) -> int:
    """Returns how many epochs the last checkpoint in `folder` has behind it."""
    if not (Path(folder) / CHECKPOINTS).exists():
        return 0
    with _manager(folder) as manager:
        return manager.latest_step() or 0


def restore(folder: str | Path, like: State) -> State:
    """Returns the state of the last checkpoint in `folder`.

    Args:
      folder: where `checkpoints/` is.
      like: a state of the same structure and shapes, such as `init` returns.

    Raises:
      InputError: if there is none.
    """
    if not finished_epochs(folder):
        raise InputError(f"{folder} holds no checkpoint; it must be the folder of a trained model.")
    with _manager(folder) as manager:
        return _restored(manager, like)


def save(folder: str | Path, epochs: int, state: State) -> None:
    """Writes a checkpoint of a training that has `epochs` behind it, unless it is there."""
    with _manager(folder) as manager:
        if manager.latest_step() != epochs:
            manager.save(epochs, args=ocp.args.StandardSave(_on_host(state)))


def _restored(manager: ocp.CheckpointManager, like: State) -> State:
    """The last checkpoint, as uncommitted arrays like a fresh run's: they share its program."""
    saved = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(like))
    return jax.tree.map(lambda x: jnp.array(np.asarray(x)), saved)


def _first(models: tuple[int, ...], tree: _Tree) -> _Tree:
    """What `spread` was given: of several models, so many."""
    return jax.tree.map(lambda x: x[: models[0]], tree) if models else tree


def _on_host(state: State) -> State:
    """A copy: on a CPU the saver would otherwise read memory that is donated meanwhile."""
    return jax.tree.map(lambda x: np.array(x, copy=True), state)


def _manager(folder: str | Path) -> ocp.CheckpointManager:
    """Orbax's keeper of the last two checkpoints; one that is not whole does not count."""
    path = (Path(folder) / CHECKPOINTS).resolve()
    return ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(max_to_keep=2))
