"""From the run's config to the five splits in memory."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from absl import logging
from ml_collections import ConfigDict, config_dict

from dpfinjax import fields, workdir
from dpfinjax.data import (
    bars,
    binance,
    candlestick_gaf,
    candlestick_windows,
    patterns,
    splits,
    units,
)
from dpfinjax.data.candlestick_gaf import CandlestickGaf, CandlestickGafConfig
from dpfinjax.data.candlestick_windows import CandlestickWindows
from dpfinjax.data.disk import Stored
from dpfinjax.data.splits import Splits
from dpfinjax.errors import InputError

STREAMS = ("auto", "never", "always")

_PICKLE_SUFFIXES = (".pkl", ".pickle")
_PAPER_LENGTH = 10
_LARGEST = {"seed": 2**63 - 1, "sim_bars": 10**11, "purge_bars": 2**31, "length": 1000}
_KINDS = {
    "fractions": fields.MANY,
    "split": fields.TEXT,
    "binance_url": fields.TEXT,
    "cache_dir": fields.TEXT,
}

# Sources that might have more windows than the images' writer can hold are kept as windows.
_LARGE_SPLIT_BYTES = 900 * 2**20
_LARGE_FILES_BYTES = 2**30

_Builder = CandlestickGaf | CandlestickWindows
_Result = TypeVar("_Result")


class StoredSplits(NamedTuple):
    """`Splits` on disk; what each is for is said there."""

    train: Stored
    validation: Stored
    test: Stored
    public: Stored
    population: Stored


class Facts(NamedTuple):
    """What a report or a privacy statement says about the data.

    Attributes:
      source: As the config names it.
      source_sha256: The digest of each of the source's files; none for `sim`.
      folder: Where the prepared dataset lies.
      bars: Bars in the source; 0 for the paper's pickle, which has none.
      moved_bars: Those with close != open, which patterns and windows are made of.
      patterns: Bars on which a pattern ends.
      windows: Windows that were cut.
      windows_with_gap: Labelled windows left out because a bar is missing inside.
      windows_overlapping: Labelled windows left out because they share a bar with another.
      windows_crossing: Labelled windows left out because their bars belong to two units.
      windows_unused: Windows in no split: purged, or left over by the fractions.
      examples: For each split, the number of examples of each pattern.
      units: For each split, how many units of privacy have 0, 1, 2, ... of its examples.
      disjoint: Whether no bar sits in two examples.
      unit_name: The unit as the config names it: `window`, `day`, `week` or a column.
      unit: What one unit is, in words.
      assumptions: What a guarantee for that unit does not cover, one sentence each.
    """

    source: str
    source_sha256: tuple[str, ...]
    folder: str
    bars: int
    moved_bars: int
    patterns: int
    windows: int
    windows_with_gap: int
    windows_overlapping: int
    windows_crossing: int
    windows_unused: int
    examples: dict[str, dict[str, int]]
    units: dict[str, list[int]]
    disjoint: bool
    unit_name: str
    unit: str
    assumptions: tuple[str, ...]


def default_config() -> ConfigDict:
    """The part `config.data` of a run's config, with its defaults.

    Returns:
      `source`: `sim`, `binance:ETHUSDT:1m:2020-01:2020-12`, the paper's pickle, or files of bars:
        a path, several separated by commas, or a list.
      `split`: `random`, or `chronological` with a purge gap.
      `fractions`: The shares of train, validation, test, public and population; at most 1 in all.
      `seed`: For the simulated market and for the split.
      `sim_bars`: How many bars `sim` makes; the default gives the paper's 13,170 training images.
      `purge_bars`: Bars with close != open left out between two chronological splits.
      `length`: Bars in a window.
      `stream`: whether training reads examples from disk step by step: `always`, `never`, or
        `auto`, where they would not fit into memory. It changes no result.
      `binance_url`: Where the monthly archives are.
      `cache_dir`: Where datasets and downloads are kept; empty stands for
        `$XDG_CACHE_HOME/dpfinjax` or `~/.cache/dpfinjax`.
    """
    return ConfigDict(
        {
            # Of type object, so that a list may take the place of the string.
            "source": config_dict.FieldReference("sim", field_type=object),
            "split": "random",
            "fractions": (0.70, 0.05, 0.10, 0.075, 0.075),
            "seed": 0,
            "sim_bars": 3_000_000,
            "purge_bars": patterns.LOOKBACK_BARS,
            "length": 10,
            "stream": "auto",
            "binance_url": binance.BASE_URL,
            "cache_dir": "",
        }
    )


def load(config: ConfigDict) -> Splits:
    """Loads the five splits, and prepares them first where that has not been done.

    The same content and settings give the same arrays. A prepared dataset is kept as
    `candlestick_gaf` under `config.data.cache_dir`; changed settings, a changed source or changed
    code never meet an old one. Several processes may load at once.

    Args:
      config: The run's config; reads `config.data`, see `default_config`, and, where it is there,
        `config.privacy.unit`, which is `window` elsewhere.

    Returns:
      The splits as NumPy arrays; examples of one unit are in one split.

    Raises:
      InputError: If a field or the source is not what it should be, or has too few bars; names the
        field.
    """
    if config.data.stream == "always":
        raise InputError(
            "config.data.stream is 'always', but this job needs all images in memory; it must be "
            "auto or never."
        )
    return _with_dataset(config, _read)


def stored(config: ConfigDict) -> StoredSplits:
    """Opens the five splits without reading them, and prepares them first, see `load`.

    Args:
      config: The run's config, see `load`.

    Returns:
      The splits, whose rows are those of the arrays that `load` gives.

    Raises:
      InputError: As `load` does.
    """
    return _with_dataset(config, _open)


def describe(config: ConfigDict) -> Facts:
    """States what the data are, for a report or a privacy statement; prepares them if needed.

    Args:
      config: The run's config, see `load`.

    Returns:
      The facts.

    Raises:
      InputError: As `load` does.
    """
    return _with_dataset(config, _facts)._replace(source=str(config.data.source))


def name(config: ConfigDict) -> str:
    """Names the dataset that a config's data make, without preparing it.

    Args:
      config: The run's config, see `load`.

    Returns:
      A name with a digest of source, settings and code.

    Raises:
      InputError: As `load` does.
    """
    return _resolve(config)[0].name


def _facts(builder: _Builder) -> Facts:
    """What the dataset's own files say, and its settings."""
    settings = builder.builder_config
    stored = dict(builder.info.metadata)
    examples = {
        split: dict(zip(patterns.PATTERNS, counts, strict=True))
        for split, counts in stored.pop("examples").items()
    }
    used = sum(sum(counts.values()) for counts in examples.values())
    disjoint = settings.kind != "pickle"
    return Facts(
        source=settings.kind,
        source_sha256=settings.sha256,
        folder=str(builder.data_dir),
        windows_unused=stored["windows"] - used,
        examples=examples,
        disjoint=disjoint,
        unit_name=settings.unit,
        unit=_unit(settings, disjoint),
        assumptions=_assumptions(settings, disjoint),
        **stored,
    )


