"""Models from prepared splits to rows of results, pictures and statements."""

import contextlib
import functools
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict
from tqdm import tqdm

from dpfinjax import (
    accounting,
    data,
    memory,
    metrics_log,
    plots,
    pretraining,
    privacy,
    resumable,
    settings,
    streaming,
    sweeps,
    training,
    workdir,
)
from dpfinjax.data import Examples, Facts, Splits, Stored, StoredSplits, units
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.results import Row
from dpfinjax.streaming import Measured
from dpfinjax.training import Data, History, State

_CHUNKS = "unfinished"


class Run(NamedTuple):
    """One model to train.

    Attributes:
      name: its name within the launcher's run, and its folder's.
      cell: its name in tables; runs of one cell differ in their seed alone.
      config: its config.
      plan: what follows from the config and the data, see `settings.plan`.
    """

    name: str
    cell: str
    config: ConfigDict
    plan: settings.Plan


class Outcome(NamedTuple):
    """What a training leaves.

    Attributes:
      name: the run's name.
      row: the model's row of `results.csv`.
      statement: its privacy statement.
      params: its parameters, a pytree.
    """

    name: str
    row: Row
    statement: privacy.Statement
    params: Any


def models_of(config: ConfigDict) -> dict[str, sweeps.Model]:
    """Returns the models of a training's config, checked.

    Args:
      config: as `configs/dpsgd.py` or `configs/baseline.py` makes it.

    Raises:
      InputError: a field is wrong whatever the data are.
    """
    models = sweeps.models_of(config)
    for model in models.values():
        settings.check(model.config)
    return models


def runs_of(config: ConfigDict, facts: Facts) -> list[Run]:
    """Returns the models of a training's config with their plans.

    Args:
      config: as `configs/dpsgd.py` or `configs/baseline.py` makes it.
      facts: what is known of its data.

    Raises:
      InputError: a field is wrong, or does not fit the data.
    """
    return [
        Run(name, model.cell, model.config, settings.plan(model.config, facts))
        for name, model in models_of(config).items()
    ]


def bound(runs: Sequence[Run], facts: Facts) -> dict[str, Any]:
    """Returns what a resumed run must find unchanged, for `workdir.claim`.

    The prepared data set, whose name has the digest of source, settings and code, and the numbers
    that each statement is about.
    """
    numbers = ("noise_multiplier", "clip_norm", "sample_rate", "steps", "examples")
    found: dict[str, Any] = {"data": settings.data_name(facts)}
    for run in runs:
        statement = run.plan.statement.to_json()
        found[run.name] = {name: statement[name] for name in numbers}
        found[run.name] |= {"epoch_steps": run.plan.spec.epoch_steps}
        found[run.name] |= {"capacity": run.plan.spec.capacity, "start": run.plan.spec.start}
        found[run.name] |= {"learning_rate": float(run.plan.hparams.learning_rate)}
    return found


def key_of(run: Run) -> jax.Array:
    """Returns the key of a run's first parameters, samples and noise, see `settings.key`.

    Numbers that a rule set and the config leaves open are part of what it is for: another rule, as
    of a later version, makes another training, which must not have the noise of this one.
    """
    numbers = [float(number) for number in run.plan.hparams]
    return settings.key(run.config, run.plan.data, f"{run.cell} {numbers} {run.plan.spec.start}")


def splits_of(config: ConfigDict, facts: Facts) -> Splits | StoredSplits:
    """Returns the splits of a training's config, in memory or, see `config.data.stream`, on disk.

    Args:
      config: a checked config.
      facts: what is known of its data.

    Raises:
      InputError: where the splits stay on disk, for a unit of privacy with several windows, or if
        one of several processes does not find them.
    """
    examples = {name: sum(counts.values()) for name, counts in facts.examples.items()}
    in_memory = memory.images_fit(examples, config.data.length)
    if config.data.stream == "never" or (config.data.stream == "auto" and in_memory):
        return data.load(config)
    settings.check_window(config, "a training that reads its examples from disk")
    stored = data.stored(config)
    streaming.check_followers(stored.train.place)
    return stored


