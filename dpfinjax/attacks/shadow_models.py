"""Shadow models: many models trained as the one under attack, each on a random half of a pool."""

import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dpfinjax import (
    accounting,
    entropy,
    experiment,
    memory,
    resumable,
    sealed,
    settings,
    workdir,
)
from dpfinjax.attacks import answers, checks, design
from dpfinjax.attacks.answers import Answers
from dpfinjax.attacks.checks import BoolArray
from dpfinjax.errors import InputError
from dpfinjax.training import Data, History, HParams, Spec, State

_CHUNK = "unfinished"
_FACTS = "shadow_models.json"
_ARRAYS = ("membership", "logits", "grad_norm")
OnEpoch = Callable[[int, State, History], None]
_OVERFLOW = 1e-11  # the chance that one of a model's batches does not fit


class Shadows(NamedTuple):
    """Shadow models and what they answer to the pool.

    Attributes:
        answers: Of each model to each example: logits [m, e, classes], gradient norms [m, e].
        membership: bool [m, e], whether a model was trained on an example.
        seconds: What training them took, compilation and earlier parts of a resumed run included.
    """

    answers: Answers
    membership: BoolArray
    seconds: float


def hparams_of(target: settings.Plan, examples: np.ndarray) -> HParams:
    """Gives the settings of shadow models: the target's, for another number of examples.

    Learning rate, clip norm, noise multiplier and sample rate are the target's own, so under the
    same number of steps epsilon is the same too. The expected batch size, by which gradients are
    divided, is the sample rate times the number of examples, for the target as for a shadow model;
    it is the only number that differs, and only where the number of examples does.

    Args:
        target: The target's plan.
        examples: int [m], how many examples each model sees.

    Returns:
        The settings, each with a leading axis of m.
    """
    share = np.asarray(examples, np.float64) / target.statement.examples
    alike = jax.tree.map(lambda x: jnp.broadcast_to(x, share.shape), target.hparams)
    batch_size = jnp.asarray(target.statement.batch_size * share, jnp.float32)
    return alike._replace(batch_size=batch_size)


def spec_of(target: settings.Plan, examples: int) -> Spec:
    """Gives the static settings of shadow models, which are the target's.

    Only where a model sees more examples than the target did may the capacity of a batch have to
    be larger; that adds padding and changes nothing else.

    Args:
        target: The target's plan.
        examples: How many examples the largest model sees.

    Returns:
        The settings.
    """
    same = target.spec
    if examples <= target.statement.examples:
        return same
    rate = target.statement.sample_rate
    needed = int(accounting.capacity(examples, rate, same.steps, _OVERFLOW))
    return dataclasses.replace(same, capacity=max(same.capacity, 8 * math.ceil(needed / 8)))


def keys_of(run: experiment.Run, models: int) -> jax.Array:
    """Gives each shadow model a key that neither the target nor another model has.

    A shadow model that shared the target's noise or first parameters would tell more of it than
    any attacker can know.

    Args:
        run: The target.
        models: Number of shadow models m.

    Returns:
        Keys [m].
    """
    key = settings.key(
        entropy.reproducible(run.config), run.plan.data, f"shadow models of {run.name}"
    )
    return jax.random.split(key, models)


