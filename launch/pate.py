"""Trains students by PATE: teachers on disjoint private parts, noisy votes on public images.

Every teacher sees its own part of the private bars, all of them vote on public images, noise is
added to the votes of every class, and a student learns from the labels. The epsilon that may be
published is printed beside the data-dependent one, which may not.

  python -m launch.pate --config=configs/pate.py:quick
  python -m launch.pate --config.data.source=bars.csv.gz --config.target_epsilon=8
  python -m launch.pate --config=configs/pate.py:paper --config.data.source=bars.csv.gz

The same command with the same --workdir goes on where it was stopped. Every setting is a field of
the config file and can be given as --config.<field>=<value>.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from dpfinjax import data, pate, privacy, results, resumable, settings, training, workdir
from dpfinjax.data import Examples, Facts, Splits
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.pate import ensemble, pictures, plan
from dpfinjax.training import Data, Membership
from launch import app

PRIVATE = "private"
"""The folder of what must not leave the house: all that was computed from votes without noise."""

_SPLITS = ("train", "validation", "test")


class Cell(NamedTuple):
    """One student.

    Attributes:
      name: its name within the run, and its folder's.
      config: its config.
      plan: how its labels come about.
      data: the data set, see `settings.data_name`.
    """

    name: str
    config: ConfigDict
    plan: plan.Plan
    data: str

    def key(self, purpose: str) -> jax.Array:
        """Returns a key that no other run has, and no other purpose."""
        return settings.key(self.config, self.data, f"{purpose} of {self.name}")


class Labels(NamedTuple):
    """What a student is told.

    Attributes:
      votes: int32 [q, classes], of its queries. Private.
      rows: int64 [q], its queries: rows of the public split.
      answers: int32 [q], -1 where there is none.
      seconds: how long its teachers trained.
    """

    votes: NDArray[np.int32]
    rows: NDArray[np.int64]
    answers: NDArray[np.int32]
    seconds: float


def train_and_vote(config: ConfigDict, folder: str | Path) -> list[dict[str, Any]]:
    """Trains the teachers and students that a config asks for, and reports them.

    Args:
      config: as `configs/pate.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      The row of each student in `results.csv`.

    Raises:
      InputError: for a config, data or folder that cannot be used.
    """
    models = settings.models_of(config, "pate")
    _check_cells([model.config for model in models.values()])
    for part in ("teacher", "student"):
        _check_training(config, part)
    workdir.check(folder, config)
    splits, facts = data.load(config), data.describe(config)
    _check_public(facts)
    cells = [
        Cell(
            name,
            model.config,
            plan.plan(model.config, len(splits.public.label)),
            settings.data_name(facts),
        )
        for name, model in models.items()
    ]
    parts = {(cell.plan.teachers, cell.config.seed): _parts(cell, splits.train) for cell in cells}
    bound = {cell.name: cell.plan._asdict() for cell in cells}
    folder = workdir.claim(folder, config, bound | {"data": settings.data_name(facts)})

    labels = [
        _labels(cell, parts[cell.plan.teachers, cell.config.seed], splits, folder) for cell in cells
    ]
    statements = {
        cell.name: plan.state(cell.key("release"), cell.config, label.votes, cell.plan, facts)
        for cell, label in zip(cells, labels, strict=True)
    }
    measured = _students(cells, labels, splits, folder)
    rows = [
        _row(cell, label, statements[cell.name], numbers, splits.public)
        for cell, label, numbers in zip(cells, labels, measured, strict=True)
    ]
    workdir.write_csv(folder / "results.csv", rows)
    privacy.write(folder / "privacy.json", statements, named=len(cells) > 1)
    _draw(folder, cells, labels, rows)
    for name, statement in statements.items():
        print(f"{name}: {statement.sentence()}")
    print(f"\n{table(rows)}\n\nWritten to {folder}")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as lines of text, the number that may not be published in brackets."""
    lines = [
        ("model", "teachers", "scale", "answered", "labels", "student", "epsilon", "(private)")
    ]
    for row in rows:
        lines.append(
            (
                row["model"],
                str(row["teachers"]),
                f"{row['scale']:.4g}",
                f"{row['answered']}/{row['queries']}",
                f"{100 * row['label_accuracy']:.1f} %",
                f"{100 * row['test_accuracy']:.1f} %",
                privacy.shown(row["epsilon"]),
                f"({privacy.shown(row['private_epsilon'])})",
            )
        )
    return results.aligned(lines)


def _training(config: ConfigDict, part: str) -> ConfigDict:
    """The config of a teacher's or a student's training."""
    full = config[part].copy_and_resolve_references()
    full.update(seed=config.seed, delta=config.delta)
    return full


def _check_training(config: ConfigDict, part: str) -> None:
    """Raises InputError for values of a training that are wrong whatever the data are."""
    try:
        settings.check(_training(config, part))
    except InputError as error:
        raise InputError(str(error).replace("config.", f"config.{part}.")) from error


def _check_cells(configs: list[ConfigDict]) -> None:
    """Raises InputError where students differ in what they are trained together with."""
    for config in configs:
        for field in ("teacher", "student", "semi_supervised"):
            if config[field] != configs[0][field]:
                raise InputError(
                    f"config.cells changes {field}, which must be the same for all students."
                )


def _check_public(facts: Facts) -> None:
    """Raises InputError where the public split lacks a class, which no student could learn."""
    for pattern, examples in facts.examples["public"].items():
        if not examples:
            raise InputError(
                f"The public split has no example of {pattern}; a larger public share in "
                "config.data.fractions, or more bars, would give it one."
            )


def _parts(cell: Cell, train: Examples) -> Membership:
    """The disjoint parts of a student's teachers."""
    teachers = cell.plan.teachers
    chosen = ensemble.assign(train.image, train.label, teachers, cell.config.seed)
    return ensemble.parts(chosen, teachers)


def _labels(cell: Cell, membership: Membership, splits: Splits, folder: Path) -> Labels:
    """Asks the teachers of a student, who may have been asked before."""
    teachers = _teachers(cell, membership, splits, folder)
    asked = np.random.default_rng(cell.config.seed).permutation(teachers.answers.shape[1])
    rows = asked[: cell.plan.queries]
    votes = np.asarray(pate.votes(jnp.asarray(teachers.answers[:, rows]), len(PATTERNS)))
    answers = plan.answer(cell.key("votes"), votes, cell.plan)
    return Labels(votes, rows, answers, teachers.seconds)


def _teachers(
    cell: Cell, membership: Membership, splits: Splits, folder: Path
) -> ensemble.Teachers:
    """Trains the teachers of a student and asks them all public images, unless it is done."""
    teachers, config = cell.plan.teachers, cell.config
    # No part's own size has a say in how the others are trained.
    hparams, spec = _sized(_training(config, "teacher"), -(-len(splits.train.label) // teachers))
    place = folder / PRIVATE / f"teachers={teachers},seed={config.seed}"
    found = ensemble.ask(
        settings.key(config.teacher, cell.data, f"{teachers} teachers of seed {config.seed}"),
        hparams,
        membership,
        _on_device(splits.train),
        _on_device(splits.public),
        _on_device(splits.test),
        spec,
        place,
        config.models_at_once,
    )
    pictures.teacher_accuracies(_plots(place) / "accuracies.png", found.accuracy, found.sizes)
    return found


def _students(
    cells: list[Cell], labels: list[Labels], splits: Splits, folder: Path
) -> list[dict[str, float]]:
    """Trains all students together; returns the accuracies and seconds of each."""
    config = _training(cells[0].config, "student")
    hparams, spec = _sized(config, len(splits.public.label))
    told, asked, everything = _told(labels, splits.public)
    key, at_once = cells[0].key("students"), cells[0].config.models_at_once
    place = folder / PRIVATE / "students"
    trained = ensemble.train_many(
        key, hparams, told, everything, spec, place / "told", at_once, "students"
    )
    seconds = trained.seconds
    if cells[0].config.semi_supervised:
        everything, told = ensemble.pseudo_labelled(
            trained.state.result, everything, told, asked, spec.module
        )
        trained = ensemble.train_many(
            key, hparams, told, everything, spec, place / "guessed", at_once, "students again"
        )
        seconds += trained.seconds
    measured = []
    for row, cell in enumerate(cells):
        state = jax.tree.map(lambda x: x[row], trained.state)  # noqa: B023
        (folder / cell.name).mkdir(exist_ok=True)
        resumable.save(folder / cell.name, spec.epochs, state)
        found = {"seconds": labels[row].seconds + seconds / len(cells)}
        for name in _SPLITS:
            split = _on_device(getattr(splits, name))
            answer = training.evaluate(state.result, split, spec.module)
            found[f"{name}_accuracy"] = float(answer.accuracy)
        measured.append(found)
    return measured


def _sized(config: ConfigDict, examples: int) -> tuple[training.HParams, training.Spec]:
    """The settings of a training without privacy on so many examples."""
    config.batch_size = min(config.batch_size, examples)
    found = settings.sized(config, examples)
    return found.hparams, found.spec


def _told(labels: list[Labels], public: Examples) -> tuple[Membership, Membership, Data]:
    """What was answered, and all that is public, as rows of one array: a copy for each student.

    Students differ in their labels, and a training's data have one label an image.
    """
    students, images = len(labels), len(public.label)
    targets = np.zeros((students, images), np.int32)
    rows = np.zeros((students, max(len(label.rows) for label in labels)), np.int32)
    sizes = np.zeros(students, np.int32)
    for student, label in enumerate(labels):
        known = label.rows[label.answers >= 0]
        targets[student, known] = label.answers[label.answers >= 0]
        rows[student, : len(known)] = student * images + known
        sizes[student] = len(known)
    everything = np.arange(students * images, dtype=np.int32).reshape(students, images)
    return (
        Membership(jnp.asarray(rows), jnp.asarray(sizes)),
        Membership(jnp.asarray(everything), jnp.full(students, images, jnp.int32)),
        Data(
            jnp.tile(jnp.asarray(public.image), (students, 1, 1, 1)), jnp.asarray(targets.ravel())
        ),
    )


def _row(
    cell: Cell,
    label: Labels,
    statement: plan.Statement,
    measured: Mapping[str, float],
    public: Examples,
) -> dict[str, Any]:
    """One student's row of `results.csv`."""
    known = label.answers >= 0
    right = label.answers[known] == public.label[label.rows[known]]
    claim = statement.to_json()
    return {
        "model": cell.name,
        "epsilon": statement.epsilon,
        "delta": cell.plan.delta,
        "noise_multiplier": claim["noise_multiplier"],
        "clip_norm": claim["clip_norm"],
        "seed": cell.config.seed,
        **{f"{split}_accuracy": measured[f"{split}_accuracy"] for split in _SPLITS},
        "seconds": measured["seconds"],
        "teachers": cell.plan.teachers,
        "mechanism": cell.plan.mechanism,
        "scale": cell.plan.scale,
        "queries": len(label.rows),
        "answered": int(known.sum()),
        "label_accuracy": float(right.mean()) if known.any() else float("nan"),
        "private_epsilon": statement.private_epsilon,
    }


def _draw(folder: Path, cells: list[Cell], labels: list[Labels], rows: list[dict]) -> None:
    """The pictures of a run."""
    for cell, label in zip(cells, labels, strict=True):
        place = _plots(folder / PRIVATE / cell.name)
        curves = {
            "data-independent, may be published": plan.curve(label.votes, cell.plan, False),
            "data-dependent, must not be published": plan.curve(label.votes, cell.plan, True),
        }
        pictures.epsilon_by_query(place / "epsilon.png", curves, cell.name)
        threshold, answered = cell.plan.threshold, label.answers >= 0
        pictures.agreement(place / "agreement.png", label.votes, answered, threshold, cell.name)
    pictures.accuracy_by_epsilon(_plots(folder) / "accuracy_by_epsilon.png", rows)
    pairs = {(row["teachers"], row["scale"]) for row in rows}
    scales, teachers = (len({pair[side] for pair in pairs}) for side in (1, 0))
    if 1 < len(rows) == len(pairs) == scales * teachers:
        pictures.grid(_plots(folder) / "grid.png", rows)


def _plots(folder: Path) -> Path:
    """The folder of pictures in a folder."""
    place = folder / "plots"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _on_device(examples: Examples) -> Data:
    """Examples where training wants them."""
    return Data(jnp.asarray(examples.image), jnp.asarray(examples.label))


if __name__ == "__main__":
    app.run(train_and_vote, "pate")
