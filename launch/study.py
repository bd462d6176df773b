"""The whole balance of privacy and accuracy on one's bars, from the bars to one page to read.

Images are built, models trained without privacy, by DP-SGD at several epsilons, by the published
recipe, after simulated bars and by PATE; the models are attacked, their trainings audited, and all
of it becomes a report with a recommendation.

  python -m launch.study --config=configs/study.py:quick
  python -m launch.study --config.data.source=bars.csv.gz
  python -m launch.study --config.parts=dpsgd,attack --config.seeds=3

Writes report.html, results.csv and results.tex, and each part into a folder of its own, which is
the workdir of the part's launcher. The same command with the same --workdir goes on where it was
stopped, skips what is done and makes the report again. Everything is checked before the first
training. It ends with exit code 1 where an audit refutes a stated epsilon.
"""

import contextlib
import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

import configs.study
from dpfinjax import (
    data,
    entropy,
    experiment,
    fields,
    privacy,
    report,
    results,
    sealed,
    settings,
    sweeps,
    workdir,
)
from dpfinjax.data import Facts, units
from dpfinjax.errors import InputError
from dpfinjax.pate import plan
from dpfinjax.report import collect, commands, recommendation, seeds
from launch import app, attack, audit, dpsgd, pate
from launch import data as images

_TRAINED = ("dpsgd", "published", "pretrained")
_ATTACKED = (*_TRAINED, "pate")
_AUDITED = ("dpsgd", "pretrained")
_NEEDS = {"audit": _AUDITED}
_WINDOWS_ONLY = ("pate", "attack")
# What a launcher goes on from has digests of its own, or is a log.
_KEPT = {"checkpoints", "private", "shadow_models", "tensorboard", "metrics.jsonl", entropy.SEED}
_VARIANTS = {
    "baseline": ("", "paper", "quick"),
    "dpsgd": ("", "paper"),
    "pate": ("", "gnmax", "paper", "quick"),
    "study": ("", "quick", "paper"),
}


_KINDS = {
    **dict.fromkeys((*_TRAINED, "pate", "attack", "audit", "data", "privacy"), fields.PART),
    **dict.fromkeys(("parts", "attacked"), fields.MANY),
    **dict.fromkeys(("seed", "seeds", "models_at_once"), fields.WHOLE),
    **dict.fromkeys(("tolerance", "delta"), fields.NUMBER),
}


class Step(NamedTuple):
    """A part of a study, or a piece of one.

    Attributes:
      name: its folder within the study's.
      job: the launcher's function of a config and a folder.
      config: the launcher's whole config.
    """

    name: str
    job: Callable[[ConfigDict, Path], object]
    config: ConfigDict


def study(config: ConfigDict, folder: str | Path) -> report.Study:
    """Does all parts of a study that are not done yet, and writes the report.

    Args:
      config: as `configs/study.py` makes it.
      folder: the study's folder, see `workdir.claim`.

    Returns:
      Everything that was found.

    Raises:
      InputError: for a config, data or folder that cannot be used.
    """
    folder = Path(folder)
    _check(config, folder)
    workdir.check(folder, config)
    facts = data.describe(config)
    steps = steps_of(config, folder, facts)
    for step in steps:
        if not _finished(folder / step.name):
            _check_step(step, facts)
    workdir.claim(folder, config, {"data": settings.data_name(facts)})
    for number, step in enumerate(steps, start=1):
        print(f"\n[{number} of {len(steps)}] {step.name}", end="", flush=True)
        _do(step, folder / step.name)
    print("\n", flush=True)
    found = collect.read(folder, _command("study", collect.shareable(config), ""), command_of)
    report.write_csv(folder / "results.csv", found)
    report.write_tex(folder / "results.tex", found)
    report.write_html(folder / "report.html", found)
    print(f"{table(found)}\n\n{report.recommend(found).sentence}\n\n{folder / 'report.html'}")
    return found


def study_or_fail(config: ConfigDict, folder: str | Path) -> None:
    """Does a study, and ends with exit code 1 where an audit refutes a stated epsilon."""
    study(config, folder)
    accusations = collect.accusations(folder)
    for sentence in accusations:
        print(f"FAILED: {sentence}", file=sys.stderr)
    if accusations:
        sys.exit(1)