def _unit(settings: CandlestickGafConfig, disjoint: bool) -> str:
    """What one unit is."""
    length = settings.length
    if settings.unit in units.CALENDAR:
        return f"one {settings.unit} (UTC) with all of its windows of {length} bars"
    if settings.unit != units.WINDOW:
        return f"one {settings.unit} with all of its bars, and so all of its windows"
    if disjoint:
        return f"one window of {length} bars (no bar sits in two windows)"
    return f"one image of {length} bars (images overlap in time)"


def _assumptions(settings: CandlestickGafConfig, disjoint: bool) -> tuple[str, ...]:
    """What a guarantee for one unit leaves open."""
    name = settings.unit
    if name in units.CALENDAR:
        return (
            f"All bars of a window are of one {name}: windows over midnight UTC"
            f"{' of a Sunday' if name == 'week' else ''} are left out. Which windows are examples, "
            f"and their labels, rest on up to {patterns.LOOKBACK_BARS} earlier bars, those of the "
            f"{name} before too, and on the most common step in time; the guarantee covers a "
            f"{name}'s own windows and labels, not what its bars did to the choice and the labels "
            f"of windows of the {name}s after it.",
        )
    if name != units.WINDOW:
        return (
            f"Patterns, ranks, trends, gaps and windows of each {name} are found in its own bars "
            f"alone, so the bars of one have no say in the windows or labels of another; rows that "
            f"belong together must have the same value in the column {name!r}, and what several "
            "values hold in common is not protected.",
        )
    if disjoint:
        return (
            "Which windows are examples, and their labels, rest on up to "
            f"{patterns.LOOKBACK_BARS} earlier bars; the guarantee covers a window's own bars and "
            "label, not what the bars before it did to the choice of windows.",
        )
    return (
        f"Images overlap, so one bar sits in up to {_PAPER_LENGTH} examples; the guarantee covers "
        "an image, not a bar.",
    )


