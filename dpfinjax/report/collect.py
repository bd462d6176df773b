"""A study read from the folders of its parts: all that a report shows comes from their files."""

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from dpfinjax import entropy, privacy, release, sweeps, workdir
from dpfinjax.attacks import metrics
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.report import wording
from dpfinjax.report.record import Attack, Audit, Model, Study

FINISHED = "finished.json"
"""The file that a part's folder has once the part is done."""

TRAININGS = {
    "dpsgd": "DP-SGD",
    "published": "Published recipe",
    "pretrained": "DP-SGD after simulated bars",
    "pate": "PATE",
}
"""Parts that train models, each in a folder of this name, with what their models are called."""

ATTACKS = {
    "shadow": "paper's attack",
    "lira": "LiRA",
    "rmia": "RMIA",
    "loss": "loss threshold",
    "calibrated_loss": "calibrated loss",
}
"""The attacks' names for people."""

_BASELINE = "baseline"
_LABELS = {
    "target_epsilon": "epsilon",
    "noise_multiplier": "noise",
    "clip_norm": "clip norm",
}
# What belongs to a run of several models, or to a machine.
_NOT_OF_A_MODEL = ("cells", "with_baseline", "baseline", "sweep", "models_at_once")
_POINTS, _SAMPLE = 300, 20_000
_TPR_AT, _EXPOSED_AT = 0.001, 0.05
_AS_MANY = 0.95  # of a target's examples; with fewer, a shadow model is not quite its like


class _Cell(NamedTuple):
    """One way to train a model.

    Attributes:
      part: a name in `TRAININGS`.
      name: the cell's name.
      runs: the names of its models, a seed each.
      config: of the first of them.
      changes: the fields that the cell changes, with their values.
      alone: whether the part has no other model, and so no folders for them.
    """

    part: str
    name: str
    runs: tuple[str, ...]
    config: ConfigDict
    changes: Mapping[str, Any]
    alone: bool

    @property
    def family(self) -> str:
        """A name in `record.FAMILIES`."""
        return _BASELINE if self.config.get("clip_method") == "none" else self.part


Command = Callable[[str, str, ConfigDict], str]
"""From a model's name, family and config to what trains it alone."""


def read(folder: str | Path, command: str, command_of: Command) -> Study:
    """Reads a study whose parts are done.

    Args:
      folder: the workdir of `launch.study`.
      command: what makes the report again.
      command_of: what trains a model alone.

    Returns:
      Everything that a report shows, the same for the same files. It names no folder of this
      machine, and holds no number that a PATE run must not publish.

    Raises:
      InputError: if a file is damaged, or is not what a part of a study writes.
    """
    with _damage_told(Path(folder)):
        return _read(Path(folder), command, command_of)


def _read(folder: Path, command: str, command_of: Command) -> Study:
    """The study of a folder whose files may be damaged."""
    about, facts = _json(folder / workdir.CONFIG), _json(folder / "data" / "facts.json")
    config = ConfigDict(about["config"])
    cells = [cell for part in TRAININGS for cell in _cells(folder / part)]
    models = tuple(_model(folder, cell, command_of) for cell in cells)
    return Study(
        source=source(config.data),
        unit=facts["unit"],
        counts=facts["examples"],
        pictures=_pictures(folder / "data" / "plots"),
        models=models,
        tolerance=config.tolerance,
        command=command,
        versions={"python": about["python"], **about["versions"]},
        remarks=tuple(_remarks(folder, config, facts, models)),
    )


def source(config: ConfigDict) -> str:
    """Returns what bars are, for people: the names of their files, and no folder.

    Args:
      config: `config.data` of a run.
    """
    if config.source == "sim":
        return f"a simulated market of {config.sim_bars:,} bars"
    return shareable(ConfigDict({"data": config})).data.source