def steps_of(config: ConfigDict, folder: Path, facts: Facts) -> list[Step]:
    """Lists what a study does, in order.

    Args:
      config: as `configs/study.py` makes it, checked.
      folder: the study's folder.
      facts: what is known of its data.

    Returns:
      The steps; one an audited training, so that a study that was stopped goes on between two.
    """
    wanted = collect.wanted(config)
    found = [Step("data", images.build_and_draw, _shared(config, ("data", "privacy")))]
    for part in _TRAINED:
        if part in wanted:
            found.append(Step(part, dpsgd.train_and_evaluate, config_of(config, part)))
    if "pate" in wanted and not collect.obstacle_to_pate(facts.examples):
        found.append(Step("pate", pate.train_and_vote, config_of(config, "pate")))
    targets = [step.name for step in found if step.name in collect.wanted(config, "attacked")]
    if "attack" in wanted and targets:
        found.append(Step("attack", attack.attack_all, _attack(config, folder, targets)))
    if "audit" in wanted:
        audited = [part for part in _AUDITED if part in wanted]
        found += [step for part in audited for step in _audits(config, part)]
    return found


def config_of(config: ConfigDict, part: str) -> ConfigDict:
    """Returns the whole config of a part that trains models.

    Args:
      config: as `configs/study.py` makes it.
      part: the part's name.
    """
    return _merged(config[part], _shared(config, configs.study.SHARED))


def command_of(name: str, family: str, config: ConfigDict) -> str:
    """Returns the command that trains a model alone, with all of its seeds.

    Args:
      name: the model's, as the report has it.
      family: a name in `report.FAMILIES`.
      config: the model's, as it was in a run of several.
    """
    left_out = ("with_baseline", "baseline")
    alone = ConfigDict({name: value for name, value in config.items() if name not in left_out})
    alone.cells = []
    job = family if family in ("baseline", "pate") else "dpsgd"
    return _command(job, alone, f"logs/{name.replace('/', ',')}")


def table(found: report.Study) -> str:
    """Returns a study's models as lines of text."""
    lines = [("model", "epsilon", "test", "AUC", "audit")]
    for model in found.models:
        test, strongest = seeds.mean(model.test), recommendation.strongest(model.attacks)
        sd = "" if len(model.test) < 2 else f" ± {100 * test.sd:.1f}"
        bound = recommendation.audited(model)
        lines.append(
            (
                model.label,
                privacy.shown(model.epsilon),
                f"{100 * test.value:.1f}{sd} %",
                f"{strongest.auc:.3f}" if strongest else "-",
                "-" if bound is None else f">= {bound:.3f}",
            )
        )
    return results.aligned(lines)


def _do(step: Step, folder: Path) -> None:
    """Does a step and says so in its folder, unless that is there."""
    if _finished(folder):
        print(": done before", end="", flush=True)
        return
    print("\n", flush=True)
    start = time.monotonic()
    step.job(step.config, folder)
    workdir.write_json(folder / collect.FINISHED, {"seconds": time.monotonic() - start})
    sealed.write(folder, _results(folder))


def _finished(folder: Path) -> bool:
    """Whether a step is done, and all that it left for the report, and to be shared, is unchanged.

    Its folder lies in one that is bound to the config and the data.
    """
    return (folder / collect.FINISHED).exists() and sealed.is_kept(folder)


def _results(folder: Path) -> list[Path]:
    """The files of a step that its launcher writes anew when it is called again."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path.name not in _KEPT and not _KEPT & set(path.parts)]


def _shared(config: ConfigDict, fields: tuple[str, ...]) -> ConfigDict:
    """A config of some of a study's own fields."""
    return ConfigDict({field: config[field] for field in fields})


def _merged(config: ConfigDict, others: ConfigDict) -> ConfigDict:
    """A copy of a config with other fields, which it may have or not."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for name, value in others.copy_and_resolve_references().items():
            copy[name] = value
    return copy


def _attack(config: ConfigDict, folder: Path, targets: Sequence[str]) -> ConfigDict:
    """The config of `launch.attack` on the models of some parts."""
    others = {
        "targets": ",".join(str(folder / part) for part in targets),
        "first_seed_only": True,
        "attack": config.attack,
    }
    return _merged(_shared(config, ("seed", "models_at_once")), ConfigDict(others))


def _audits(config: ConfigDict, part: str) -> list[Step]:
    """An audit of each private training of a part, which changes nothing of it."""
    trained = config_of(config, part)
    others = {"audit": config.audit, "stated_epsilon": None, "mutants": False}
    others |= {"seeds": 1, "with_baseline": False}
    alone = _merged(trained, ConfigDict(others))
    found = []
    for cell in trained.cells or [None]:
        one = _merged(alone, ConfigDict({"cells": () if cell is None else (cell,)}))
        with _fields_of(part):
            (name,) = sweeps.models_of(one)
        found.append(Step(f"audit/{part}/{name}", audit.audit_and_draw, one))
    return found


def _command(job: str, config: ConfigDict, folder: str) -> str:
    """The command of a launcher's config."""
    file = importlib.import_module(f"configs.{job}")
    variants = {variant: file.get_config(variant) for variant in _VARIANTS[job]}
    return commands.command(job, variants, config, folder)