def training_data(run: Run, examples: Examples | Stored) -> Data:
    """Returns examples where training wants them, in units, and with what it starts from.

    Args:
      run: the model to train.
      examples: the training split; of one on disk, shapes alone.
    """
    if isinstance(examples, Stored):
        return with_start(run, streaming.shapes(examples))
    data, width = with_start(run, _on_device(examples)), run.plan.windows_per_unit
    if width is None:
        return data
    return data._replace(units=jnp.asarray(units.table(examples.unit, width)))


def with_start(run: Run, data: Data) -> Data:
    """Returns data with the parameters that a model's training begins from, see `pretraining`."""
    return data._replace(start=pretraining.start(run.config)) if run.plan.spec.start else data


def train_all(
    runs: Sequence[Run],
    splits: Splits | StoredSplits,
    folder: str | Path,
    models_at_once: int,
    stop_when_lost: bool = True,
) -> Iterator[list[Outcome]]:
    """Trains runs in as few compiled programs as there are different `Spec`s among them.

    Runs of one `Spec` are trained together, as many at a time as fit into memory and no more than
    `models_at_once`, their models divided over all devices. What a chunk has finished is yielded
    before the next one starts; an interrupted call goes on with the chunk it was in, and only
    evaluates the finished ones.

    Args:
      runs: the models.
      splits: the prepared data, in memory or on disk.
      folder: where everything is written: into it for one run, else into a folder a run.
      models_at_once: how many models a program trains at most.
      stop_when_lost: whether to end with an error when no model of a chunk has a finite loss.

    Yields:
      The outcomes of each chunk, in the order of `runs` within one `Spec`.

    Raises:
      InputError: if the loss of every run of a chunk is no longer finite.
    """
    folder = Path(folder)
    if len(runs) == 1:
        yield _train(runs, [folder], folder, splits, stop_when_lost)
        return
    by_spec: dict[training.Spec, list[Run]] = {}
    for run in runs:
        by_spec.setdefault(run.plan.spec, []).append(run)
    for spec, group in by_spec.items():
        train = training_data(group[0], splits.train)
        fits = memory.models_that_fit(train, spec) if len(group) > 1 else 1
        size = min(models_at_once, fits)
        for start in range(0, len(group), size):
            chunk = group[start : start + size]
            # Another number of models at once, on another machine say, is another checkpoint.
            several = folder / _CHUNKS / f"{len(chunk)} from {chunk[0].name}"
            place = several if len(chunk) > 1 else folder / chunk[0].name
            folders = [folder / run.name for run in chunk]
            yield _train(chunk, folders, place, splits, stop_when_lost)


def _train(
    runs: Sequence[Run],
    folders: Sequence[Path],
    place: Path,
    splits: Splits | StoredSplits,
    stop_when_lost: bool,
) -> list[Outcome]:
    """Trains runs of one `Spec` as one program, and evaluates them."""
    train = training_data(runs[0], splits.train)
    seen = splits.train if isinstance(splits.train, Stored) else train
    validation, test = map(_readable, (splits.validation, splits.test))
    spec = runs[0].plan.spec
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if all(resumable.finished_epochs(folder) == spec.epochs for folder in folders):
        fresh = resumable.init(jax.random.key(0), train, spec)
        states = [resumable.restore(folder, fresh) for folder in folders]
        seconds = _seconds(folders[0], spec.steps)
    else:
        state, seconds = _train_together(
            runs, folders, place, (train, seen, validation), stop_when_lost
        )
        states = _apart(state, len(runs))
        if place not in folders:
            for folder, one in zip(folders, states, strict=True):
                resumable.save(folder, spec.epochs, one)
    if place not in folders:
        shutil.rmtree(place, ignore_errors=True)
    return [
        _finish(run, folder, state, seconds / len(runs), (seen, validation, test))
        for run, folder, state in zip(runs, folders, states, strict=True)
    ]