def shareable(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a config that names files, but no folder of this machine.

    Args:
      config: of any run.
    """
    copy = config.copy_and_resolve_references()
    given = copy.data.source
    if not str(given).startswith("binance:"):
        names = given.split(",") if isinstance(given, str) else given
        with copy.ignore_type():
            copy.data.source = ",".join(Path(name).name for name in names)
    if "cache_dir" in copy.data:
        copy.data.cache_dir = ""
    return copy


def wanted(config: ConfigDict, field: str = "parts") -> list[str]:
    """Returns the parts that a study does, of whose names an entry may hold several with commas.

    Args:
      config: as `configs/study.py` makes it.
      field: its field that names them.
    """
    return [name for entry in config[field] for name in entry.split(",") if name]


def obstacle_to_pate(examples: Mapping[str, Mapping[str, int]]) -> str | None:
    """Returns why data are too few for PATE, in words, or None where they are not.

    Args:
      examples: by split, the number of examples of each pattern.
    """
    missing = [pattern for pattern, number in examples["public"].items() if not number]
    if not missing:
        return None
    return (
        f"PATE was left out: the public split has no window of {wording.listed(missing)}, which no "
        "student could learn."
    )


def accusations(folder: str | Path) -> list[str]:
    """Returns a sentence for each training whose stated epsilon an audit refutes.

    Args:
      folder: the workdir of `launch.study`.

    Raises:
      InputError: as `read` does.
    """
    with _damage_told(Path(folder)):
        return _accusations(Path(folder))


@contextlib.contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    """Says in a sentence what a damaged file of a study makes Python raise."""
    try:
        yield
    except InputError:
        raise
    except Exception as damage:  # whatever a value makes of itself that nobody has written
        told = " ".join(f"{type(damage).__name__}: {damage}".split())[:300]
        raise InputError(
            f"{folder} holds files that launch.study did not write so ({told}); the part that "
            "is damaged is done again once its folder is removed."
        ) from damage


def _accusations(folder: Path) -> list[str]:
    """A sentence for each training whose stated epsilon is refuted."""
    return [
        f"{cell}: {line['audit']} ({line['bound']}) proves an epsilon above {line['alarm']:.3f}, "
        f"but {privacy.shown(float(line['upper']))} is stated; this training tells too much."
        for path in sorted((folder / "audit").glob("*/*/audit.json"))
        for cell, lines in _json(path).items()
        for line in lines
        if line["accused"]
    ]


def _cells(folder: Path) -> list[_Cell]:
    """The cells of a part, none where it was not done."""
    if not (folder / FINISHED).exists():
        return []
    config, part = ConfigDict(_json(folder / workdir.CONFIG)["config"]), folder.name
    found = sweeps.models_of(config, "pate" if part == "pate" else None)
    runs: dict[str, list[str]] = {}
    for name, model in found.items():
        runs.setdefault(model.cell, []).append(name)
    changes = [{}] * config.get("with_baseline", False) + (list(config.cells) or [{}])
    return [
        _Cell(
            part,
            cell,
            tuple(names),
            entropy.as_given(found[names[0]].config),
            dict(own),
            len(found) == 1,
        )
        for (cell, names), own in zip(runs.items(), changes, strict=True)
    ]


def _model(folder: Path, cell: _Cell, command_of: Command) -> Model:
    """One way to train a model, over its seeds."""
    place = folder / cell.part
    rows = [row for row in _csv(place / "results.csv") if row["model"] in {cell.name, *cell.runs}]
    stated = _stated(_json(place / "privacy.json"), cell)
    attacked, name = _attacked(folder, cell), f"{cell.part}/{cell.name}"
    return Model(
        name=name,
        label=_label(cell),
        family=cell.family,
        epsilon=float(stated["epsilon"]),
        delta=float(stated["delta"]),
        tuned_epsilon=None,  # a study makes no private choice, see `dpfinjax.selection`
        published_epsilon=_optional(stated.get("published_epsilon")),
        noise_multiplier=_noise(cell, stated),
        validation=tuple(float(row["validation_accuracy"]) for row in rows),
        test=tuple(float(row["test_accuracy"]) for row in rows),
        per_pattern=_per_pattern(place, cell),
        sentence=_sentence(cell, stated),
        assumptions=tuple(stated["assumptions"]),
        settings=_settings(cell.config),
        command=command_of(name, cell.family, shareable(cell.config)),
        attacks=_attacks(attacked),
        audits=_audits(folder / "audit" / cell.part / cell.name, cell.name),
        members=_sample(attacked, "member_probs"),
        nonmembers=_sample(attacked, "nonmember_probs"),
        exposure=_exposure(attacked),
        release=_released(folder, cell),
    )


def _released(folder: Path, cell: _Cell) -> str:
    """Where what may be shared of a cell's first model lies, "" where there is nothing."""
    inside = cell.part != "pate" and cell.alone
    place = Path(cell.part) / ("" if inside else cell.runs[0]) / release.FOLDER
    return place.as_posix() if (folder / place).is_dir() else ""


def _stated(content: Mapping[str, Any], cell: _Cell) -> Mapping[str, Any]:
    """The claim about a cell: of its seeds the largest, as what PATE releases may differ."""
    claims = [content] if cell.alone else [content[name] for name in cell.runs]
    return max(claims, key=lambda claim: float(claim["epsilon"]))


def _label(cell: _Cell) -> str:
    """A cell for people."""
    if cell.family == _BASELINE:
        return "Non-private"
    own = cell.config.to_dict()
    told = cell.changes or {
        name: own[name] for name in ("target_epsilon", "noise_multiplier") if own.get(name)
    }
    words = [
        f"{_LABELS.get(name, name.replace('_', ' '))} {_short(value)}"
        for name, value in told.items()
    ]
    return ", ".join([TRAININGS[cell.part], *words])


def _short(value: Any) -> str:
    """A setting's value in a label."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _optional(value: Any) -> float | None:
    """A number that may be missing."""
    return None if value is None else float(value)


def _noise(cell: _Cell, stated: Mapping[str, Any]) -> float | None:
    """Noise over clip norm, for what has both."""
    has_both = cell.family not in (_BASELINE, "pate")
    return float(stated["noise_multiplier"]) if has_both else None


def _sentence(cell: _Cell, stated: Mapping[str, Any]) -> str:
    """A claim in plain words; nothing that depends on private votes is in them."""
    if cell.part != "pate":
        return _statement(stated).sentence().replace("; the assumptions are in privacy.json", "")
    epsilon, delta = privacy.shown(float(stated["epsilon"])), privacy.rounded_up(stated["delta"])
    return (
        f"epsilon = {epsilon} at delta = {delta}: adding or removing {stated['unit']} changes the "
        f"vote of one of {stated['teachers']} teachers. ({stated['mechanism'].capitalize()} "
        f"mechanism, noise of {stated['scale']:.4g} votes, at most {stated['answers']} answers.)"
    )


def _statement(stated: Mapping[str, Any]) -> privacy.Statement:
    """The statement that a model's part of `privacy.json` was made of."""
    values: dict[str, Any] = {name: stated.get(name) for name in privacy.Statement._fields}
    values |= {name: math.inf for name, value in values.items() if value == "inf"}
    return privacy.Statement(**values)


def _settings(config: ConfigDict) -> dict[str, Any]:
    """The settings of one model."""
    found = workdir.as_json(shareable(config))
    del found["data"]["cache_dir"]
    return {name: value for name, value in found.items() if name not in _NOT_OF_A_MODEL}


def _per_pattern(place: Path, cell: _Cell) -> dict[str, float]:
    """Test accuracy by pattern over all seeds, empty where it was not measured."""
    counts: dict[str, NDArray[np.int64]] = {}
    for name in cell.runs:
        path = (place if cell.alone else place / name) / "accuracy_per_pattern.csv"
        for row in _csv(path) if path.exists() else ():
            own = np.array([int(row["right"]), int(row["examples"])])
            counts[row["pattern"]] = counts.get(row["pattern"], np.zeros(2, np.int64)) + own
    return {name: float(right / n) if n else math.nan for name, (right, n) in counts.items()}


def _attacked(folder: Path, cell: _Cell) -> Path | None:
    """Where the attack on a cell's first model is, None where there was none."""
    place = folder / "attack"
    if not (place / FINISHED).exists():
        return None
    targets = _json(place / workdir.CONFIG)["config"]["targets"].split(",")
    if cell.part not in (Path(target).name for target in targets):
        return None
    found = [place / name for name in (cell.runs[0], f"{cell.part},{cell.runs[0]}")]
    return next((each for each in found if (each / "is_member.npy").exists()), None)


def _attacks(folder: Path | None) -> tuple[Attack, ...]:
    """Every attack on a model."""
    if folder is None:
        return ()
    member = workdir.read_npy(folder / "is_member.npy")
    return tuple(
        _attack(label, metrics.roc(workdir.read_npy(folder / f"scores_{name}.npy"), member))
        for name, label in ATTACKS.items()
    )


def _attack(label: str, curve: metrics.Roc) -> Attack:
    """One attack on a model."""
    tpr, low, high = curve.tpr_at(_TPR_AT)
    chosen = _thinned(curve.fpr)
    points = zip(curve.fpr[chosen].tolist(), curve.tpr[chosen].tolist(), strict=True)
    ends = (float(curve.auc_low), float(curve.auc_high))
    return Attack(label, curve.auc, ends, tpr, (low, high), tuple(points))


def _thinned(fpr: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places in a curve, at most `_POINTS`: its ends, and as many small rates as large ones."""
    if len(fpr) <= _POINTS:
        return np.arange(len(fpr))
    rates = np.geomspace(fpr[fpr > 0].min(), 1, _POINTS - 3)
    last = np.searchsorted(fpr, [0.0, *rates], side="right") - 1
    return np.unique([0, *last, len(fpr) - 1])


def _sample(folder: Path | None, name: str) -> tuple[float, ...]:
    """Membership probabilities, of many as many quantiles."""
    if folder is None:
        return ()
    values = np.sort(workdir.read_npy(folder / f"{name}.npy"))
    if len(values) > _SAMPLE:
        values = values[np.linspace(0, len(values) - 1, _SAMPLE).round().astype(int)]
    return tuple(values.tolist())


def _exposure(folder: Path | None) -> dict[str, float]:
    """How much of each pattern LiRA finds."""
    if folder is None:
        return {}
    scores, member, label = (
        workdir.read_npy(folder / f"{name}.npy") for name in ("scores_lira", "is_member", "labels")
    )
    curves = metrics.by_class(scores, member, label, PATTERNS)
    return {
        name: curves[name].tpr_at(_EXPOSED_AT)[0] if name in curves else math.nan
        for name in PATTERNS
    }


def _audits(folder: Path, name: str) -> tuple[Audit, ...]:
    """Every audit of a cell's training whose bound holds whatever else.

    The bounds are those of an alarm: they hold together, so that the largest of them does too.
    """
    if not (folder / FINISHED).exists():
        return ()
    confidence = _json(folder / workdir.CONFIG)["config"]["audit"]["alarm_confidence"]
    return tuple(
        Audit(f"{line['audit']}, {line['bound']} bound", float(line["alarm"]), confidence)
        for line in _json(folder / "audit.json")[name]
        if line["decides"]
    )


def _pictures(folder: Path) -> tuple[tuple[str, bytes], ...]:
    """What `launch.data` drew."""
    captions = {
        "patterns.png": "A window of each pattern as a candlestick chart, and its image's channels",
        "counts.png": "Windows of each pattern in each split",
    }
    return tuple((caption, (folder / name).read_bytes()) for name, caption in captions.items())


def _remarks(
    folder: Path, config: ConfigDict, facts: Mapping[str, Any], models: Sequence[Model]
) -> list[str]:
    """What a reader has to know."""
    found = [_about_accuracy(facts["examples"], models)]
    if config.data.source != "sim":
        seed = (
            ""
            if config.seed is None
            else (" and the seed, with which the noise of a shared model can be removed,")
        )
        found.append(
            f"No epsilon covers this page: it shows windows of the private bars{seed} and figures "
            "that were computed from them. Share the model, not the page."
        )
    else:
        found.append("The bars are simulated: nothing here tells how it would be with real ones.")
    if any(model.family == "pretrained" for model in models):
        found.append(
            "Training on simulated bars first may carry far, because labels follow public rules "
            "that simulated bars share; where labels are secret it would carry less."
        )
    obstacle = obstacle_to_pate(facts["examples"])
    if obstacle and "pate" in wanted(config):
        found.append(obstacle)
    about_commands = (
        "A command for one model alone has that model's settings and draws other noise, so its "
        "figures differ as they do between seeds."
    )
    private = sum(model.family != _BASELINE for model in models)
    if private > 1:
        found.append(
            "Each epsilon is that of one training. Choosing by the accuracies of "
            f"{private} private ways to train, as this page does, spends more, and so does sharing "
            "several models; launch.dpsgd with config.sweep.select='private' chooses at a stated "
            "price."
        )
    about_attacks = _about_attacks(folder / "attack", config, models)
    return [*accusations(folder), *found, *about_attacks, about_commands]


def _about_accuracy(examples: Mapping[str, Mapping[str, int]], models: Sequence[Model]) -> str:
    """How well so many windows tell one accuracy from another."""
    typical = max((float(np.mean(model.test)) for model in models), default=0.5)
    counts = [sum(examples[split].values()) for split in ("validation", "test")]
    (validation, near), (test, exactly) = (
        (n, wording.points(1.96 * math.sqrt(typical * (1 - typical) / max(n, 1)))) for n in counts
    )
    return (
        "Intervals over seeds tell how trainings differ, not how windows do: an accuracy near "
        f"{wording.percent(typical)} is itself known to within {exactly} from {test:,} test "
        f"windows, and to within {near} from the {validation:,} validation windows on which the "
        "choice rests (95\u00a0%)."
    )


def _about_attacks(folder: Path, config: ConfigDict, models: Sequence[Model]) -> list[str]:
    """What the attacks cannot show."""
    if not (folder / FINISHED).exists():
        return []
    row = _csv(folder / "results.csv")[0]
    members, others, shadows = (int(row[n]) for n in ("members", "nonmembers", "shadow_models"))
    found = [
        f"Of each training the model of seed {config.seed or 0} was attacked, with {shadows} "
        "shadow models."
    ]
    left_out = {wording.FAMILY_NAMES[model.family] for model in models if not model.attacks}
    if left_out:
        found.append(f"Not attacked, and so not recommended: {wording.listed(sorted(left_out))}.")
    seen = max(
        _json(path)["examples_most"] for path in folder.glob("*/shadow_models/shadow_models.json")
    )
    if seen < _AS_MANY * members:
        found.append(
            f"Shadow models were trained on at most {seen:,} windows and their targets on "
            f"{members:,}, since the population has only {others:,}: an attacker with more such "
            "windows may be stronger."
        )
    if others < 1 / _TPR_AT:
        found.append(
            f"With {others:,} windows that no model saw, a false-positive rate of 0.1\u00a0% means "
            "no false positive at all."
        )
    return found


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file."""
    content: dict[str, Any] = workdir.read_json(path)
    return content


def _csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