def _resolve(config: ConfigDict) -> tuple[CandlestickGafConfig, Path]:
    """Checks the settings and finds the source's files."""
    parts = {"data": fields.PART} | ({"privacy": fields.PART} if "privacy" in config else {})
    fields.check(config, parts)
    data, unit = config.data, config.get("privacy", {}).get("unit", units.WINDOW)
    _check(data)
    given = data.cache_dir
    cache = workdir.user_folder(given, "data.cache_dir") if given else workdir.cache_folder()
    kind, paths = _find(data.source, str(data.binance_url), cache)
    if kind == "pickle" and data.split != "random":
        raise InputError(
            f"data.split is {data.split!r}, but the paper's pickle has no times; it must be random."
        )
    if kind == "pickle" and data.length != _PAPER_LENGTH:
        raise InputError(
            f"data.length is {data.length}, but the paper's images have {_PAPER_LENGTH} bars; "
            f"it must be {_PAPER_LENGTH}."
        )
    _check_unit(unit, kind, data.split)
    settings = candlestick_gaf.configure(
        kind=kind,
        paths=paths,
        sim_bars=data.sim_bars if kind == "sim" else 0,
        seed=data.seed,
        split=data.split,
        fractions=tuple(data.fractions),
        purge_bars=data.purge_bars if data.split == "chronological" else 0,
        length=data.length,
        unit=unit,
    )
    return settings, cache


def _check_unit(unit: Any, kind: str, split: str) -> None:
    """Refuses a unit that the source does not have, or that its splits would divide."""
    if unit == units.WINDOW:
        return
    if not isinstance(unit, str) or not unit or bars.is_own_column(unit):
        raise InputError(
            f"config.privacy.unit is {unit!r}; it must be window, day, week, or a column of the "
            "bars that is neither time, price nor volume."
        )
    if kind == "pickle":
        raise InputError(
            f"config.privacy.unit is {unit!r}, but the paper's pickle has neither times nor "
            "columns; it must be window."
        )
    if unit not in units.CALENDAR and kind == "sim":
        raise InputError(
            f"config.privacy.unit is {unit!r}, but simulated bars have no such column; it must be "
            "window, day or week."
        )
    if unit not in units.CALENDAR and split == "chronological":
        raise InputError(
            f"data.split is 'chronological', which would divide the bars of each {unit} of "
            "config.privacy.unit; it must be random."
        )


def _check(data: ConfigDict) -> None:
    """Refuses settings that no source could make good."""
    fields.check(data, _KINDS, name="data")
    lowest = {"seed": 0, "sim_bars": 1, "purge_bars": 0, "length": patterns.PATTERN_BARS}
    for field, least in lowest.items():
        value, most = data[field], _LARGEST[field]
        if not isinstance(value, int) or value < least:
            raise InputError(
                f"data.{field} is {value!r}; it must be a whole number of at least {least}."
            )
        if value > most:
            raise InputError(f"data.{field} is {fields.shown(value)}; it must be at most {most}.")
    if data.stream not in STREAMS:
        raise InputError(f"data.stream is {data.stream!r}; it must be one of {', '.join(STREAMS)}.")
    if data.split not in ("random", "chronological"):
        raise InputError(f"data.split is {data.split!r}; it must be random or chronological.")
    if data.split == "chronological":
        splits.check_purge(data.purge_bars)
    _check_fractions(data.fractions)


