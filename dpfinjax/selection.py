"""The best of a random number of private runs: drawn, trained, and only the best of them shared.

What it costs, and why, is in `dpfinjax.tuning`. Of a run's folder the part `private/` holds every
run that was drawn, and how many there were: none of it is covered by the claim.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dpfinjax import (
    experiment,
    fields,
    metrics_log,
    privacy,
    resumable,
    settings,
    sweeps,
    tuning,
    workdir,
)
from dpfinjax.data import Facts, Splits
from dpfinjax.errors import InputError
from dpfinjax.experiment import Outcome, Run

PRIVATE = "private"
"""The folder of all runs that were drawn, within the workdir."""

_SHARED_BY_ALL = ("target_epsilon", "delta", "privacy")
_KINDS = dict.fromkeys(("select", "score"), fields.TEXT)
_KINDS |= dict.fromkeys(("mean_runs", "shape"), fields.NUMBER)


class Selection(NamedTuple):
    """What a private choice is among, and what was drawn for it.

    Attributes:
      candidates: the settings to choose among, each with the statement that the choice would make.
      picks: the candidate of each run, places in `candidates`; secret, as is how many there are.
    """

    candidates: list[Run]
    picks: list[int]

    @property
    def runs(self) -> list[Run]:
        """The runs that were drawn, each with a name, and so with a key, of its own."""
        names = [f"draw={i},{self.candidates[pick].name}" for i, pick in enumerate(self.picks)]
        return [
            self.candidates[pick]._replace(name=name, cell=name)
            for name, pick in zip(names, self.picks, strict=True)
        ]


def default_config() -> ConfigDict:
    """Returns the fields of `config.sweep`.

    `select` "none" trains all cells once and shares them; "private" draws how many runs there are
    and the cell of each, and shares only the best by `score`. `mean_runs` and `shape` say how the
    number of runs is distributed, see `dpfinjax.tuning`: an infinite shape is Poisson.
    """
    return ConfigDict(
        {"select": "none", "mean_runs": 8.0, "shape": math.inf, "score": "validation_accuracy"}
    )


def wanted(config: ConfigDict) -> bool:
    """Returns whether a config asks for a private choice, and checks it if so.

    Args:
      config: as `configs/dpsgd.py` makes it.

    Raises:
      InputError: a field is wrong whatever the data are, or does not go with a private choice.
    """
    fields.check(config, {"sweep": fields.PART})
    sweep = config.sweep
    fields.check(sweep, _KINDS, name="config.sweep")
    if sweep.select not in ("none", "private"):
        raise InputError(f"config.sweep.select is {sweep.select!r}; it must be none or private.")
    if sweep.select == "none":
        return False
    if not 1 <= sweep.mean_runs <= tuning.LARGEST_MEAN:
        most = f"{tuning.LARGEST_MEAN:g}"
        raise InputError(f"config.sweep.mean_runs is {sweep.mean_runs}; it must be 1 to {most}.")
    if not (0 <= sweep.shape <= tuning.LARGEST_SHAPE or sweep.shape == math.inf):
        most = f"{tuning.LARGEST_SHAPE:g}"
        raise InputError(
            f"config.sweep.shape is {sweep.shape}; it must be 0 to {most}, or inf for Poisson."
        )
    if sweep.score != "validation_accuracy":
        raise InputError(
            f"config.sweep.score is {sweep.score!r}; it must be 'validation_accuracy'."
        )
    _check_candidates(config)
    return True


def plan(config: ConfigDict, facts: Facts) -> Selection:
    """Sets the candidates' noise, states what the choice spends, and draws the runs.

    With `target_epsilon` the noise is such that the whole choice stays within it.

    Args:
      config: a config that `wanted` has checked.
      facts: what is known of the data.

    Returns:
      The candidates, and what `draw` gives.

    Raises:
      InputError: a candidate does not fit the data, or no noise reaches the target.
    """
    candidates = _claimed(config, _candidates(config, facts))
    return Selection(candidates, draw(config, facts, len(candidates)))


def draw(config: ConfigDict, facts: Facts, candidates: int) -> list[int]:
    """Draws how many runs there are and, with replacement, the candidate of each.

    By the same `settings.key` as all noise, for a purpose of its own: the seed must be secret.

    Args:
      config: a config that `wanted` has checked.
      facts: what is known of the data.
      candidates: how many there are.

    Returns:
      A number in [0, candidates) for each run.
    """
    key = settings.key(config, settings.data_name(facts), "tuning")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    number = tuning.number_of_runs(rng, config.sweep.mean_runs, config.sweep.shape)
    return rng.integers(candidates, size=number).tolist()


def bound(selection: Selection) -> dict[str, Any]:
    """Returns what a resumed choice must find unchanged in `private/`, for `workdir.claim`."""
    return {"runs": [run.name for run in selection.runs]}


def train(
    selection: Selection, splits: Splits, folder: str | Path, models_at_once: int
) -> Outcome | None:
    """Trains the runs that were drawn and shares the one with the best validation accuracy.

    The first of equals is taken: as all runs are drawn alike, that is one of them by chance. A run
    whose parameters are no longer finite is the worst.

    Args:
      selection: see `plan`.
      splits: the prepared data.
      folder: the workdir; all runs go to its `private/`, and the best one's checkpoint, metrics and
        pictures to itself.
      models_at_once: how many models a program trains at most.

    Returns:
      The outcome of the best, under its candidate's name; None where no run was drawn.

    Raises:
      InputError: not even the best run has finite parameters.
    """
    runs, folder = selection.runs, Path(folder)
    if not runs:
        return None
    outcomes: list[Outcome] = []
    place = folder / PRIVATE / (runs[0].name if len(runs) == 1 else "")
    # Whether a run counts must not depend on those beside it: lost ones go on to their end.
    for chunk in experiment.train_all(runs, splits, place, models_at_once, stop_when_lost=False):
        outcomes += chunk
    rows = {outcome.name: outcome.row for outcome in outcomes}
    best = best_of([rows[run.name].validation_accuracy for run in runs])
    if math.isnan(rows[runs[best].name].validation_accuracy):
        raise InputError(
            "The selected model's parameters are not finite, so no drawn run's are; smaller "
            "learning rates in config.cells keep them finite."
        )
    chosen = selection.candidates[selection.picks[best]]
    _share(chosen, splits, folder / PRIVATE / runs[best].name, folder)
    ((outcome,),) = experiment.train_all([chosen], splits, folder, 1)
    return outcome._replace(row=outcome.row._replace(seconds=rows[runs[best].name].seconds))


def best_of(scores: Sequence[float]) -> int:
    """Returns the place of the first of the highest scores, nan being the lowest.

    >>> best_of([math.nan, 0.5, 0.7, 0.7])
    2
    """
    return int(np.argmax(np.nan_to_num(scores, nan=-math.inf)))


def _check_candidates(config: ConfigDict) -> None:
    """Raises InputError for candidates that a private choice cannot be among."""
    if config.seeds != 1:
        raise InputError(
            f"config.seeds is {config.seeds}; with config.sweep.select='private' it must be 1, "
            "since every repetition of the choice spends its epsilon again."
        )
    if config.get("with_baseline", False):
        raise InputError(
            "config.with_baseline is True; with config.sweep.select='private' it must be False: "
            "launch.baseline trains the model without privacy in a folder of its own."
        )
    if len(config.cells) < 2:
        raise InputError(
            f"config.cells has {len(config.cells)} candidates; config.sweep.select='private' needs "
            "at least two, from config.cells or --sweep."
        )
    models = [model.config for model in sweeps.models_of(_unselected(config)).values()]
    for model in models:
        settings.check(model)
        if model.clip_method == "none":
            raise InputError(
                "config.clip_method is 'none'; config.sweep.select='private' needs candidates that "
                "are all trained with privacy."
            )
        for name in _SHARED_BY_ALL:
            if model[name] != models[0][name]:
                raise InputError(
                    f"config.cells makes config.{name} {models[0][name]} in one candidate and "
                    f"{model[name]} in another; a private choice needs the same in all."
                )


def _unselected(config: ConfigDict) -> ConfigDict:
    """The same config without the choice, as the sweep that it is among; accounted by RDP."""
    changed = config.copy_and_resolve_references()
    changed.sweep.select, changed.accountant = "none", "rdp"
    return changed


def _candidates(config: ConfigDict, facts: Facts) -> list[Run]:
    """The candidates with the noise that they train with, and what one training alone spends."""
    models = sweeps.models_of(_unselected(config))
    first = next(iter(models.values())).config

    def planned(noises: Sequence[float | None]) -> list[Run]:
        configs = [
            model.config if noise is None else _with_noise(model.config, noise)
            for model, noise in zip(models.values(), noises, strict=True)
        ]
        return [
            Run(name, model.cell, found, settings.plan(found, facts))
            for (name, model), found in zip(models.items(), configs, strict=True)
        ]

    if first.target_epsilon is None:
        return planned([None] * len(models))
    # Sample rate and steps do not depend on the noise: any noise gives them.
    alike = planned([1.0] * len(models))
    noises = tuning.noise_multiplier(
        first.target_epsilon,
        _column(alike, "sample_rate"),
        _column(alike, "steps"),
        first.delta,
        config.sweep.mean_runs,
        config.sweep.shape,
        _column(alike, "overflow_probability"),
    )
    return planned(noises.tolist())


def _with_noise(config: ConfigDict, noise: float) -> ConfigDict:
    """The config with this noise instead of a target."""
    changed = config.copy_and_resolve_references()
    changed.target_epsilon, changed.noise_multiplier = None, noise
    return changed


def _claimed(config: ConfigDict, candidates: Sequence[Run]) -> list[Run]:
    """The candidates with the statement that the choice of any of them makes."""
    mean, shape = config.sweep.mean_runs, config.sweep.shape
    overflow = _column(candidates, "overflow_probability").max()
    epsilon = tuning.epsilon(
        _column(candidates, "sample_rate"),
        _column(candidates, "noise_multiplier"),
        _column(candidates, "steps"),
        candidates[0].config.delta,
        mean,
        shape,
        overflow,
    )
    found = []
    for run in candidates:
        alone = run.plan.statement
        others = tuple(s for s in alone.assumptions if s != settings.CHOSEN_UNSEEN)
        statement = alone._replace(
            epsilon=epsilon,
            overflow_probability=mean * float(overflow),
            assumptions=others + _assumptions(len(candidates)),
            tuning=privacy.Tuning(alone.epsilon, mean, shape, len(candidates)),
        )
        found.append(run._replace(plan=run.plan._replace(statement=statement)))
    return found


def _assumptions(candidates: int) -> tuple[str, ...]:
    """What a private choice takes for granted beside what its trainings do."""
    return (
        f"The {candidates} candidates, the number of runs on average and the rule of the choice "
        "were settled without looking at the private examples.",
        "Of all runs only the selected model is shared: no other run, nothing measured on one, "
        "not how many there were, nor which settings they had; that they are drawn by chance, "
        "from the same secret seed as the noise, is part of the claim.",
        "The best run was selected by its accuracy on the validation split, whose examples the "
        "claim does not protect: neighbouring data sets differ in the training split.",
    )


def _column(runs: Sequence[Run], name: str) -> np.ndarray:
    """One number of each run's statement."""
    return np.array([getattr(run.plan.statement, name) for run in runs])


def _share(run: Run, splits: Splits, source: Path, folder: Path) -> None:
    """Writes a run's metrics and checkpoint anew: files that Orbax made name their first folder.

    Metrics come without seconds, which grow with the number of runs that trained together.
    """
    train, spec = experiment.training_data(run, splits.train), run.plan.spec
    state = resumable.restore(source, resumable.init(jax.random.key(0), train, spec))
    resumable.save(folder, spec.epochs, state)
    lines = metrics_log.read(source)
    for line in lines:
        line["values"].pop("seconds", None)
    with workdir.replacing(folder / metrics_log.METRICS) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