def _train_together(
    runs: Sequence[Run],
    folders: Sequence[Path],
    place: Path,
    data: tuple[Data, Data | Stored, Data | Stored],
    stop_when_lost: bool,
) -> tuple[State, float]:
    """Trains runs of one `Spec` as one program, from the last checkpoint in `place` on."""
    (train, seen, validation), spec = data, runs[0].plan.spec
    key, hparams = _stacked(runs)
    with _Progress(runs, folders, resumable.finished_epochs(place)) as progress:

        def on_epoch(epoch: int, state: State, history: History) -> None:
            together = (state.result, history)
            params, epochs = together if len(runs) > 1 else _with_axis(together)
            progress.write(epoch, epochs, _evaluate_many(params, validation, spec.module))

        everyone: training.Membership = training.everything(train)
        epoch_of: Any = resumable.train_epoch
        followers: Any = None
        if isinstance(seen, Stored):
            everyone, epoch_of = streaming.everything(seen), streaming.Stream(seen).train_epoch
            followers = streaming.take_part, seen.place
        every = runs[0].config.checkpoint_epochs
        state = resumable.fit(
            *(key, hparams, everyone, train, spec, place, on_epoch, every, stop_when_lost),
            epoch_of=epoch_of,
            followers=followers,
        )
        return state, progress.seconds()


def _seconds(folder: Path, step: int) -> float:
    """The seconds that a log has for training up to a step."""
    lines = [line for line in metrics_log.read(folder) if line["split"] == "train"]
    return max((e["values"].get("seconds", 0.0) for e in lines if e["step"] <= step), default=0.0)


class _Progress:
    """Logs of several runs that train together, and one bar; a context manager."""

    def __init__(self, runs: Sequence[Run], folders: Sequence[Path], done: int) -> None:
        """Opens them for a training that has `done` epochs behind it."""
        self._spec = runs[0].plan.spec
        self._spent = [_epsilon_by_epoch(run.plan.statement, self._spec) for run in runs]
        step = min(done * self._spec.epoch_steps, self._spec.steps)
        self._start = time.monotonic() - _seconds(folders[0], step)
        self._stack = contextlib.ExitStack()
        self._logs = [
            self._stack.enter_context(metrics_log.MetricsLog(folder, step)) for folder in folders
        ]
        name = runs[0].name if len(runs) == 1 else f"{len(runs)} models"
        bar = tqdm(total=self._spec.epochs, initial=done, desc=name, unit="epoch")
        self._bar = self._stack.enter_context(bar)

    def write(self, epoch: int, history: History, answers: training.Evaluation | Measured) -> None:
        """Logs an epoch from values with a leading axis of runs."""
        step = min(epoch * self._spec.epoch_steps, self._spec.steps)
        for row, (log, spent) in enumerate(zip(self._logs, self._spent, strict=True)):
            seen = {name: _number(value[row]) for name, value in history._asdict().items()}
            seen |= spent[epoch - 1] | {"seconds": self.seconds()}
            log.write(step, "train", seen)
            measured = {"loss": answers.loss[row], "accuracy": answers.accuracy[row]}
            log.write(step, "validation", {k: _number(v) for k, v in measured.items()})
        shown = {"loss": f"{np.mean(history.loss):.3f}"}
        shown["validation"] = " to ".join(
            f"{bound(answers.accuracy):.3f}" for bound in (np.min, np.max)[: len(self._logs)]
        )
        epsilons = [spent[epoch - 1].get("epsilon", np.inf) for spent in self._spent]
        shown["epsilon"] = f"{max(epsilons):.3g}"
        self._bar.set_postfix(shown)
        self._bar.update()

    def seconds(self) -> float:
        """Seconds since the first start, without the time between a kill and a restart."""
        return time.monotonic() - self._start

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _evaluate_many(
    params: Any, examples: Data | Stored, module: nn.Module
) -> training.Evaluation | Measured:
    """The answers of several models, over their leading axis."""
    if isinstance(examples, Stored):
        return streaming.evaluate_many(params, examples, module)
    return _evaluate_in_memory(params, examples, module)


@functools.partial(jax.jit, static_argnames=("module",))
def _evaluate_in_memory(params: Any, data: Data, module: nn.Module) -> training.Evaluation:
    """`training.evaluate` over a leading axis of models."""
    return jax.vmap(lambda params: training.evaluate(params, data, module))(params)


def _readable(examples: Examples | Stored) -> Data | Stored:
    """Examples on the device, or on disk where they are there."""
    return examples if isinstance(examples, Stored) else _on_device(examples)


def _measured(params: Any, examples: Data | Stored, module: nn.Module) -> Measured:
    """The answers of one model, counted."""
    if isinstance(examples, Stored):
        return streaming.evaluate(params, examples, module)
    answer = training.evaluate(params, examples, module)
    counts = np.zeros((len(PATTERNS), len(PATTERNS)), int)
    np.add.at(counts, (np.asarray(examples.targets), answer.logits.argmax(axis=-1)), 1)
    return Measured(np.asarray(answer.loss), np.asarray(answer.accuracy), counts)


