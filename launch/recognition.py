"""Draws the recognition rate: how surely an attack calls the training data members.

  python -m launch.recognition --config.attack_workdir=logs/attack

Reads what launch.attack wrote and draws plots/recognition_rate.png (a violin for each model, as in
Wang and Tsai 2022) and plots/recognition_against_epsilon.png, with what epsilon proves beside it.
"""

import csv
import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dpfinjax import fields, plots, privacy, workdir
from dpfinjax.attacks import audit
from dpfinjax.attacks.report import Recognition
from dpfinjax.errors import InputError
from launch import app


def draw(config: ConfigDict, folder: str | Path) -> list[Recognition]:
    """Draws the recognition rates of an attack's models.

    Args:
      config: as `configs/recognition.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      What the attack found out about each model, in its order.

    Raises:
      InputError: for a workdir that is not of a finished attack, or a folder that cannot be used.
    """
    fields.check(config, {"attack_workdir": fields.TEXT})
    workdir.check(folder, config)
    found = read(config.attack_workdir)
    probabilities = {
        _title(each): _members(Path(config.attack_workdir) / each.model) for each in found
    }
    folder = workdir.claim(folder, config, {})
    pictures = folder / "plots"
    pictures.mkdir(exist_ok=True)
    workdir.write_csv(folder / "results.csv", [each._asdict() for each in found])
    plots.recognition_violins(pictures / "recognition_rate.png", probabilities)
    _draw_against_epsilon(pictures / "recognition_against_epsilon.png", found)
    _print(found)
    print(f"\nWritten to {folder}")
    return found


def read(folder: str | Path) -> list[Recognition]:
    """Returns what `launch.attack` found out about each model, in its order.

    Args:
      folder: its workdir.

    Raises:
      InputError: if it is not of a finished attack.
    """
    try:
        with open(Path(folder) / "results.csv", newline="") as file:
            names = list(dict.fromkeys(row["model"] for row in csv.DictReader(file)))
        found = [
            _checked(Recognition(**workdir.read_json(Path(folder) / name / "recognition.json")))
            for name in names
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"config.attack_workdir is {folder}, where no attack's results can be read; it must be "
            "the workdir of launch.attack, once that is done."
        ) from error
    if not found:
        raise InputError(f"config.attack_workdir is {folder}, whose results.csv has no model.")
    return found


def _checked(found: Recognition) -> Recognition:
    """What was found out, once every rate is a number from 0 to 1."""
    if not isinstance(found.model, str) or not float(found.epsilon) >= 0 or found.delta is None:
        raise ValueError("a name or a claim is missing")
    for name, value in found._asdict().items():
        is_rate = "rate" in name or name.startswith("tpr") or name in ("auc", "delta")
        if is_rate and not 0 <= float(value) <= 1:
            raise ValueError(f"{name} is {value}")
    return found


def _members(folder: Path) -> np.ndarray:
    """The membership probabilities of the training data."""
    path = folder / "member_probs.npy"
    probabilities = workdir.read_npy(path)
    inside = probabilities.ndim == 1 and probabilities.size and np.isfinite(probabilities).all()
    if not inside or probabilities.min() < 0 or probabilities.max() > 1:
        raise InputError(f"{path} does not hold probabilities; launch.attack writes them.")
    return probabilities


def _title(each: Recognition) -> str:
    """A model's name and what it promises."""
    return f"{each.model}\nepsilon = {privacy.shown(float(each.epsilon))}"


def _draw_against_epsilon(path: Path, found: list[Recognition]) -> None:
    """Recognition rate and true-positive rate against epsilon, with the curves that are proven."""
    epsilon = np.array([float(each.epsilon) for each in found])
    private = epsilon[np.isfinite(epsilon)]
    first, last = (private.min() / 3, private.max() * 3) if private.size else (0.1, 100.0)
    grid, delta = np.geomspace(first, last, 300), max(each.delta for each in found)
    population = max(each.population_rate for each in found)
    measures = {
        f"recognition rate (population: at most {population:.2f})": (
            "recognition_rate",
            population,
        ),
        "true-positive rate at 0.1 % false positives": ("tpr_0_1pct", 1e-3),
    }
    rates, bounds = {}, {}
    for measure, (field, fpr) in measures.items():
        ends_of = (field, f"{field}_low", f"{field}_high")
        rates[measure] = np.array([[getattr(each, name) for name in ends_of] for each in found])
        bounds[measure] = grid, audit.upper_tpr(grid, delta, fpr)
    lowest = dict(zip(rates, (0.0, 1e-4), strict=True))
    names = [each.model for each in found]
    plots.recognition_against_epsilon(path, epsilon, rates, bounds, lowest, names)


def _print(found: list[Recognition]) -> None:
    """The rates as a table."""
    width = max(len(each.model) for each in found)
    print(
        f"{'model':<{width}}  {'epsilon':>10}  {'recognition rate':>24}  {'population':>10}  bound"
    )
    for each in found:
        promised = math.isfinite(float(each.epsilon))
        interval = f"{each.recognition_rate_low:.3f} to {each.recognition_rate_high:.3f}"
        print(
            f"{each.model:<{width}}  {privacy.shown(float(each.epsilon)):>10}  "
            f"{each.recognition_rate:.3f} ({interval})  {each.population_rate:>10.3f}  "
            + (f"{each.recognition_rate_bound:.3f}" if promised else "-")
        )


if __name__ == "__main__":
    app.run(draw, "recognition")
