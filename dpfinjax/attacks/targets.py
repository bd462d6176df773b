"""The trained models that are attacked, and the pool of examples that they are asked about."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpfinjax import experiment, privacy, resumable, settings, training, workdir
from dpfinjax.attacks.checks import BoolArray
from dpfinjax.data import Examples, Facts, Splits
from dpfinjax.errors import InputError
from dpfinjax.pate import plan, students
from dpfinjax.pate.students import Student
from dpfinjax.training import Data, Spec


class Target(NamedTuple):
    """A model under attack.

    Attributes:
        run: Its name, config and plan: of a training, or of a student of PATE.
        spec: The static settings of its training.
        statement: Its privacy statement.
        folder: Where its checkpoints are, or will be.
    """

    run: experiment.Run | Student
    spec: Spec
    statement: privacy.Claim
    folder: Path


class Pool(NamedTuple):
    """The examples that attacks are about: the target's own, and as good ones from elsewhere.

    Attributes:
        examples: The training split, then the population.
        is_member: bool [e], whether the target was trained on it.
    """

    examples: Examples
    is_member: BoolArray

    @property
    def data(self) -> Data:
        """The examples on the device."""
        return Data(jnp.asarray(self.examples.image), jnp.asarray(self.examples.label))


def pool(splits: Splits, seed: int) -> Pool:
    """Puts the training split and the population together.

    Of a population that is larger than the training split as many examples are taken, by chance:
    half of the pool, which is what a shadow model sees, is then never more than the target saw.

    Args:
        splits: The prepared data.
        seed: At least 0, for that choice.

    Returns:
        The pool; its first rows are those of the training split, in the same order.

    Raises:
        InputError: One of the two splits is empty.
    """
    members, others = len(splits.train.label), len(splits.population.label)
    if not members or not others:
        raise InputError(
            f"The training split has {members} examples and the population {others}; an attack "
            "needs both, see data.fractions."
        )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(others)[:members])
    both = zip(splits.train, splits.population, strict=True)
    examples = Examples(*(np.concatenate([own, other[chosen]]) for own, other in both))
    return Pool(examples, np.arange(len(examples.label)) < members)


def in_folder(runs: Sequence[experiment.Run], folder: Path) -> list[Target]:
    """Says where `experiment.train_all` puts each model's checkpoints."""
    return [
        Target(
            run, run.plan.spec, run.plan.statement, folder / run.name if len(runs) > 1 else folder
        )
        for run in runs
    ]


def config_of(folder: str | Path) -> ConfigDict:
    """Reads the config that a folder's models were trained by.

    Args:
        folder: The workdir of `launch.baseline`, `launch.dpsgd` or `launch.pate`.

    Returns:
        The whole config of that run.

    Raises:
        InputError: It is no such folder.
    """
    path = Path(folder) / workdir.CONFIG
    try:
        config = ConfigDict(workdir.read_json(path)["config"])
        known = is_pate(config) or {"clip_method", "data", "cells", "model"} <= set(config)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"config.targets names {folder}, which has no readable {workdir.CONFIG}; it must be "
            "the workdir of trained models."
        ) from error
    if not known or "attack" in config:
        raise InputError(
            f"config.targets names {folder}, whose {workdir.CONFIG} is of another job; it must be "
            "the workdir of launch.baseline, launch.dpsgd or launch.pate."
        )
    return config


def is_pate(config: ConfigDict) -> bool:
    """Tells whether a config is one of `launch.pate`."""
    return {"teacher", "student", "mechanism", "data", "cells"} <= set(config)


def bound(targets: Sequence[Target], facts: Facts) -> dict[str, Any]:
    """Returns what a resumed attack must find unchanged: its targets' data, numbers and configs.

    Args:
        targets: The models under attack.
        facts: What is known of their data.
    """
    runs = [each.run for each in targets if isinstance(each.run, experiment.Run)]
    plans = {
        each.run.name: each.run.plan._asdict() for each in targets if isinstance(each.run, Student)
    }
    configs = {each.run.name: workdir.as_json(each.run.config) for each in targets}
    return experiment.bound(runs, facts) | plans | {"configs": configs}


