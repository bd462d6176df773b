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
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dpfinjax import (
    data,
    entropy,
    fields,
    models,
    privacy,
    release,
    results,
    resumable,
    settings,
    sweeps,
    training,
    workdir,
)
from dpfinjax.data import Examples, Facts, Splits
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.pate import pictures, plan, students
from dpfinjax.pate.students import Keys, Labels, Student
from dpfinjax.training import Membership
from launch import app

PRIVATE = "private"
"""The folder of what must not leave the house: all that was computed from votes without noise."""

_SPLITS = ("train", "validation", "test")


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
    models = sweeps.models_of(config, "pate")
    check_cells([model.config for model in models.values()])
    settings.check_window(config, "launch.pate")
    for part in ("teacher", "student"):
        check_training(config, part)
    workdir.check(folder, config)
    splits, facts = data.load(config), data.describe(config)
    _check_public(facts)
    settled = entropy.settled(config, folder)
    cells = students.students_of(settled, facts)
    keys = students.keys_of(cells)
    parts = {
        (cell.plan.teachers, cell.config.seed): students.parts(cell, key.partition, splits.train)
        for cell, key in zip(cells, keys, strict=True)
    }
    folder = workdir.claim(folder, config, students.bound(cells))
    entropy.keep(settled, folder)

    labels = [
        _labels(cell, key, parts[cell.plan.teachers, cell.config.seed], splits, folder)
        for cell, key in zip(cells, keys, strict=True)
    ]
    statements = {
        cell.name: plan.state(cell.key("release"), cell.config, label.votes, cell.plan, facts)
        for cell, label in zip(cells, labels, strict=True)
    }
    trained, measured = _students(cells, keys, labels, splits, folder)
    rows = [
        _row(cell, label, statements[cell.name], numbers, splits.public)
        for cell, label, numbers in zip(cells, labels, measured, strict=True)
    ]
    workdir.write_csv(folder / "results.csv", rows)
    privacy.write(folder / "privacy.json", statements, named=len(cells) > 1)
    for cell, model in zip(cells, trained, strict=True):
        _release(folder / cell.name, cell, model, statements[cell.name])
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


def check_training(config: ConfigDict, part: str) -> None:
    """Raises InputError for values of a training that are wrong whatever the data are."""
    fields.check(config, {part: fields.PART})
    try:
        settings.check_window(config[part], "launch.pate")
        settings.check(students.training_of(config, part))
        if config[part].pretrain.sim_bars:
            raise InputError(
                f"config.pretrain.sim_bars is {config[part].pretrain.sim_bars}, but launch.pate "
                "trains from random parameters; it must be 0."
            )
    except InputError as error:
        raise InputError(str(error).replace("config.", f"config.{part}.")) from error


def check_cells(configs: list[ConfigDict]) -> None:
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


def _labels(
    cell: Student, keys: Keys, membership: Membership, splits: Splits, folder: Path
) -> Labels:
    """Asks the teachers of a student, who may have been asked before."""
    place = folder / PRIVATE / f"teachers={cell.plan.teachers},seed={cell.config.seed}"
    train = students.on_device(splits.train)
    at_once = cell.config.models_at_once
    found = students.ask(keys.teachers, cell.config, membership, train, splits, place, at_once)
    pictures.teacher_accuracies(_plots(place) / "accuracies.png", found.accuracy, found.sizes)
    return students.label(cell, keys.votes, found.answers, found.seconds)


def _students(
    cells: list[Student], keys: list[Keys], labels: list[Labels], splits: Splits, folder: Path
) -> tuple[list[release.Model], list[dict[str, float]]]:
    """Trains all students together; returns each, and its accuracies and seconds."""
    config, public = cells[0].config, splits.public
    own, place = jnp.stack([key.student for key in keys]), folder / PRIVATE / "students"
    trained = students.train(own, config, labels, public, place, config.models_at_once)
    _, spec = students.student_settings(config, len(public.label))
    module, length = models.build(**config.student.model), public.image.shape[1]
    found_models, measured = [], []
    for row, cell in enumerate(cells):
        state = jax.tree.map(lambda x: x[row], trained.state)  # noqa: B023
        (folder / cell.name).mkdir(exist_ok=True)
        resumable.save(folder / cell.name, spec.epochs, state)
        found = {"seconds": labels[row].seconds + trained.seconds / len(cells)}
        for name in _SPLITS:
            split = students.on_device(getattr(splits, name))
            answer = training.evaluate(state.result, split, spec.module)
            found[f"{name}_accuracy"] = float(answer.accuracy)
        measured.append(found)
        found_models.append(release.Model(module, state.result, PATTERNS, length))
    return found_models, measured


def _release(folder: Path, cell: Student, model: release.Model, claim: plan.Statement) -> None:
    """Writes what may be shared of a student."""
    origin = (
        f"A student of PATE: {cell.plan.teachers} teachers, each trained on a part of the private "
        "windows, voted on public ones; noise was added to their votes, and the student learned "
        "from the answers."
    )
    release.write(folder, cell.cell, model, claim, origin)


def _row(
    cell: Student,
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


def _draw(folder: Path, cells: list[Student], labels: list[Labels], rows: list[dict]) -> None:
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


if __name__ == "__main__":
    app.run(train_and_vote, "pate")
