"""Audits a private training: what attacks prove of its epsilon, beside what it states.

Canaries, each a whole unit of privacy, are planted, models trained with and without them by the
very code and settings of the training, and lower bounds on epsilon computed from how well they are
told apart. Each audit prints lower <= epsilon <= upper. A lower bound above the stated epsilon ends
the program with exit code 1.

  python -m launch.audit --config=configs/audit.py:quick
  python -m launch.audit --config.data.source=bars.csv.gz --config.target_epsilon=2
  python -m launch.audit --config=configs/audit.py:mutants   # what would faults look like?

Writes audit.json, results.csv with a row for each bound, and plots/audit.png.
"""

import math
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dpfinjax import data, experiment, fields, plots, privacy, workdir
from dpfinjax.attacks import canaries, intervals, mutants
from dpfinjax.attacks.intervals import Interval
from dpfinjax.attacks.mutants import Verdict
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.training import Data
from launch import app

_OPTIONAL = ("stated_epsilon",)
_KINDS = {
    **dict.fromkeys(("canaries", "runs", "network_runs", "others"), fields.WHOLE),
    **dict.fromkeys(("confidence", "alarm_confidence"), fields.NUMBER),
    **dict.fromkeys(("kind", "score"), fields.TEXT),
}


def audit_and_draw(config: ConfigDict, folder: str | Path) -> list[str]:
    """Audits the trainings that a config describes, or the mutants where it asks for them.

    Args:
      config: as `configs/audit.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      A sentence for each accusation, none where all is well.

    Raises:
      InputError: for a config, data or folder that cannot be used.
    """
    return (_try_mutants if config.mutants else _audit_trainings)(config, folder)


def audit_or_fail(config: ConfigDict, folder: str | Path) -> None:
    """Audits as `audit_and_draw` does, and ends with exit code 1 where anything is accused."""
    accusations = audit_and_draw(config, folder)
    for sentence in accusations:
        print(f"FAILED: {sentence}", file=sys.stderr)
    if accusations:
        sys.exit(1)


def _audit_trainings(config: ConfigDict, folder: str | Path) -> list[str]:
    """Audits each model of the config."""
    check(config)
    experiment.models_of(config)
    workdir.check(folder, config)
    splits, facts = data.load(config), data.describe(config)
    runs = experiment.runs_of(config, facts)
    examples = min(run.plan.statement.examples for run in runs)
    for field in ("canaries", "others"):
        if config.audit[field] >= examples:
            raise InputError(
                f"config.audit.{field} is {config.audit[field]}; it must be below the number of "
                f"training units, {examples}."
            )
    folder = workdir.claim(folder, config, experiment.bound(runs, facts))

    found: dict[str, list[Interval]] = {}
    for run in runs:
        case = _case(run, experiment.training_data(run, splits.train))
        print(f"{run.name}: epsilon {privacy.shown(case.stated)} is stated at delta {case.delta:g}")
        found[run.name] = []
        for interval in intervals.audit_all(case):
            print(f"  {interval.audit:<38} {interval.bound:<16} {_told(interval)}", flush=True)
            found[run.name].append(interval)
    _write(folder, runs, found)
    print(f"\n{_legend(config)}\n\nWritten to {folder}")
    return [
        f"{name}: {interval.audit} ({interval.bound}): {interval.models} trained models prove that "
        f"epsilon is above {interval.alarm:.3f}, but {privacy.shown(interval.upper)} is stated; "
        f"this training tells more about {facts.unit} than it says."
        for name, of_model in found.items()
        for interval in of_model
        if interval.accused
    ]


def check(config: ConfigDict) -> None:
    """Raises InputError for audit settings that are wrong whatever the data are."""
    fields.check(config, {"audit": fields.PART, "stated_epsilon": fields.NUMBER}, _OPTIONAL)
    fields.check(config.audit, _KINDS, name="config.audit")
    for name in ("canaries", "runs", "network_runs", "others"):
        if config.audit[name] < 1:
            raise InputError(f"config.audit.{name} is {config.audit[name]}; it must be at least 1.")
    for name in ("confidence", "alarm_confidence"):
        if not 0 < config.audit[name] < 1:
            raise InputError(
                f"config.audit.{name} is {config.audit[name]}; it must be above 0 and below 1."
            )
    for name, allowed in (("kind", canaries.KINDS), ("score", canaries.SCORES)):
        if config.audit[name] not in allowed:
            raise InputError(
                f"config.audit.{name} is {config.audit[name]!r}; it must be one of "
                f"{', '.join(allowed)}."
            )
    if config.stated_epsilon is not None and not 0 <= config.stated_epsilon < math.inf:
        raise InputError(
            f"config.stated_epsilon is {config.stated_epsilon}; it must be finite and at least 0."
        )


def _case(run: experiment.Run, train: Data) -> intervals.Case:
    """One model under audit."""
    key = jax.random.fold_in(jax.random.key(run.config.seed), zlib.crc32(run.cell.encode()))
    stated = run.config.stated_epsilon
    stated = run.plan.statement.epsilon if stated is None else stated
    how = intervals.Settings(**run.config.audit)
    return intervals.Case(key, run.plan, stated, train, len(PATTERNS), how)


