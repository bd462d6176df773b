"""Shadow models of a PATE student: whole ensembles with a student each, on random halves of a pool.

A shadow's teachers, votes and student come about by the very functions that the target's did, see
`pate.students`, and its student answers the whole pool.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpfinjax import entropy, settings, workdir
from dpfinjax.attacks import shadow_models
from dpfinjax.attacks.checks import BoolArray
from dpfinjax.attacks.shadow_models import OnEpoch, Shadows
from dpfinjax.data import Examples, Splits
from dpfinjax.pate import ensemble, students
from dpfinjax.pate.students import Keys, Labels, Student
from dpfinjax.training import Membership


def keys_of(student: Student, models: int) -> list[Keys]:
    """Gives each shadow the keys of a PATE, none of which the target or another shadow has.

    Its examples are divided by a hash of its own too: the target's partition is known to whoever
    knows the seed, but teachers with the target's very parts would tell more of it than others.

    Args:
        student: The target.
        models: Number of shadow models m.

    Returns:
        The keys of each.
    """
    config = entropy.reproducible(student.config)
    key = settings.key(config, student.data, f"shadow models of {student.name}")
    found = []
    for own in jax.random.split(key, models):
        partition, *others = jax.random.split(own, 4)
        # 16 bytes, of which no seed of a run has more than 12.
        words = np.asarray(jax.random.bits(partition, (4,), jnp.uint32))
        found.append(Keys(words.astype("<u4").tobytes(), *others))
    return found


def train(
    keys: Sequence[Keys],
    student: Student,
    membership: BoolArray,
    examples: Examples,
    splits: Splits,
    folder: str | Path,
    models_at_once: int,
) -> Shadows:
    """Trains shadow PATEs as their target was trained, and asks each student about the whole pool.

    What is the same as the target's: both networks and their trainings, their numbers of steps
    included, the public images that are asked, mechanism, noise, threshold and number of answers,
    and so epsilon. What is not: keys and examples, and with them the teachers' parts.

    Students are trained together, `models_at_once` at a time; so are teachers, of as many shadows
    as have together no more than that, or of one. A call that is interrupted goes on where it was,
    to the same bits. Files are those of `shadow_models.train`.

    Args:
        keys: Of each of m shadows, see `keys_of`.
        student: The target.
        membership: bool [m, e], whether a shadow's teachers are trained on an example.
        examples: The e examples of the pool.
        splits: The prepared data: the public images, and how many examples the target had.
        folder: Where the arrays are written; it belongs to this target's config and this design.
        models_at_once: How many models a program trains at most, at least 1.

    Returns:
        The students' answers.

    Raises:
        InputError: There are fewer than 2 shadows, an example is in all or in none of them, or
            fewer are in one than there are teachers; shapes do not fit, the folder has shadow
            models of another config or design, or every model of a program diverged.
    """
    shadow_models.check(membership, len(examples.label))
    private, config, teachers = students.on_device(examples), student.config, student.plan.teachers
    _, spec = students.student_settings(config, len(splits.public.label))
    parts = _parts(keys, student, membership, examples)

    def labels(some: slice, place: Path) -> list[Labels]:
        own = jnp.concatenate([ensemble.keys_of(key.teachers, teachers) for key in keys[some]])
        flat = jax.tree.map(lambda x: x[some].reshape(-1, *x.shape[2:]), parts)
        found = students.ask(own, config, flat, private, splits, place, models_at_once)
        each = found.answers.reshape(-1, teachers, found.answers.shape[1])
        return [
            students.label(student, key.votes, answers, found.seconds / len(each))
            for key, answers in zip(keys[some], each, strict=True)
        ]

    def train_chunk(chunk: slice, place: Path, on_epoch: OnEpoch) -> Any:
        del on_epoch  # programs of teachers and students have bars of their own
        told: list[Labels] = []
        for start in range(chunk.start, chunk.stop, step):
            some = slice(start, min(start + step, chunk.stop))
            told += labels(some, place / f"teachers of {some.start}-{some.stop}")
        own, place = jnp.stack([key.student for key in keys[chunk]]), place / "students"
        trained = students.train(own, config, told, splits.public, place, models_at_once)
        return trained.state.result

    step = max(1, models_at_once // teachers)
    bound = students.bound([student]) | {"examples": len(splits.train.label)}
    folder = workdir.claim(folder, config, bound | shadow_models.bound_to(membership))
    return shadow_models.in_chunks(
        student.name, membership, private, spec, folder, lambda: models_at_once, train_chunk
    )


def _parts(
    keys: Sequence[Keys], student: Student, membership: BoolArray, examples: Examples
) -> Membership:
    """The part of each teacher of each shadow: rows [m, t, r] of the pool, and sizes [m, t]."""
    rows, sizes = [], []
    for key, mine in zip(keys, membership, strict=True):
        seen = np.flatnonzero(mine).astype(np.int32)
        part = students.parts(student, key.partition, Examples(*(x[seen] for x in examples)))
        rows.append(seen[np.asarray(part.rows)])
        sizes.append(part.size)
    # One width for all, so that they share a program; what fills up is never drawn.
    width = max(part.shape[1] for part in rows)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in rows]
    return Membership(jnp.asarray(np.stack(padded)), jnp.stack(sizes))