def _check_fractions(fractions: Sequence[float]) -> None:
    """Refuses anything but five positive fractions of at most one whole."""
    names = ", ".join(Splits._fields)
    if len(fractions) != len(Splits._fields):
        raise InputError(
            f"data.fractions has {len(fractions)} numbers; it must have five, for {names}."
        )
    if not all(isinstance(share, int | float) and share > 0 for share in fractions):
        raise InputError(f"data.fractions is {tuple(fractions)}; each must be a positive number.")
    if sum(fractions) > 1 + 1e-9:
        raise InputError(f"data.fractions add up to {sum(fractions):.6g}; at most 1 is there.")


def _find(source: Any, binance_url: str, cache: Path) -> tuple[str, tuple[str, ...]]:
    """The source's kind and files; downloads what it names."""
    if source == "sim":
        return "sim", ()
    if str(source).startswith("binance:"):
        spec = binance.parse(str(source))
        return "bars", tuple(map(str, binance.download(spec, binance_url, cache / "binance")))
    paths = _paths(source)
    is_pickle = len(paths) == 1 and paths[0].endswith(_PICKLE_SUFFIXES)
    return "pickle" if is_pickle else "bars", paths


def _paths(source: Any) -> tuple[str, ...]:
    """The files of a list, of a path, or of several paths with commas between them."""
    names = list(source) if isinstance(source, list | tuple) else [source]
    if not all(isinstance(name, str | os.PathLike) and str(name) for name in names) or not names:
        raise InputError(
            f"data.source is {source!r}; it must be sim, binance:SYMBOL:INTERVAL:FIRST:LAST, a "
            "file, or a list of files."
        )
    try:
        if len(names) == 1 and not Path(names[0]).expanduser().exists():
            names = str(names[0]).split(",")  # else the comma is part of the file's name
        return tuple(str(Path(name).expanduser()) for name in names)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"data.source cannot name a file: {str(error).rstrip('.')}.") from error


def _with_dataset(config: ConfigDict, use: Callable[[_Builder], _Result]) -> _Result:
    """Uses the prepared dataset; makes it again, once, where its files turn out to be damaged."""
    settings, cache = _resolve(config)
    try:
        return use(_prepare(settings, cache))
    except InputError:
        raise
    except Exception as damage:  # whatever the readers raise on a broken file
        kind, root = _dataset(settings, cache)
        folder = root / kind.name / settings.name / str(kind.VERSION)
        if not folder.exists():
            raise
        logging.warning("%s is damaged (%s); making it again.", folder, type(damage).__name__)
        shutil.rmtree(folder, ignore_errors=True)
        return use(_prepare(settings, cache))


def _dataset(settings: CandlestickGafConfig, cache: Path) -> tuple[type[_Builder], Path]:
    """The dataset of the images, or that of the windows for a source that is too large for it."""
    most = settings.sim_bars // settings.length  # since windows share no bar
    each = 4 * 4 * settings.length**2 + 8 * 4 * settings.length
    large = most * max(settings.fractions) * each > _LARGE_SPLIT_BYTES
    if settings.kind == "bars":
        large = sum(Path(path).stat().st_size for path in settings.paths) > _LARGE_FILES_BYTES
    if large:
        return CandlestickWindows, cache / candlestick_windows.folder_name()
    return CandlestickGaf, cache


def _builder(settings: CandlestickGafConfig, cache: Path) -> _Builder:
    """The dataset, prepared or not."""
    kind, root = _dataset(settings, cache)
    return kind(data_dir=root, config=settings)


def _prepare(settings: CandlestickGafConfig, cache: Path) -> _Builder:
    """Opens the dataset, and builds it where it is not there."""
    try:
        builder = _builder(settings, cache)
        builder.download_and_prepare(file_format=candlestick_gaf.FILE_FORMAT)
    except OSError as error:
        # Another process may have finished the same dataset first; then that one is ours too.
        builder = _builder(settings, cache)
        if not builder.is_prepared():
            raise InputError(
                f"data.cache_dir: {cache} cannot be written ({error.strerror or error}); "
                "name a folder that can."
            ) from None
    return builder


def _open(builder: _Builder) -> StoredSplits:
    """Opens every split."""
    return StoredSplits(*(Stored(builder, name) for name in Splits._fields))


def _read(builder: _Builder) -> Splits:
    """Reads every split."""
    return Splits(*(split.load() for split in _open(builder)))