def _finish(
    run: Run, folder: Path, state: State, seconds: float, data: Sequence[Data | Stored]
) -> Outcome:
    """Evaluates a trained model on train, validation and test, and draws it."""
    statement, spec = run.plan.statement, run.plan.spec
    answers = [_measured(state.result, part, spec.module) for part in data]
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.result))
    accuracies = [float(answer.accuracy) if finite else math.nan for answer in answers]
    _draw(run.name, folder, answers[-1].counts)
    row = Row(
        model=run.cell,
        epsilon=statement.epsilon,
        delta=statement.delta,
        noise_multiplier=statement.noise_multiplier,
        clip_norm=statement.clip_norm,
        seed=run.config.seed,
        train_accuracy=accuracies[0],
        validation_accuracy=accuracies[1],
        test_accuracy=accuracies[2],
        seconds=seconds,
        steps=spec.steps,
        batch_size=statement.batch_size,
        published_epsilon=statement.published_epsilon,
        epsilon_without_tuning=statement.tuning and statement.tuning.epsilon_without_tuning,
    )
    return Outcome(run.name, row, statement, state.result)


def _stacked(runs: Sequence[Run]) -> tuple[jax.Array, training.HParams]:
    """Keys and settings of runs, with a leading axis where there are several."""
    keys = [key_of(run) for run in runs]
    hparams = [run.plan.hparams for run in runs]
    if len(runs) == 1:
        return keys[0], hparams[0]
    return jnp.stack(keys), jax.tree.map(lambda *values: jnp.stack(values), *hparams)


def _apart(state: State, models: int) -> list[State]:
    """The states of models that were trained together."""
    if models == 1:
        return [state]
    return [jax.tree.map(lambda x: x[row], state) for row in range(models)]  # noqa: B023


def _with_axis(tree: Any) -> Any:
    """A tree with a leading axis of one model."""
    return jax.tree.map(lambda x: x[None], tree)


def _number(value: Any) -> float | None:
    """A number as JSON knows it."""
    return float(value) if np.isfinite(value) else None


def _on_device(examples: Examples) -> Data:
    """Examples where training wants them."""
    return Data(jnp.asarray(examples.image), jnp.asarray(examples.label))


def _epsilon_by_epoch(statement: privacy.Statement, spec: training.Spec) -> list[dict[str, float]]:
    """A bound on epsilon after each epoch: RDP's, since it is cheap, or the whole run's if less."""
    if np.isinf(statement.epsilon):
        return [{}] * spec.epochs
    if statement.tuning is not None:  # the choice among whole runs has no price by epoch
        return [{"epsilon": statement.epsilon}] * spec.epochs
    steps = np.minimum(np.arange(1, spec.epochs + 1) * spec.epoch_steps, spec.steps)
    delta = statement.delta - statement.overflow_probability
    spent = accounting.epsilon(statement.sample_rate, statement.noise_multiplier, steps, delta)
    return [{"epsilon": value} for value in np.minimum(spent, statement.epsilon).tolist()]


def _draw(name: str, folder: Path, counts: np.ndarray) -> None:
    """The pictures of one model and the tables behind them."""
    pictures = folder / "plots"
    pictures.mkdir(exist_ok=True)
    workdir.write_csv(
        folder / "confusion_matrix.csv",
        [
            {"true": pattern} | dict(zip(PATTERNS, row.tolist(), strict=True))
            for pattern, row in zip(PATTERNS, counts, strict=True)
        ],
    )
    examples, right = counts.sum(axis=1), counts.diagonal()
    workdir.write_csv(
        folder / "accuracy_per_pattern.csv",
        [
            {"pattern": pattern, "examples": n, "right": k, "accuracy": k / n if n else ""}
            for pattern, n, k in zip(PATTERNS, examples.tolist(), right.tolist(), strict=True)
        ],
    )
    plots.training_curves(pictures / "training_curves.png", metrics_log.read(folder), name)
    plots.confusion_matrix(pictures / "confusion_matrix.png", counts, PATTERNS, name)
    plots.accuracy_per_pattern(pictures / "accuracy_per_pattern.png", counts, PATTERNS, name)