def train(
    key: jax.Array,
    run: experiment.Run,
    membership: BoolArray,
    pool: Data,
    folder: str | Path,
    models_at_once: int,
) -> Shadows:
    """Trains shadow models as their target was trained, and asks each about the whole pool.

    What is the same as the target's: module, optimizer, schedule, number of steps, clipping, noise
    multiplier, sample rate, and so epsilon; the program is that of `resumable.fit` too. What is
    not: key, examples, and where there are more or fewer of these, the expected batch size in
    proportion, see `hparams_of`.

    Models are trained together, as many at a time as fit into memory and no more than
    `models_at_once`, divided over all devices. A call that is interrupted goes on where it was, to
    the same bits. `membership.npy`, `logits.npy` and `grad_norm.npy` appear when all is done.

    Args:
        key: Keys [m], see `keys_of`.
        run: The target.
        membership: bool [m, e], whether a model is trained on an example.
        pool: The e examples.
        folder: Where the arrays are written; it belongs to this target's config and this design.
        models_at_once: How many models a program trains at most, at least 1.

    Returns:
        The models' answers.

    Raises:
        InputError: There are fewer than 2 models, an example is in all or in none of them, shapes
            do not fit, the folder has shadow models of another config or design, or every model of
            a program diverged.
    """
    check(membership, len(pool.targets))
    sizes = membership.sum(axis=1)
    spec, hparams = spec_of(run.plan, int(sizes.max())), hparams_of(run.plan, sizes)
    everyone = key, hparams, design.rows(membership)

    def size() -> int:
        return min(models_at_once, memory.models_that_fit(pool, spec))

    def train_chunk(chunk: slice, place: Path, on_epoch: OnEpoch) -> Any:
        keys, own, rows = jax.tree.map(lambda x: x[chunk], everyone)
        every = run.config.checkpoint_epochs
        return resumable.fit(keys, own, rows, pool, spec, place, on_epoch, every).result

    folder = workdir.claim(folder, run.config, _bound(run, spec) | bound_to(membership))
    return in_chunks(run.name, membership, pool, spec, folder, size, train_chunk)


def in_chunks(
    name: str,
    membership: BoolArray,
    pool: Data,
    spec: Spec,
    folder: Path,
    size: Callable[[], int],
    train_chunk: Callable[[slice, Path, OnEpoch], Any],
) -> Shadows:
    """Trains and asks shadow models of any kind a chunk at a time, and writes what they answer.

    Args:
        name: The target's.
        membership: bool [m, e], whether a model is trained on an example.
        pool: The e examples.
        spec: The static settings of a model that is asked.
        folder: Where the arrays are written, claimed for these very models.
        size: Says how many models are in a chunk; asked where any are still to be trained.
        train_chunk: Trains the models of a slice, goes on from what it left in the folder that it
            is given, and returns their parameters with a leading axis.

    Returns:
        The models' answers.
    """
    if sealed.is_written(folder):
        return load(folder)
    progress = _Progress.read(folder, name, len(membership), spec)
    with progress.bar:
        for chunk in _chunks(progress.models, len(membership), size):
            place = folder / _CHUNK / f"{chunk.start}-{chunk.stop}"
            progress.add(_ask(train_chunk(chunk, place, progress.on_epoch), pool, spec))
            shutil.rmtree(place)
    return _write(folder, membership, progress)


def load(folder: str | Path) -> Shadows:
    """Reads the shadow models that `train` has finished.

    Args:
        folder: Its folder.

    Returns:
        The models' answers.

    Raises:
        InputError: The folder does not hold them as they were written.
    """
    path = Path(folder)
    sealed.check(path, "without it the same command trains these shadow models again")
    membership, logits, norms = (workdir.read_npy(path / f"{name}.npy") for name in _ARRAYS)
    seconds = float(workdir.read_json(path / _FACTS)["seconds"])
    return Shadows(Answers(logits, norms), membership, seconds)


def check(membership: BoolArray, examples: int) -> None:
    """Asks for a design that attacks can use.

    Args:
        membership: bool [m, e], whether a model is trained on an example.
        examples: How many there are.

    Raises:
        InputError: There are fewer than 2 models, an example is in all or in none of them, or the
            shape is another.
    """
    # The three arrays of an attack are checked together; here the scores are still to come.
    nothing = np.zeros(np.shape(membership))
    checks.shadow_scores(np.zeros(examples), nothing, membership, offline=False)


def bound_to(membership: BoolArray) -> dict[str, object]:
    """Returns what of a design shadow models are bound to, for `workdir.claim`."""
    digest = hashlib.sha256(np.packbits(membership).tobytes()).hexdigest()
    return {"models": len(membership), "membership": digest}


def _bound(run: experiment.Run, spec: Spec) -> dict[str, object]:
    """What shadow models that are resumed or read must have been trained with."""
    statement = run.plan.statement.to_json()
    names = ("noise_multiplier", "clip_norm", "sample_rate", "steps", "examples")
    return {name: statement[name] for name in names} | {
        "epoch_steps": spec.epoch_steps,
        "capacity": spec.capacity,
        "start": spec.start,
        "learning_rate": float(run.plan.hparams.learning_rate),
    }


