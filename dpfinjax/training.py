"""`fit`: the one function that trains every model, as a pure program over device-resident data."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from dpfinjax import augmentation, clipping, dpsgd, sampling
from dpfinjax.augmentation import Augmentation
from dpfinjax.errors import InputError

CLIP_METHODS = ("auto", "ghost", "vmap", "none")
BATCH = "batch"  # the mesh axis over which a model's batches are divided
SCHEDULES = ("constant", "cosine", "linear")
_Fetch = Callable[[jax.Array], tuple[jax.Array, Any]]  # from rows [b] to inputs and targets
_INIT = 0xFFFFFFFF  # fold_in for the first parameters; no step has this number


class HParams(NamedTuple):
    """Settings that are arrays, so that `jax.vmap` over them trains several models in one program.

    Attributes:
      learning_rate: float32 [], the peak of the schedule.
      clip_norm: float32 [], the largest l2 norm of one unit's gradient; unused by "none".
      noise_multiplier: float32 [], noise over clip norm; unused by "none".
      sample_rate: float32 [], the chance of each unit to be in a step's batch.
      batch_size: float32 [], the expected number of units in a batch, by which the sum of
        gradients is divided.
    """

    learning_rate: jax.Array
    clip_norm: jax.Array
    noise_multiplier: jax.Array
    sample_rate: jax.Array
    batch_size: jax.Array


class Membership(NamedTuple):
    """Which units a model may see, as padded rows of the data.

    Attributes:
      rows: int32 [r], numbers of units, which are rows of the examples where each example is a
        unit of its own; entries from `size` on are padding.
      size: int32 [], how many there are.
    """

    rows: jax.Array
    size: jax.Array


class Data(NamedTuple):
    """Examples on the device.

    Attributes:
      inputs: float32 [n, ...].
      targets: int32 [n], classes.
      units: int32 [u, k], the rows of the examples of each unit, filled up with -1; None where
        each example is a unit of its own. A unit is what is sampled and clipped as a whole, and so
        what is protected.
      start: the parameters that training begins from, which must be public; None for random ones.
    """

    inputs: jax.Array
    targets: jax.Array
    units: jax.Array | None = None
    start: Any = None


class Averaged(NamedTuple):
    """Targets of k examples that count as one.

    The mean of their losses has one gradient, which is clipped once. A mean, because its gradient
    does not grow with k: one clip norm fits the unit of one window as well as that of many.

    Attributes:
      targets: int32 [..., k], classes.
      weights: float32 [..., k], of the losses; they sum to 1, and are 0 for what fills up.
    """

    targets: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is fixed when a training program is compiled.

    Attributes:
      module: a Flax linen module from inputs to logits.
      steps: number of updates in all.
      epoch_steps: number of updates a call of `train_epoch` makes, at most.
      capacity: length of a sampled batch, padding included.
      clip_method: one of `CLIP_METHODS`; "none" trains without clipping, noise or privacy.
      microbatch: units that are worked on at a time, each with all of its examples; pieces of a
        batch that hold only padding cost nothing.
      optimizer: "sgd" or "adam".
      momentum: decay of SGD's momentum, in [0, 1).
      nesterov: whether SGD's momentum is Nesterov's.
      schedule: one of `SCHEDULES`, the shape of the learning rate after the warm-up.
      warmup_steps: updates before the learning rate, rising evenly, is at its peak.
      weight_decay: share of the parameters that an update takes off, over the learning rate
        (decoupled, Loshchilov and Hutter 2019), at least 0.
      ema_decay: decay of the average of parameters that is evaluated, in [0, 1); 0 for none.
      clip_rule: one of `clipping.RULES`, how gradients are scaled to the clip norm.
      augmentation: copies of each example that are averaged with it, for images.
      start: the name of the parameters that training begins from, `Data.start`; "" for random ones.
      devices: over how many devices of the mesh axis `BATCH` each batch is divided; more than one
        only within a `jax.shard_map` that has it, see `resumable`.
    """

    module: nn.Module
    steps: int
    epoch_steps: int
    capacity: int
    clip_method: str = "auto"
    microbatch: int = 64
    optimizer: str = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    clip_rule: str = "flat"
    augmentation: Augmentation = augmentation.NO_COPIES
    start: str = ""
    devices: int = 1

    def __post_init__(self) -> None:
        _one_of("clip_method", self.clip_method, CLIP_METHODS)
        _one_of("clip_rule", self.clip_rule, clipping.RULES)
        _one_of("optimizer", self.optimizer, ("sgd", "adam"))
        _one_of("schedule", self.schedule, SCHEDULES)
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be in [0, 1).")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(
                f"weight_decay is {self.weight_decay}; it must be finite and at least 0."
            )
        for name in ("steps", "epoch_steps", "capacity", "microbatch", "devices"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def epochs(self) -> int:
        """How many calls of `train_epoch` make the whole training."""
        return -(-self.steps // self.epoch_steps)


class State(NamedTuple):
    """What a training carries from step to step.

    Attributes:
      params: the parameters that are trained.
      opt_state: the optimizer's state.
      ema: the averaged parameters; None where `ema_decay` is 0.
    """

    params: Any
    opt_state: Any
    ema: Any

    @property
    def result(self) -> Any:
        """The parameters to evaluate and to share."""
        return self.params if self.ema is None else self.ema


class History(NamedTuple):
    """What an epoch saw, not private; each is [] for one epoch, [epochs] for a `fit`.

    Attributes:
      loss: mean loss over the sampled units with a finite gradient, before each update.
      grad_norm: mean l2 norm of these gradients before clipping.
      clipped: share of them whose gradient was scaled down.
      nonfinite: number of them whose gradient was dropped because it was not finite.
      batch_size: mean number of units in a batch.
    """

    loss: jax.Array
    grad_norm: jax.Array
    clipped: jax.Array
    nonfinite: jax.Array
    batch_size: jax.Array


def everything(data: Data) -> Membership:
    """The membership of a model that sees all the data."""
    units = count_units(data)
    return Membership(jnp.arange(units, dtype=jnp.int32), jnp.int32(units))


def count_units(data: Data) -> int:
    """Returns how many units the data have: as many as examples where each is one."""
    return (data.targets if data.units is None else data.units).shape[0]


def take_units(data: Data, chosen: Any) -> Data:
    """Returns some units alone, with no other example beside theirs.

    Args:
      data: the examples.
      chosen: int [c], numbers of units.

    Returns:
      The examples of these units in their order; with units, c k rows, of which those that fill up
      are in no unit.
    """
    if data.units is None:
        return data._replace(inputs=data.inputs[chosen], targets=data.targets[chosen])
    members = data.units[chosen]
    rows = jnp.maximum(members, 0).ravel()
    places = jnp.arange(rows.size, dtype=jnp.int32).reshape(members.shape)
    units = jnp.where(members < 0, -1, places)
    return data._replace(inputs=data.inputs[rows], targets=data.targets[rows], units=units)


def unit_means(values: jax.Array, units: jax.Array | None) -> jax.Array:
    """Returns the mean over each unit's examples.

    Args:
      values: float32 [n], of each example.
      units: int32 [u, k] as in `Data`, or None.

    Returns:
      float32 [u]; the values themselves without units.
    """
    if units is None:
        return values
    return jnp.sum(jnp.where(units < 0, 0.0, values[units]) * _weights(units), axis=1)


def memberships(design: np.ndarray) -> Membership:
    """Returns who sees what as padded rows, with a leading axis of models.

    Args:
      design: bool [m, n], whether a model may see an example.

    Returns:
      Rows int32 [m, r], ascending, r being the most that a model sees and the padding 0, and sizes
      int32 [m].
    """
    sizes = design.sum(axis=1)
    rows = np.zeros((len(design), sizes.max()), np.int32)
    rows[np.arange(sizes.max()) < sizes[:, None]] = np.nonzero(design)[1]
    return Membership(jnp.asarray(rows), jnp.asarray(sizes, jnp.int32))


def fit(
    key: jax.Array, hparams: HParams, membership: Membership, data: Data, spec: Spec
) -> tuple[Any, History]:
    """Trains one model from its first parameters to its last.

    Pure: `jax.jit` it with `spec` static, `jax.vmap` it over any of its arrays. With a
    `clip_method` other than "none" the parameters are the output of `spec.steps`
    Poisson-subsampled Gaussian mechanisms over the units of `membership`, post-processed by the
    optimizer and the average: neighbours differ by one whole unit, with all of its examples.

    Args:
      key: a JAX random key for first parameters, samples and noise.
      hparams: the settings that are arrays.
      membership: which rows of the data this model may see.
      data: the examples.
      spec: the settings that are compiled in.

    Returns:
      The trained parameters (averaged where `ema_decay` is set), and the history by epoch.
    """

    def epoch(state: State, number: jax.Array) -> tuple[State, History]:
        return train_epoch(key, state, number, hparams, membership, data, spec)

    state, history = jax.lax.scan(epoch, init(key, data, spec), jnp.arange(spec.epochs))
    return state.result, history


def init(key: jax.Array, data: Data, spec: Spec) -> State:
    """Returns the state before the first step; of `data` it uses `start` and shapes alone.

    Raises:
      ValueError: if the spec names parameters to start from and the data have none, or the reverse.
    """
    if bool(spec.start) != (data.start is not None):
        raise ValueError(f"spec.start is {spec.start!r}, and data.start must go with it.")
    params = jax.tree.map(jnp.array, data.start)  # a copy, since states are donated
    if data.start is None:
        sample = jnp.zeros((1, *data.inputs.shape[1:]), data.inputs.dtype)
        params = spec.module.init(jax.random.fold_in(key, _INIT), sample)["params"]
    ema = jax.tree.map(jnp.array, params) if spec.ema_decay else None
    return State(params, _optimizer(spec, 1.0).init(params), ema)


def train_epoch(
    key: jax.Array,
    state: State,
    epoch: jax.Array,
    hparams: HParams,
    membership: Membership,
    data: Data,
    spec: Spec,
) -> tuple[State, History]:
    """Makes the updates of one epoch: steps `epoch * epoch_steps` up to the next epoch's first.

    All randomness of a step is `fold_in(key, step)`, so a state and an epoch's number are all that
    is needed to go on with the same bits.

    Args:
      key: the key of the whole training, the same for every epoch.
      state: the state before the epoch.
      epoch: int32 [], the epoch's number from 0; not to be mapped over by `vmap`.
      hparams: the settings that are arrays.
      membership: which rows of the data this model may see.
      data: the examples.
      spec: the settings that are compiled in.

    Returns:
      The state after the epoch, and what the epoch saw.
    """

    def step(state: State, number: jax.Array) -> tuple[State, History]:
        return _step(key, number, state, hparams, membership, data, spec)

    def skip(state: State, number: jax.Array) -> tuple[State, History]:
        del number
        return state, History(*(jnp.zeros(()),) * len(History._fields))

    def step_if_left(state: State, number: jax.Array) -> tuple[State, History]:
        return jax.lax.cond(number < spec.steps, step, skip, state, number)

    numbers = epoch * spec.epoch_steps + jnp.arange(spec.epoch_steps, dtype=jnp.int32)
    state, sums = jax.lax.scan(step_if_left, state, numbers)
    return state, history_of(History(*sums), jnp.sum(numbers < spec.steps))


def draw(
    key: jax.Array, number: jax.Array, units: int, sample_rate: jax.Array, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """Draws the sample of a step over all units, which follows from key and step alone.

    Args:
      key: the key of the whole training.
      number: int32 [], the step.
      units: number of units.
      sample_rate: float32 [], see `HParams`.
      capacity: see `Spec`.

    Returns:
      As `sampling.poisson`.
    """
    return sampling.poisson(_step_keys(key, number)[0], units, sample_rate, capacity)


def train_on_samples(
    key: jax.Array,
    state: State,
    numbers: jax.Array,
    stop: jax.Array,
    hparams: HParams,
    samples: tuple[jax.Array, jax.Array],
    data: Data,
    spec: Spec,
) -> tuple[State, History]:
    """Makes updates of `train_epoch` from the examples of their samples alone.

    Args:
      key: the key of the whole training.
      state: the state before the first of these steps.
      numbers: int32 [c], the steps; not to be mapped over by `vmap`.
      stop: int32 [], the first step that is not to be made; not to be mapped over.
      hparams: the settings that are arrays.
      samples: for each step what `draw` gives, int32 and bool [c, capacity].
      data: for each step the drawn examples, inputs [c, capacity, ...] and targets [c, capacity],
        with anything finite where nothing is drawn; each example is a unit. Where batches are
        divided over k devices, those that this device works on (every k-th, from its number along
        the axis `BATCH`), so ceil(capacity / k) a step.
      spec: the settings that are compiled in.

    Returns:
      The state after them, and sums of what each saw, [c]; zeros where there was no step.
    """
    slots = jnp.arange(spec.capacity, dtype=jnp.int32)

    def step(state: State, at: tuple[jax.Array, Any, Data]) -> tuple[State, History]:
        number, (names, mask), batch = at
        return _update(key, number, state, hparams, slots, mask, batch, spec, names)

    def skip(state: State, at: Any) -> tuple[State, History]:
        del at
        return state, History(*(jnp.zeros(()),) * len(History._fields))

    def step_if_left(state: State, at: tuple[jax.Array, Any, Data]) -> tuple[State, History]:
        return jax.lax.cond(at[0] < stop, step, skip, state, at)

    return jax.lax.scan(step_if_left, state, (numbers, samples, data))


def history_of(sums: History, steps: jax.Array) -> History:
    """Turns sums of what each step of an epoch saw, [c], into what the epoch saw.

    Args:
      sums: from `train_on_samples`, zeros where there was no step.
      steps: int32 [], how many steps there were.
    """
    return _means(History(*map(jnp.sum, sums)), steps)


class Evaluation(NamedTuple):
    """A model's answers to a set of examples.

    Attributes:
      loss: float32 [], the mean cross-entropy in nats.
      accuracy: float32 [], the share of right answers.
      logits: float32 [n, classes].
    """

    loss: jax.Array
    accuracy: jax.Array
    logits: jax.Array


@functools.partial(jax.jit, static_argnames=("module", "chunk"))
def evaluate(params: Any, data: Data, module: nn.Module, chunk: int = 4096) -> Evaluation:
    """Evaluates a model, `chunk` examples at a time.

    Args:
      params: the parameters of `module`.
      data: at least one example.
      module: a Flax linen module from inputs to logits.
      chunk: examples whose activations are in memory at a time.

    Returns:
      Loss, accuracy and logits.
    """

    def answer(example: jax.Array) -> jax.Array:
        return module.apply({"params": params}, example[None])[0]

    logits = jax.lax.map(answer, data.inputs, batch_size=min(chunk, data.targets.shape[0]))
    loss = _cross_entropy(logits, data.targets)
    right = jnp.argmax(logits, axis=-1) == data.targets
    return Evaluation(jnp.mean(loss), jnp.mean(right), logits)


def _step(
    key: jax.Array,
    number: jax.Array,
    state: State,
    hparams: HParams,
    membership: Membership,
    data: Data,
    spec: Spec,
) -> tuple[State, History]:
    """One update, and sums of what it saw."""
    units = membership.rows.shape[0]
    drawn, mask = draw(key, number, units, hparams.sample_rate, spec.capacity)
    # What is drawn is ascending, so padding of the membership never takes a real row's place.
    mask &= drawn < membership.size
    rows = membership.rows[drawn]
    return _update(key, number, state, hparams, rows, mask, data, spec)


def _update(
    key: jax.Array,
    number: jax.Array,
    state: State,
    hparams: HParams,
    rows: jax.Array,
    mask: jax.Array,
    data: Data,
    spec: Spec,
    names: jax.Array | None = None,
) -> tuple[State, History]:
    """The update from a sample: rows of the data, or places in it where it has names.

    With names the data hold nothing but what this device works on.
    """
    _, noise_key, copy_key = _step_keys(key, number)
    fetch = functools.partial(_fetched, data, copy_key, spec, names)
    grad, stats = _gradient(noise_key, state.params, fetch, rows, mask, hparams, spec)
    optimizer = _optimizer(spec, hparams.learning_rate)
    updates, opt_state = optimizer.update(grad, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    sums = History(
        loss=jnp.sum(jnp.where(stats.nonfinite, 0.0, stats.loss)),
        grad_norm=jnp.sum(jnp.where(stats.nonfinite, 0.0, stats.norm)),
        clipped=jnp.sum(stats.clipped, dtype=jnp.float32),
        nonfinite=jnp.sum(stats.nonfinite, dtype=jnp.float32),
        batch_size=jnp.sum(mask, dtype=jnp.float32),
    )
    return State(params, opt_state, _averaged(state.ema, params, number, spec)), sums


def _step_keys(key: jax.Array, number: jax.Array) -> jax.Array:
    """A step's keys for its sample, its noise and its copies."""
    return jax.random.split(jax.random.fold_in(key, number), 3)


def _gradient(
    key: jax.Array,
    params: Any,
    fetch: _Fetch,
    rows: jax.Array,
    mask: jax.Array,
    hparams: HParams,
    spec: Spec,
) -> tuple[Any, clipping.ClipStats]:
    """The gradient that the optimizer sees: private, unless the method is "none"."""
    if spec.clip_method == "none":
        total, stats = _in_pieces(_of_rows(_plain_grad(spec), fetch), spec)(params, rows, mask)
        return jax.tree.map(lambda g: g / hparams.batch_size, total), stats
    clipped_grad = _clipped_grad(params, fetch, hparams.clip_norm, spec)
    return dpsgd.private_grad(
        key,
        _in_pieces(_of_rows(clipped_grad, fetch), spec),
        params,
        rows,
        mask,
        hparams.noise_multiplier,
        hparams.batch_size,
    )


def _in_pieces(clipped_grad: clipping.ClippedGrad, spec: Spec) -> clipping.ClippedGrad:
    """The same function of a batch, a part on each device, and a microbatch of that at a time."""
    pieces = clipping.in_microbatches(clipped_grad, -(-spec.microbatch // spec.devices))
    if spec.devices == 1:
        return pieces
    return clipping.over_devices(pieces, BATCH, spec.devices)


def _of_rows(clipped_grad: clipping.ClippedGrad, fetch: _Fetch) -> clipping.ClippedGrad:
    """The same function of rows of the data, so that a piece fetches no more than it works on."""

    def function(params: Any, rows: jax.Array, mask: jax.Array) -> tuple[Any, clipping.ClipStats]:
        return clipped_grad(params, fetch(rows), mask)

    return clipping.ClippedGrad(function, clipped_grad.sensitivity)


def _fetched(
    data: Data, key: jax.Array, spec: Spec, names: jax.Array | None, rows: jax.Array
) -> tuple[jax.Array, Any]:
    """Inputs and targets of a batch: [b, ...] and [b], or [b, k, ...] and `Averaged` [b, k]."""
    how = spec.augmentation
    # Of a sample's places a device works on every `devices`-th, see `clipping.over_devices`.
    held = rows if names is None else rows // spec.devices
    if data.units is None and not how.copies:
        return data.inputs[held], data.targets[held]
    members = held[:, None] if data.units is None else data.units[held]
    # A unit is filled up with an example of its own: it never meets what another unit holds, where
    # a number that is not finite would count even with a weight of zero.
    filled = jnp.where(members < 0, members[:, :1], members)
    inputs, targets, weights = data.inputs[filled], data.targets[filled], _weights(members)
    if how.copies:
        each, (batch, examples) = 1 + how.copies, filled.shape
        named = rows if names is None else names[rows]
        keys = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(key, row), examples))(named)
        copied = jax.vmap(jax.vmap(lambda k, x: augmentation.with_copies(k, x, how)))(keys, inputs)
        inputs = copied.reshape(batch, examples * each, *inputs.shape[2:])
        targets = jnp.repeat(targets, each, axis=1)
        weights = jnp.repeat(weights / each, each, axis=1)
    return inputs, Averaged(targets, weights)


def _weights(members: jax.Array) -> jax.Array:
    """The share of each example [u, k] in its unit's mean."""
    present = members >= 0
    return present / jnp.maximum(jnp.sum(present, axis=1, keepdims=True), 1).astype(jnp.float32)


def _plain_grad(spec: Spec) -> clipping.ClippedGrad:
    """The sum of gradients as they are, which bounds nothing; its statistics are the losses."""

    def total_loss(params: Any, batch: Any, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = jnp.where(mask, _losses(params, batch, spec.module), 0.0)
        return jnp.sum(losses), losses

    def function(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, clipping.ClipStats]:
        total, losses = jax.grad(total_loss, has_aux=True)(params, batch, mask)
        nothing = jnp.zeros_like(mask)
        return total, clipping.ClipStats(jnp.zeros_like(losses), nothing, nothing, losses)

    return clipping.ClippedGrad(function, math.inf)


def _clipped_grad(
    params: Any, fetch: _Fetch, clip_norm: jax.Array, spec: Spec
) -> clipping.ClippedGrad:
    """The clipped gradient by the method that is asked for; "auto" takes ghost where it can."""

    def example_loss(params: Any, example: Any) -> jax.Array:
        return _losses(params, jax.tree.map(lambda x: x[None], example), spec.module)[0]

    reference = clipping.vmap_clipped_grad(example_loss, clip_norm, rule=spec.clip_rule)
    if spec.clip_method == "vmap":
        return reference
    one = jnp.zeros(1, int)
    grouped = isinstance(jax.eval_shape(fetch, one)[1], Averaged)
    ghost = clipping.ghost_clipped_grad(
        spec.module, _loss, clip_norm, rule=spec.clip_rule, grouped=grouped
    )
    if spec.clip_method == "auto":
        try:
            jax.eval_shape(_of_rows(ghost, fetch), params, one, jnp.ones(1, bool))
        except InputError:
            return reference
    return ghost


def _losses(params: Any, batch: Any, module: nn.Module) -> jax.Array:
    """The loss [b] of each unit of a batch; the module sees examples, whatever their unit."""
    inputs, targets = batch
    if not isinstance(targets, Averaged):
        return _loss(module.apply({"params": params}, inputs), targets)
    logits: Any = module.apply({"params": params}, inputs.reshape(-1, *inputs.shape[2:]))
    return _loss(logits.reshape(*targets.weights.shape, -1), targets)


def _loss(logits: Any, targets: Any) -> jax.Array:
    """The loss of each example, or the mean over the examples of each unit."""
    if not isinstance(targets, Averaged):
        return _cross_entropy(logits, targets)
    return jnp.sum(targets.weights * _cross_entropy(logits, targets.targets), axis=-1)


def _cross_entropy(logits: Any, targets: jax.Array) -> jax.Array:
    """The cross-entropy of each example in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _optimizer(spec: Spec, learning_rate: jax.Array | float) -> optax.GradientTransformation:
    """The optimizer with its schedule; its state's structure depends on `spec` alone."""
    left = max(1, spec.steps - spec.warmup_steps)
    after = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, left),
        "linear": optax.linear_schedule(1.0, 0.0, left),
    }[spec.schedule]
    # The first step is paid for like every other, so it moves too.
    warmup = optax.linear_schedule(1 / (spec.warmup_steps + 1), 1.0, spec.warmup_steps)
    shape = optax.join_schedules([warmup, after], [spec.warmup_steps])

    def schedule(count: jax.Array) -> jax.Array:
        return learning_rate * shape(count)

    direction = optax.identity()
    if spec.optimizer == "adam":
        direction = optax.scale_by_adam()
    elif spec.momentum:
        direction = optax.trace(spec.momentum, nesterov=spec.nesterov)
    decay = optax.add_decayed_weights(spec.weight_decay) if spec.weight_decay else optax.identity()
    return optax.chain(direction, decay, optax.scale_by_learning_rate(schedule))


def _averaged(ema: Any, params: Any, number: jax.Array, spec: Spec) -> Any:
    """The average of parameters, which forgets the first ones faster than later ones."""
    if not spec.ema_decay:
        return None
    decay = jnp.minimum(spec.ema_decay, (number + 1.0) / (number + 11.0))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)


def _means(sums: History, steps: jax.Array) -> History:
    """Sums over an epoch turned into what `History` says; nan where no example was finite."""
    examples = jnp.maximum(sums.batch_size, 1.0)
    finite = sums.batch_size - sums.nonfinite
    finite = jnp.where((finite == 0) & (sums.nonfinite > 0), jnp.nan, jnp.maximum(finite, 1.0))
    return History(
        loss=sums.loss / finite,
        grad_norm=sums.grad_norm / finite,
        clipped=sums.clipped / examples,
        nonfinite=sums.nonfinite,
        batch_size=sums.batch_size / steps,
    )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises InputError unless the value is allowed."""
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
