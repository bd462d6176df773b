"""Attacks trained models: who was in the training data?

Shadow models are trained exactly as each target, on random halves of training split and population:
for a student of PATE, teachers, votes, noise and a student each.
From their answers the paper's attack, LiRA, RMIA, the loss threshold and the calibrated loss learn
to tell the target's training data from the population. A table says how well, and whether every
private model is within what its epsilon proves.

  python -m launch.attack --config=configs/attack.py:quick
  python -m launch.attack --config.data.source=bars.csv.gz
  python -m launch.attack --config.targets=logs/dpsgd,logs/pate --workdir=logs/attack_mine

Without --config.targets the models of the config are trained first, in targets/ of the workdir.
With it, data and settings are those that the targets were trained with. The same command with the
same --workdir goes on where it was stopped.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from dpfinjax import data, experiment, fields, plots, privacy, results, settings, training, workdir
from dpfinjax.attacks import (
    answers,
    audit,
    checks,
    design,
    lira,
    metrics,
    report,
    shadow_models,
    shadow_students,
    targets,
)
from dpfinjax.attacks.checks import BoolArray, FloatArray
from dpfinjax.attacks.metrics import Roc
from dpfinjax.attacks.targets import Pool, Target
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.training import Data
from launch import app, dpsgd

_EXPOSED = 10
_LEAST_MODELS = 4  # LiRA's variances need two models with an example and two without
_KINDS = {
    "attack": fields.PART,
    "targets": fields.TEXT,
    "seed": fields.WHOLE,
    "models_at_once": fields.WHOLE,
}
_KINDS_OF_ATTACK = {
    **dict.fromkeys(("models", "steps", "batch_size"), fields.WHOLE),
    **dict.fromkeys(("gamma", "learning_rate"), fields.NUMBER),
    "variance": fields.TEXT,
    "hidden": fields.MANY,
}


def attack_all(config: ConfigDict, folder: str | Path) -> list[report.Row]:
    """Attacks the targets that a config names, or trains and attacks its own.

    Args:
      config: as `configs/attack.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      A row for each attack on each model.

    Raises:
      InputError: for a config, data, target or folder that cannot be used.
    """
    check(config)
    workdir.check(folder, config)
    given = [name for name in config.targets.split(",") if name]
    trained_by = targets.config_of(given[0]) if given else _training(config)
    if not targets.is_pate(trained_by):
        experiment.models_of(trained_by)
    settings.check_window(trained_by, "launch.attack")
    splits, facts = data.load(trained_by), data.describe(trained_by)
    pool = targets.pool(splits, config.seed or 0)
    if given:
        chosen = targets.trained(given, facts, config.get("first_seed_only", False))
    else:
        runs = experiment.runs_of(trained_by, facts)
        chosen = targets.in_folder(runs, Path(folder) / "targets")
    folder = workdir.claim(folder, config, targets.bound(chosen, facts))
    if not given:
        dpsgd.train_and_evaluate(trained_by, folder / "targets")

    rows: list[report.Row] = []
    known = results.count(folder / "results.csv")
    for target in chosen:
        rows += _attack(target, pool, splits, config, folder)
        if len(rows) >= known:  # a resumed run never writes less than is there
            workdir.write_csv(folder / "results.csv", [row._asdict() for row in rows])
    statements = {target.run.name: target.statement for target in chosen}
    privacy.write(folder / "privacy.json", statements, named=len(chosen) > 1)
    print(f"\n{report.table(rows)}\n\nWritten to {folder}")
    return rows


def check(config: ConfigDict) -> None:
    """Raises InputError for settings of the attack that are wrong whatever the data are."""
    fields.check(config, _KINDS, ("seed",))
    attack = config.attack
    fields.check(attack, _KINDS_OF_ATTACK, name="config.attack")
    if attack.models < _LEAST_MODELS or attack.models % 2:
        raise InputError(
            f"config.attack.models is {attack.models}; it must be even and at least "
            f"{_LEAST_MODELS}."
        )
    checks.one_of("config.attack.variance", attack.variance, lira.VARIANCES)
    if not 1 <= attack.gamma < np.inf:
        raise InputError(
            f"config.attack.gamma is {attack.gamma}; it must be finite and at least 1."
        )
    if config.models_at_once < 1:
        raise InputError(
            f"config.models_at_once is {config.models_at_once}; it must be at least 1."
        )
    for name in ("steps", "batch_size", "learning_rate"):
        if not 0 < attack[name] < np.inf:
            raise InputError(
                f"config.attack.{name} is {attack[name]}; it must be positive and finite."
            )


def _training(config: ConfigDict) -> ConfigDict:
    """The config of the set of models that is trained first, as `launch.dpsgd` would have it."""
    trained_by = config.copy_and_resolve_references()
    with trained_by.unlocked():
        del trained_by["attack"], trained_by["targets"]
    return trained_by


def _attack(
    target: Target, pool: Pool, splits: data.Splits, config: ConfigDict, folder: Path
) -> list[report.Row]:
    """All attacks on one model, with all that is written about it."""
    run, module, on_device = target.run, target.spec.module, _pool_of(target, pool)
    place, how = folder / run.name, dict(config.attack)
    models, labels = how.pop("models"), pool.examples.label
    params = targets.params(target, on_device)
    membership = design.balanced(config.seed or 0, models, len(labels))
    shadows = _shadows(target, membership, pool, splits, place / "shadow_models", config)
    target_answers = answers.answer(params, on_device, module)
    for given in (target_answers, shadows.answers):
        if not np.isfinite(given.logits).all():
            raise InputError(
                f"{run.name} or a shadow model of it answers with nan: its training diverged; it "
                "must be trained with a smaller learning_rate."
            )
    found = report.scores(
        jax.random.fold_in(jax.random.key(config.seed or 0), zlib.crc32(run.name.encode())),
        target_answers,
        shadows.answers,
        membership,
        labels,
        pool.is_member,
        **how,
    )
    curves = {name: metrics.roc(values, pool.is_member) for name, values in found.items()}
    _write(place, target, pool, found, models)
    _draw(folder, target, pool, found, curves)
    accuracies = {
        f"{name}_accuracy": _accuracy(params, part, module)
        for name, part in splits._asdict().items()
        if name in ("train", "validation", "test")
    }
    about = accuracies | {
        "model": run.name,
        "seed": run.config.seed,
        "seconds": shadows.seconds,
        "shadow_models": models,
    }
    return [report.row(target.statement, curve, name, about) for name, curve in curves.items()]


def _pool_of(target: Target, pool: Pool) -> Data:
    """The pool as the target's own training would have it."""
    if isinstance(target.run, experiment.Run):
        return experiment.with_start(target.run, pool.data)
    return pool.data


def _shadows(
    target: Target,
    membership: BoolArray,
    pool: Pool,
    splits: data.Splits,
    place: Path,
    config: ConfigDict,
) -> shadow_models.Shadows:
    """The shadow models of one model, which come about as it did."""
    run, at_once, models = target.run, config.models_at_once, len(membership)
    if isinstance(run, experiment.Run):
        keys, on_device = shadow_models.keys_of(run, models), _pool_of(target, pool)
        return shadow_models.train(keys, run, membership, on_device, place, at_once)
    own = shadow_students.keys_of(run, models)
    return shadow_students.train(own, run, membership, pool.examples, splits, place, at_once)


def _accuracy(params: Any, examples: data.Examples, module: nn.Module) -> float:
    """The share of right answers."""
    on_device = Data(jnp.asarray(examples.image), jnp.asarray(examples.label))
    return float(training.evaluate(params, on_device, module).accuracy)


def _when(time: np.datetime64) -> str:
    """The minute in which a window ends, in words that also fit a source without times."""
    return "time unknown" if np.isnat(time) else str(time)[:16].replace("T", " ")


def _write(
    place: Path, target: Target, pool: Pool, found: Mapping[str, FloatArray], models: int
) -> None:
    """The arrays and tables of one model."""
    probabilities = found["shadow"]
    workdir.write_npy(place / "member_probs.npy", probabilities[pool.is_member])
    workdir.write_npy(place / "nonmember_probs.npy", probabilities[~pool.is_member])
    workdir.write_npy(place / "is_member.npy", pool.is_member)
    workdir.write_npy(place / "labels.npy", pool.examples.label)
    for name, values in found.items():
        workdir.write_npy(place / f"scores_{name}.npy", values)
    summary = report.recognition(
        target.run.name, target.statement, probabilities, pool.is_member, models
    )
    workdir.write_json(place / "recognition.json", summary._asdict())
    lines = report.per_pattern(found, pool.is_member, pool.examples.label, PATTERNS)
    workdir.write_csv(place / "leakage_per_pattern.csv", lines)


def _draw(
    folder: Path,
    target: Target,
    pool: Pool,
    found: Mapping[str, FloatArray],
    curves: Mapping[str, Roc],
) -> None:
    """The pictures of one model."""
    pictures = folder / "plots"
    pictures.mkdir(exist_ok=True)
    probabilities, inside, name = found["shadow"], pool.is_member, target.run.name
    plots.privacy_risk(
        pictures / f"privacy_risk_{name}.png",
        probabilities[inside],
        probabilities[~inside],
        name,
    )
    statement = target.statement
    lowest = min(1e-3, 1 / int((~inside).sum()))
    rates = np.geomspace(lowest, 1, 200)
    proven = rates, audit.upper_tpr(statement.epsilon, statement.delta, rates)
    plots.roc_curves(
        pictures / f"roc_{name}.png",
        {
            f"{attack.replace('_', ' ')}: AUC {curve.auc:.3f}": (curve.fpr, curve.tpr)
            for attack, curve in curves.items()
        },
        proven if np.isfinite(statement.epsilon) else None,
        lowest,
        f"{name}, epsilon = {privacy.shown(statement.epsilon)}",
    )
    worst = np.flatnonzero(inside)[np.argsort(-found["lira"][inside], kind="stable")[:_EXPOSED]]
    captions = [
        f"{PATTERNS[pool.examples.label[row]]}, {_when(pool.examples.time[row])}\n"
        f"log likelihood ratio {found['lira'][row]:.1f}, probability {probabilities[row]:.2f}"
        for row in worst
    ]
    plots.exposed_windows(
        pictures / f"exposed_windows_{name}.png",
        pool.examples.ohlc[worst],
        captions,
        name,
    )


if __name__ == "__main__":
    app.run(attack_all, "attack")