def _chunks(start: int, stop: int, size: Callable[[], int]) -> Iterator[slice]:
    """Slices of the models that are still to be trained."""
    if start < stop:
        step = size()
        for first in range(start, stop, step):
            yield slice(first, min(first + step, stop))


def _ask(params: Any, pool: Data, spec: Spec) -> Answers:
    """The answers of models with a leading axis, one after another."""
    params = jax.tree.map(np.asarray, params)
    models = len(jax.tree.leaves(params)[0])
    each = [
        answers.answer(jax.tree.map(lambda x, row=row: x[row], params), pool, spec.module)
        for row in range(models)
    ]
    return Answers(*map(np.stack, zip(*each, strict=True)))


def _write(folder: Path, membership: BoolArray, progress: "_Progress") -> Shadows:
    """Puts the finished arrays in their place, the file that says so last."""
    shadows = Shadows(progress.answers, membership, progress.seconds)
    workdir.write_npy(folder / "membership.npy", membership)
    workdir.write_npy(folder / "logits.npy", shadows.answers.logits)
    workdir.write_npy(folder / "grad_norm.npy", shadows.answers.grad_norm)
    sizes = membership.sum(axis=1)
    content = {
        "models": len(membership),
        "examples_least": int(sizes.min()),
        "examples_most": int(sizes.max()),
        "seconds": shadows.seconds,
    }
    workdir.write_json(folder / _FACTS, content)
    sealed.write(folder, [_FACTS, *(f"{name}.npy" for name in _ARRAYS)])
    shutil.rmtree(folder / _CHUNK, ignore_errors=True)
    return shadows


class _Progress:
    """The answers of the models that are done, kept on disk after each chunk, and a bar."""

    def __init__(
        self,
        folder: Path,
        name: str,
        done: list[Answers],
        seconds: float,
        models: int,
        spec: Spec,
    ) -> None:
        """Goes on after what is done."""
        self._folder, self._done, self._spec = folder, done, spec
        self._start = time.monotonic() - seconds
        self._epoch = 0
        self.bar = tqdm(
            total=models, initial=self.models, desc=f"shadow models of {name}", unit="model"
        )

    @classmethod
    def read(cls, folder: Path, name: str, models: int, spec: Spec) -> "_Progress":
        """What an earlier call left in a folder, or nothing."""
        path = folder / _CHUNK / "answers.npz"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            return cls(path, name, [], 0.0, models, spec)
        try:
            with np.load(path, allow_pickle=False) as saved:
                done = Answers(saved["logits"], saved["grad_norm"])
                return cls(path, name, [done], float(saved["seconds"]), models, spec)
        except Exception as error:  # a damaged archive may raise anything
            raise InputError(
                f"{path} cannot be read ({type(error).__name__}); without it the same command "
                "trains these shadow models again."
            ) from error

    @property
    def models(self) -> int:
        """How many models are done."""
        return sum(len(part.grad_norm) for part in self._done)

    @property
    def answers(self) -> Answers:
        """Their answers."""
        return Answers(*map(np.concatenate, zip(*self._done, strict=True)))

    @property
    def seconds(self) -> float:
        """Seconds since the first start, without the time between a kill and a restart."""
        return time.monotonic() - self._start

    def on_epoch(self, epoch: int, state: State, history: History) -> None:
        """Shows how far the models in training are."""
        del state
        shown = {"epoch": f"{epoch}/{self._spec.epochs}", "loss": f"{np.mean(history.loss):.3f}"}
        self.bar.set_postfix(shown)

    def add(self, answers: Answers) -> None:
        """Keeps the answers of a chunk, with those before it, in one file."""
        self._done.append(answers)
        with workdir.replacing(self._folder) as temporary:
            np.savez(temporary, **self.answers._asdict(), seconds=self.seconds)
        self.bar.update(len(answers.grad_norm))