def trained(
    folders: Sequence[str | Path], facts: Facts, first_seed_only: bool = False
) -> list[Target]:
    """Lists the models that lie in folders of finished runs.

    Args:
        folders: Workdirs of `launch.baseline`, `launch.dpsgd` and `launch.pate`.
        facts: What is known of the data, which all of them were trained on.
        first_seed_only: Whether to list, of models that differ in their seed alone, only the first.

    Returns:
        The models, under the names that they have there; with the folder's name before it where two
        folders have the same.

    Raises:
        InputError: A folder is no such workdir, is of other data or code, or a model in it is not
            finished; or two models have one name.
    """
    found = [(Path(folder), target) for folder in folders for target in _trained(folder, facts)]
    if first_seed_only:
        found = _first_seeds(found)
    names = collections.Counter(target.run.name for _, target in found)
    targets = [
        target
        if names[target.run.name] == 1
        else _renamed(target, f"{folder.resolve().name},{target.run.name}")
        for folder, target in found
    ]
    name, times = collections.Counter(target.run.name for target in targets).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"config.targets has the model {name} {times} times; folders must differ in their name."
        )
    return targets


def params(target: Target, data: Data) -> Any:
    """Reads a target's parameters.

    Args:
        target: A finished model.
        data: Examples of the shape that it takes.

    Returns:
        Its parameters, a pytree.

    Raises:
        InputError: The folder holds no checkpoint, or one of an unfinished training.
    """
    check_finished(target)
    fresh = training.init(jax.random.key(0), data, target.spec)
    return resumable.restore(target.folder, fresh).result


def check_finished(target: Target) -> None:
    """Asks for the last checkpoint of a training.

    Raises:
        InputError: It is not there.
    """
    done, epochs = resumable.finished_epochs(target.folder), target.spec.epochs
    if done != epochs:
        raise InputError(
            f"{target.folder} holds no trained model ({done} of {epochs} epochs are done); finish "
            "the training with the command that began it."
        )


def _trained(folder: str | Path, facts: Facts) -> list[Target]:
    """The models of one folder."""
    config = config_of(folder)
    # The numbers and the data that the folder is bound to are still what its config gives.
    if is_pate(config):
        for part in ("teacher", "student"):
            settings.check(students.training_of(config, part))
        members = students.students_of(config, facts)
        workdir.claim(folder, config, students.bound(members))
        targets = _students(members, Path(folder), facts)
    else:
        runs = experiment.runs_of(config, facts)
        workdir.claim(folder, config, experiment.bound(runs, facts))
        targets = in_folder(runs, Path(folder))
    for target in targets:
        check_finished(target)
    return targets


def _students(members: Sequence[Student], folder: Path, facts: Facts) -> list[Target]:
    """The students of one folder, with what is stated of them there."""
    path, public = folder / "privacy.json", sum(facts.examples["public"].values())
    try:
        content = workdir.read_json(path)
        claims = [content[each.name] for each in members] if len(members) > 1 else [content]
        stated = [plan.read(claim, each.plan) for claim, each in zip(claims, members, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not state the privacy of every student; finish the run of launch.pate "
            "with the command that began it."
        ) from error
    specs = [students.student_settings(each.config, public)[1] for each in members]
    return [
        Target(each, spec, statement, folder / each.name)
        for each, spec, statement in zip(members, specs, stated, strict=True)
    ]


def _first_seeds(found: Sequence[tuple[Path, Target]]) -> list[tuple[Path, Target]]:
    """Of the models in a folder that differ in their seed alone, the first."""
    first: dict[tuple[Path, str], tuple[Path, Target]] = {}
    for folder, target in found:
        first.setdefault((folder, target.run.cell), (folder, target))
    return list(first.values())


def _renamed(target: Target, name: str) -> Target:
    """The same model under another name."""
    return target._replace(run=target.run._replace(name=name, cell=name))
