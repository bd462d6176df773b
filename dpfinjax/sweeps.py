"""The models of a run: its config with the fields that each cell changes, for each seed."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dpfinjax import entropy, fields
from dpfinjax.errors import InputError

# Fields of the run, and of no cell.
_OF_THE_RUN = ("cells", "data", "privacy", "seed", "seeds", "models_at_once", "sweep")

_MOST_MODELS = 100_000
_KINDS = {"cells": fields.MANY}
_KINDS |= dict.fromkeys(("seed", "seeds", "models_at_once"), fields.WHOLE)
_KINDS_IF_THERE = {"sweep": fields.PART, "with_baseline": fields.TRUTH, "baseline": fields.PART}

EITHER_OR = (
    ("target_epsilon", "noise_multiplier"),
    ("target_epsilon", "scale"),
    ("epochs", "steps"),
)
"""Pairs of fields of which one is set: a later one that is given clears its alternative."""


class Model(NamedTuple):
    """One model of a launcher's run.

    Attributes:
      cell: its name in tables; models of one cell differ in their seed alone.
      config: its config.
    """

    cell: str
    config: ConfigDict


def models_of(config: ConfigDict, name: str | None = None) -> dict[str, Model]:
    """Returns each model that a run trains, in order, under its name.

    A run has the model that its fields describe, or one for each of `cells` (a dict of the fields
    that it changes), after the non-private one where `with_baseline` is set; each of them `seeds`
    times, with the seeds from `seed` on, or from 0 where the operating system gives the randomness,
    see `dpfinjax.entropy`.

    Args:
      config: the run's config; a cell names a field of a part with a dot, "model.hidden".
      name: of the model where there are no cells; "baseline" without clipping, else "dpsgd".

    Raises:
      InputError: for cells, seeds or models_at_once that cannot be, or where one model is to be
        selected, see `dpfinjax.selection`.
    """
    fields.check(config, _KINDS, ("seed",))
    fields.check(config, {name: kind for name, kind in _KINDS_IF_THERE.items() if name in config})
    select = config.get("sweep", {}).get("select", "none")
    if select != "none":
        raise InputError(
            f"config.sweep.select is {select!r}; launch.dpsgd alone can select, and any other job "
            "needs 'none'."
        )
    for field in ("seeds", "models_at_once"):
        if config[field] < 1:
            raise InputError(f"config.{field} is {config[field]}; it must be at least 1.")
    models = config.seeds * max(1, len(config.cells))
    if models > _MOST_MODELS:
        raise InputError(
            f"config.seeds and config.cells ask for {models} models; a run has at most "
            f"{_MOST_MODELS}."
        )
    config = entropy.planned(config)
    if not 0 <= config.seed <= 2**32 - config.seeds:
        raise InputError(
            f"config.seed is {config.seed} for {config.seeds} seeds; they must be from 0 to "
            "2^32 - 1."
        )
    found = {}
    if config.get("with_baseline", False):
        found["baseline"] = changed(config, config.baseline)
    for cell in config.cells:
        label = _cell_name(cell, config)
        if label in found:
            raise InputError(f"config.cells has the cell {label} twice; each must differ.")
        found[label] = changed(config, cell)
    if not config.cells:
        found[name or ("baseline" if config.clip_method == "none" else "dpsgd")] = config
    return {
        f"{label},seed={seed}" if config.seeds > 1 else label: Model(
            label, changed(cell, {"seed": seed}) if config.seeds > 1 else cell
        )
        for label, cell in found.items()
        for seed in range(config.seed, config.seed + config.seeds)
    }


def settle_pairs(config: ConfigDict, given: Iterable[str]) -> None:
    """Clears, in place, each setting whose alternative is among the names that were given."""
    given = tuple(given)
    for part, value in config.items():
        if isinstance(value, ConfigDict):
            within = (name for name in given if name.startswith(f"{part}."))
            settle_pairs(value, [name.removeprefix(f"{part}.") for name in within])
    for pair in EITHER_OR:
        for name, other in (pair, pair[::-1]):
            if name in given and other not in given and other in config:
                config[other] = None


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with some fields changed.

    Args:
      config: the config.
      changes: values by field; "model.hidden" is a field of a part. The alternative of one that is
        given is cleared, see `EITHER_OR`.

    Raises:
      InputError: for a field or a value that does not fit.
    """
    copy = config.copy_and_resolve_references()
    try:
        for name, value in changes.items():
            if "." in name:
                copy.update_from_flattened_dict({name: value})
            else:
                copy.update({name: value})
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(
            f"config.cells has {dict(changes)!r}, which does not fit: {error}."
        ) from error
    settle_pairs(copy, changes)
    return copy


def _cell_name(cell: Any, config: ConfigDict) -> str:
    """The fields that a cell changes, fit for a folder's name."""
    if not isinstance(cell, Mapping) or not cell:
        raise InputError(f"config.cells has the entry {cell!r}; each is a dict of fields.")
    for name in cell:
        part, _, within = name.partition(".")
        if part not in config or part in _OF_THE_RUN:
            raise InputError(f"config.cells changes {name!r}, which is no field of one model.")
        if isinstance(config[part], ConfigDict) != bool(within):
            raise InputError(
                f"config.cells changes {name!r}; a field of a part is named like 'model.hidden'."
            )
    return ",".join(f"{name}={value}" for name, value in cell.items()).replace("/", "_")