def _check(config: ConfigDict, folder: Path) -> None:
    """Raises InputError for fields of the study that are wrong whatever the data are."""
    fields.check(config, _KINDS, ("seed",))
    for part in _TRAINED:
        fields.check(config[part], {"cells": fields.MANY}, name=f"config.{part}")
    for name in ("parts", "attacked"):
        if not all(isinstance(entry, str) for entry in config[name]):
            raise InputError(f"config.{name} is {config[name]}; it must hold names of parts.")
    wanted = collect.wanted(config)
    unknown = [name for name in wanted if name not in configs.study.PARTS]
    if unknown or not wanted:
        raise InputError(
            f"config.parts is {','.join(wanted)!r}; it must name some of "
            f"{', '.join(configs.study.PARTS)}."
        )
    attacked = collect.wanted(config, "attacked")
    unknown = [name for name in attacked if name not in _ATTACKED]
    if unknown or not attacked:
        raise InputError(
            f"config.attacked is {','.join(attacked)!r}; it must name some of "
            f"{', '.join(_ATTACKED)}."
        )
    for part, needed in (_NEEDS | {"attack": attacked}).items():
        if part in wanted and not set(needed) & set(wanted):
            raise InputError(
                f"config.parts has {part} without {' or '.join(needed)}, whose models it is about."
            )
    if not set(collect.TRAININGS) & set(wanted):
        raise InputError(
            f"config.parts is {','.join(wanted)!r}; at least one of "
            f"{', '.join(collect.TRAININGS)} must train models."
        )
    if not 0 <= config.tolerance < 1:
        raise InputError(
            f"config.tolerance is {config.tolerance}; it must be at least 0 and below 1."
        )
    outside = [part for part in _WINDOWS_ONLY if part in wanted]
    if outside and config.privacy.unit != units.WINDOW:
        raise InputError(
            f"config.privacy.unit is {config.privacy.unit!r}, but {outside[0]} works window by "
            f"window; it must be 'window', or config.parts must be without {outside[0]}."
        )
    if "attack" in wanted and "," in str(folder):
        raise InputError(
            f"--workdir={folder} has a comma, at which launch.attack divides the names of folders; "
            "it must have none."
        )


def _check_step(step: Step, facts: Facts) -> None:
    """Raises InputError for what would stop a step, as its launcher would, before any has begun."""
    part = step.name.partition("/")[0]
    if part in _TRAINED:
        with _fields_of(part):
            _check_trainings(step.config, facts)
    elif part == "pate":
        with _fields_of(part):
            _check_pate(step.config, facts)
    elif part == "attack":
        attack.check(step.config)
    elif part == "audit":
        audit.check(step.config)
        _check_canaries(step.config, facts)


def _check_trainings(config: ConfigDict, facts: Facts) -> None:
    """Raises InputError for trainings that cannot be; seeds differ in nothing that matters here."""
    experiment.models_of(config)
    experiment.runs_of(_merged(config, ConfigDict({"seeds": 1})), facts)


def _check_pate(config: ConfigDict, facts: Facts) -> None:
    """Raises InputError for teachers, students or votes that cannot be."""
    models = sweeps.models_of(config, "pate")
    pate.check_cells([model.config for model in models.values()])
    for part in ("teacher", "student"):
        pate.check_training(config, part)
    examples = sum(facts.examples["train"].values())
    for model in models.values():
        plan.plan(model.config, sum(facts.examples["public"].values()))
        if model.config.teachers > examples:
            raise InputError(
                f"config.teachers is {model.config.teachers}; it must be at most the number of "
                f"training examples, {examples}."
            )


def _check_canaries(config: ConfigDict, facts: Facts) -> None:
    """Raises InputError for more canaries than there are units."""
    examples = sum(facts.examples["train"].values())
    if facts.unit_name != units.WINDOW:
        examples = units.usage(facts.units["train"], config.privacy.windows_per_unit).units
    for field in ("canaries", "others"):
        if config.audit[field] >= examples:
            raise InputError(
                f"config.audit.{field} is {config.audit[field]}; it must be below the number of "
                f"training units, {examples}."
            )


@contextlib.contextmanager
def _fields_of(part: str) -> Iterator[None]:
    """Names fields in errors as they are called here, where a part's own are within it."""
    try:
        yield
    except InputError as error:
        own = rf"\bconfig\.(?!(?:{'|'.join(configs.study.SHARED)}|{part})\b)"
        raise InputError(re.sub(own, f"config.{part}.", str(error))) from error


if __name__ == "__main__":
    app.run(study_or_fail, "study")
