"""PATE from end to end: a private set of examples to teachers, votes, labels and a student.

`launch.pate` trains a run's students by these functions, and `attacks.shadow_students` trains
others by the same ones, with other examples and other keys.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from dpfinjax import entropy, fields, settings, sweeps
from dpfinjax.data import Examples, Facts, Splits
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.pate import aggregation, ensemble, plan
from dpfinjax.training import Data, HParams, Membership, Spec


class Student(NamedTuple):
    """One student.

    Attributes:
      name: its name within the run, and its folder's.
      cell: its name in tables; students of one cell differ in their seed alone.
      config: its config.
      plan: how its labels come about.
      data: the data set, see `settings.data_name`.
    """

    name: str
    cell: str
    config: ConfigDict
    plan: plan.Plan
    data: str

    def key(self, purpose: str) -> jax.Array:
        """Returns a key that no other run has, and no other purpose."""
        return settings.key(self.config, self.data, f"{purpose} of {self.name}")


class Keys(NamedTuple):
    """All that a student and its teachers owe to chance, but for the examples.

    Attributes:
      partition: of the hash that chooses each example's teacher, see `ensemble.assign`.
      teachers: a JAX random key, as are the next two; teacher i has `fold_in(teachers, i)`.
      votes: of the noise.
      student: of the student's first parameters and samples.
    """

    partition: int | bytes
    teachers: jax.Array
    votes: jax.Array
    student: jax.Array


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


def students_of(config: ConfigDict, facts: Facts) -> list[Student]:
    """Returns the students of a run's config with their plans.

    Args:
      config: as `configs/pate.py` makes it.
      facts: what is known of its data.

    Raises:
      InputError: for a value that makes no sense, by its field.
    """
    available, name = sum(facts.examples["public"].values()), settings.data_name(facts)
    return [
        Student(label, model.cell, model.config, plan.plan(model.config, available), name)
        for label, model in sweeps.models_of(config, "pate").items()
    ]


def keys_of(students: Sequence[Student]) -> list[Keys]:
    """Returns the keys of a run's students: those with as many teachers and one seed share these.

    Args:
      students: all of them, in order.
    """
    together = students[0].key("students")
    return [
        Keys(
            partition=_partition(student.config),
            teachers=settings.key(
                entropy.handed(student.config, student.config.teacher),
                student.data,
                f"{student.plan.teachers} teachers of seed {student.config.seed}",
            ),
            votes=student.key("votes"),
            student=jax.random.fold_in(together, number),
        )
        for number, student in enumerate(students)
    ]


def bound(students: Sequence[Student]) -> dict[str, Any]:
    """Returns what a resumed run must find unchanged, for `workdir.claim`.

    Args:
      students: all of them.
    """
    return {each.name: each.plan._asdict() for each in students} | {"data": students[0].data}


def training_of(config: ConfigDict, part: str) -> ConfigDict:
    """Returns the config of a teacher's or a student's training.

    Args:
      config: a student's.
      part: "teacher" or "student".

    Raises:
      InputError: for a part, a seed or a delta of another type.
    """
    kinds = {"seed": fields.WHOLE, "delta": fields.NUMBER}
    fields.check(config, kinds | {part: fields.PART}, ("seed",))
    fields.check(config[part], kinds, ("seed",), name=f"config.{part}")
    full = config[part].copy_and_resolve_references()
    full.update(seed=config.seed, delta=config.delta)
    return full


def teacher_settings(config: ConfigDict, examples: int) -> tuple[HParams, Spec]:
    """Returns the settings of a teacher, which no part's own size has a say in.

    Args:
      config: a student's.
      examples: how many all its teachers together are trained on.
    """
    return _sized(training_of(config, "teacher"), -(-examples // config.teachers))


def student_settings(config: ConfigDict, public: int) -> tuple[HParams, Spec]:
    """Returns the settings of a student.

    Args:
      config: its config.
      public: the number of public images.
    """
    return _sized(training_of(config, "student"), public)


def parts(student: Student, key: int | bytes, private: Examples) -> Membership:
    """Divides examples among the teachers of a student.

    Args:
      student: whose teachers they are.
      key: of the hash, see `Keys`.
      private: the examples.

    Returns:
      Rows of these examples, and sizes, a teacher along the first axis.

    Raises:
      InputError: if there are more teachers than examples.
    """
    teachers = student.plan.teachers
    return ensemble.parts(ensemble.assign(private.image, private.label, teachers, key), teachers)


def ask(
    key: jax.Array,
    config: ConfigDict,
    membership: Membership,
    private: Data,
    splits: Splits,
    folder: str | Path,
    models_at_once: int,
) -> ensemble.Teachers:
    """Trains teachers and asks them all public images, or reads what they answered before.

    Args:
      key: as `ensemble.train_many` takes it.
      config: a student's; its teachers are trained for as many steps as the training split asks
        for, whatever the parts.
      membership: the part of each teacher: rows of `private` and their number.
      private: the examples of all parts.
      splits: the prepared data.
      folder: as `ensemble.ask` takes it.
      models_at_once: how many teachers a program trains at most.

    Returns:
      Answers and accuracies.

    Raises:
      InputError: when the loss of every teacher of a chunk is no longer finite.
    """
    hparams, spec = teacher_settings(config, len(splits.train.label))
    return ensemble.ask(
        key,
        hparams,
        membership,
        private,
        on_device(splits.public),
        on_device(splits.test),
        spec,
        folder,
        models_at_once,
    )


def label(student: Student, key: jax.Array, answers: NDArray[np.int32], seconds: float) -> Labels:
    """Draws the labels of a student's queries from what its teachers answer.

    Args:
      student: who is told.
      key: of the noise, see `Keys`.
      answers: int32 [teachers, public images].
      seconds: how long the teachers trained.

    Returns:
      The labels.
    """
    asked = np.random.default_rng(student.config.seed).permutation(answers.shape[1])
    rows = asked[: student.plan.queries]
    votes = np.asarray(aggregation.votes(jnp.asarray(answers[:, rows]), len(PATTERNS)))
    return Labels(votes, rows, plan.answer(key, votes, student.plan), seconds)


def train(
    keys: jax.Array,
    config: ConfigDict,
    labels: Sequence[Labels],
    public: Examples,
    folder: Path,
    models_at_once: int,
) -> ensemble.Trained:
    """Trains students together, twice where they learn from their own answers too.

    Args:
      keys: JAX random keys [m], see `Keys`.
      config: of all of them, which may differ in how their labels come about.
      labels: what each of the m is told.
      public: the public images; their labels are not looked at.
      folder: where checkpoints lie.
      models_at_once: how many students a program trains at most.

    Returns:
      The students, and how long both trainings took.

    Raises:
      InputError: when the loss of every student of a chunk is no longer finite.
    """
    hparams, spec = student_settings(config, len(public.label))
    told, asked, everything = _told(labels, public)
    place, name = folder / "told", "students"
    trained = ensemble.train_many(
        keys, hparams, told, everything, spec, place, models_at_once, name
    )
    if not config.semi_supervised:
        return trained
    everything, told = ensemble.pseudo_labelled(
        trained.state.result, everything, told, asked, spec.module
    )
    place, name = folder / "guessed", "students again"
    again = ensemble.train_many(keys, hparams, told, everything, spec, place, models_at_once, name)
    return again._replace(seconds=trained.seconds + again.seconds)


def on_device(examples: Examples) -> Data:
    """Returns examples where training wants them."""
    return Data(jnp.asarray(examples.image), jnp.asarray(examples.label))


def _partition(config: ConfigDict) -> int | bytes:
    """The key of the hash that divides the examples: 12 bytes where it is drawn."""
    if "entropy" not in config:
        return int(config.seed)
    return config.entropy.to_bytes(8, "little") + config.seed.to_bytes(4, "little")


def _sized(config: ConfigDict, examples: int) -> tuple[HParams, Spec]:
    """The settings of a training without privacy on so many examples."""
    if config.batch_size is not None:
        config.batch_size = min(config.batch_size, examples)
    found = settings.sized(config, examples)
    return found.hparams, found.spec


def _told(labels: Sequence[Labels], public: Examples) -> tuple[Membership, Membership, Data]:
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