def _told(interval: Interval) -> str:
    """An interval with what it means."""
    note = ""
    if interval.accused:
        note = "  REFUTED"
    elif interval.lower > interval.upper:
        note = "  (above, but not beyond chance)" if interval.decides else "  (does not decide)"
    return f"{interval.sentence()}{note}"


def _legend(config: ConfigDict) -> str:
    """What the table's numbers mean."""
    return (
        f"Each lower bound holds with {100 * config.audit.confidence:g} % confidence. An alarm "
        f"takes {100 * config.audit.alarm_confidence:g} % for all bounds of a training together. "
        "Gaussian bounds of a whole training do not decide unless every batch has all examples."
    )


def _write(folder: Path, runs: Sequence[experiment.Run], found: dict[str, list[Interval]]) -> None:
    """Writes the table, the JSON and the picture."""
    rows, contents = [], {}
    for run in runs:
        statement = run.plan.statement
        shared = {
            "model": run.cell,
            "epsilon": found[run.name][0].upper,
            "delta": statement.delta,
            "noise_multiplier": statement.noise_multiplier,
            "clip_norm": statement.clip_norm,
            "seed": run.config.seed,
        }
        lines = [i._asdict() | {"accused": i.accused} for i in found[run.name]]
        rows += [shared | line for line in lines]
        contents[run.name] = [{k: _json(v) for k, v in line.items()} for line in lines]
    workdir.write_csv(folder / "results.csv", rows)
    workdir.write_json(folder / "audit.json", contents)
    pictures = folder / "plots"
    pictures.mkdir(exist_ok=True)
    plots.audit_intervals(
        pictures / "audit.png",
        {
            name: [(f"{i.audit}\n{i.bound}", i.lower, i.upper, i.accused) for i in of_model]
            for name, of_model in found.items()
        },
    )


def _json(value: Any) -> Any:
    """Infinity as a string, since JSON has none."""
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def _try_mutants(config: ConfigDict, folder: str | Path) -> list[str]:
    """Tests each mutant, and beside it the unbroken mechanism, with several seeds."""
    counts = ("mutant_runs", "mutant_seeds", "seed")
    fields.check(config, dict.fromkeys(counts, fields.WHOLE), ("seed",))
    for field in ("mutant_runs", "mutant_seeds"):
        if config[field] < 1:
            raise InputError(f"config.{field} is {config[field]}; it must be at least 1.")
    folder = workdir.claim(folder, config, {})
    first = config.seed or 0
    seeds = range(first, first + config.mutant_seeds)
    print(f"{'mutant':<42} {'caught':>8} {'unbroken accused':>17}  caught by")
    found: dict[str, list[tuple[Verdict, Verdict]]] = {}
    for name in mutants.MUTANTS:
        found[name] = [mutants.try_mutant(name, seed, config.mutant_runs) for seed in seeds]
        caught, accused = _counts(found[name])
        print(
            f"{name:<42} {caught:>3} of {len(seeds)} {accused:>12} of {len(seeds)}  "
            f"{found[name][0][0].sentence()}",
            flush=True,
        )
    _write_mutants(folder, found)
    print(f"\nWritten to {folder}")
    return [
        f"{name}: caught with {caught} of {len(pairs)} seeds, and the unbroken mechanism accused "
        f"with {accused}; it must be all and none."
        for name, pairs in found.items()
        for caught, accused in [_counts(pairs)]
        if caught < len(pairs) or accused
    ]


def _counts(pairs: Sequence[tuple[Verdict, Verdict]]) -> tuple[int, int]:
    """How often the mutant was refuted, and how often the unbroken mechanism."""
    return sum(b.refuted for b, _ in pairs), sum(u.refuted for _, u in pairs)


def _write_mutants(folder: Path, found: dict[str, list[tuple[Verdict, Verdict]]]) -> None:
    """Writes the table of mutants, a row for each seed, the JSON and the picture."""
    rows = [
        {"mutant": name, "seed_number": number, "test": broken.test, "claimed": broken.claimed}
        | {"broken_low": broken.low, "broken_high": broken.high, "caught": broken.refuted}
        | {"unbroken_claimed": unbroken.claimed, "unbroken_low": unbroken.low}
        | {"unbroken_high": unbroken.high, "unbroken_accused": unbroken.refuted}
        for name, pairs in found.items()
        for number, (broken, unbroken) in enumerate(pairs)
    ]
    workdir.write_csv(folder / "results.csv", rows)
    contents = [{key: _json(value) for key, value in row.items()} for row in rows]
    workdir.write_json(folder / "audit.json", {"mutants": contents})
    pictures = folder / "plots"
    pictures.mkdir(exist_ok=True)
    plots.audit_mutants(
        pictures / "mutants.png",
        {
            name: (
                [(broken.claimed, broken.low) for broken, _ in pairs],
                [(unbroken.claimed, unbroken.low) for _, unbroken in pairs],
            )
            for name, pairs in found.items()
            if math.isinf(pairs[0][0].high)  # the others are not about epsilon
        },
    )


if __name__ == "__main__":
    app.run(audit_or_fail, "audit")
