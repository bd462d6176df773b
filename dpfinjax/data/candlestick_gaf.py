"""The images as a TFDS dataset, written and read without TensorFlow.

A dataset's folder is `<data_dir>/candlestick_gaf/<name>-<fingerprint>/<version>`. The fingerprint
covers the source's content, every setting, and the code that makes the images, so a folder never
holds anything but what its settings ask for. Anybody can open it with
`tfds.builder_from_directory(folder).as_data_source()`.
"""

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from dpfinjax.data import bars, gaf, paper_pickle, patterns, simulate, splits, units, windows
from dpfinjax.data.bars import Bars
from dpfinjax.data.splits import Examples, Splits
from dpfinjax.data.windows import Windows
from dpfinjax.errors import InputError

FILE_FORMAT = "array_record"

# Beyond 1000 MiB, some of it labels and keys, TFDS sorts on disk, which it does with TensorFlow.
_SPLIT_BYTES = 900 * 2**20

_MAKERS = (
    *(bars, gaf, paper_pickle, patterns, simulate, splits, units, windows),
    sys.modules[__name__],
)


@dataclasses.dataclass(eq=False)
class CandlestickGafConfig(tfds.core.BuilderConfig):
    """What a dataset is made from; `configure` fills in the name.

    Attributes:
      kind: `sim`, `bars` (files of bars) or `pickle` (the paper's).
      paths: The source's files, none for `sim`.
      sha256: The files' digests.
      sim_bars: How many bars to simulate.
      seed: For the simulation and the split.
      split: `random` or `chronological`.
      fractions: The share of each split, in the order of `Splits`.
      purge_bars: See `splits.chronological`.
      length: Bars in a window.
      unit: `window`, `day`, `week` or the column of the bars that tells their units apart.
    """

    kind: str = "sim"
    paths: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    sim_bars: int = 0
    seed: int = 0
    split: str = "random"
    fractions: tuple[float, ...] = ()
    purge_bars: int = 0
    length: int = 10
    unit: str = units.WINDOW


def configure(**settings: Any) -> CandlestickGafConfig:
    """Makes a builder config whose name holds the fingerprint of everything it stands for.

    Args:
      **settings: `CandlestickGafConfig`'s own attributes, without `sha256`.

    Returns:
      The config; equal content and settings give an equal name, wherever the files lie.

    Raises:
      InputError: If a file of `paths` cannot be read.
    """
    digests = tuple(_sha256(Path(path)) for path in settings["paths"])
    config = CandlestickGafConfig(name="unnamed", sha256=digests, **settings)
    label = Path(config.paths[0]).name.split(".")[0] if config.paths else config.kind
    label = re.sub(r"[^\w-]", "_", label)[:40]
    config.name = f"{label}-{_fingerprint(config)}"
    return config


class CandlestickGaf(tfds.core.GeneratorBasedBuilder):
    """Builds the five splits from one source."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "CULR images of disjoint windows that end in one of eight patterns.",
        "1.1.0": "The unit of privacy of each example.",
    }
    # TFDS 4.9.10 finds this out with importlib_resources, which it does not install.
    code_path = Path(__file__)

    def _create_builder_config(self, builder_config: Any, *_: Any, **__: Any) -> Any:
        """Takes any settings without the warning that TFDS has for unlisted ones."""
        return builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the examples."""
        length = self.builder_config.length
        features = {
            # Raw bytes: exact in float64, which the record format does not have, and fast.
            "image": _raw((length, length, 4), np.float32),
            "label": tfds.features.ClassLabel(names=list(patterns.PATTERNS)),
            "ohlc": _raw((length, 4), np.float64),
            # Microseconds since 1970 in UTC; the smallest int64 is NaT.
            "time": tfds.features.Scalar(dtype=np.int64),
            "unit": tfds.features.Scalar(dtype=np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Windows of price bars as Gramian angular summation field images, "
            "labelled with the candlestick pattern that ends on the window's last bar.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        """Makes the examples of every split."""
        make = _from_pickle if self.builder_config.kind == "pickle" else _from_bars
        examples, facts = make(self.builder_config)
        _check_examples(examples)
        counts = [np.bincount(part.label, minlength=len(patterns.PATTERNS)) for part in examples]
        facts["examples"] = dict(zip(Splits._fields, map(np.ndarray.tolist, counts), strict=True))
        together = [units.sizes(part.unit) for part in examples]
        facts["units"] = dict(zip(Splits._fields, together, strict=True))
        self.info.metadata.update(facts)
        return {
            name: self._generate_examples(part)
            for name, part in zip(Splits._fields, examples, strict=True)
        }

    def _generate_examples(self, examples: Examples) -> Iterator[tuple[int, dict]]:
        """Yields the examples in their order."""
        time = examples.time.astype(np.int64).tolist()
        label, unit = examples.label.tolist(), examples.unit.tolist()
        columns = examples.image, label, examples.ohlc, time, unit
        for key, values in enumerate(zip(*columns, strict=True)):
            yield key, dict(zip(Examples._fields, values, strict=True))


def _raw(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
    """A tensor that is stored as its bytes."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)


def _sha256(path: Path) -> str:
    """The digest of a file's content."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"data.source: {path} is no regular file; save the bars in one.")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"data.source: {path} cannot be read ({error.strerror}); "
            "it must be a file, a list of files, sim or binance:SYMBOL:INTERVAL:FIRST:LAST."
        ) from None


def _fingerprint(config: CandlestickGafConfig) -> str:
    """A digest of what the examples depend on: settings, content of the source, and code."""
    settings = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(CandlestickGafConfig)
        if field.name not in {base.name for base in dataclasses.fields(tfds.core.BuilderConfig)}
    }
    del settings["paths"]
    code = [_sha256(Path(str(module.__file__))) for module in _MAKERS]
    return hashlib.sha256(json.dumps([settings, code]).encode()).hexdigest()[:16]


def _from_bars(config: CandlestickGafConfig) -> tuple[Splits, dict[str, Any]]:
    """The splits of a table of bars."""
    found = [_of_series(table, config) for table in _series(config)]
    cut, unit = _together(config, [windows for windows, _ in found])
    facts = {name: sum(counts[name] for _, counts in found) for name in found[0][1]}
    if not cut.label.size:
        raise InputError(
            f"data.source has no window of {config.length} bars that ends in a pattern: it has "
            "{bars} bars, {moved_bars} with close != open, and {patterns} patterns, "
            "{windows_with_gap} of them too close to a gap; ".format(**facts)
            + f"a pattern needs up to {patterns.LOOKBACK_BARS} such bars before it."
        )
    fractions, length = config.fractions, config.length
    if config.split == "random":
        parts = splits.of_units(splits.at_random(int(unit.max()) + 1, fractions, config.seed), unit)
    else:
        parts = splits.chronological(cut.place, fractions, config.purge_bars, length, unit)
    everything = Examples(gaf.encode(cut.ohlc), cut.label, cut.ohlc, cut.time, unit)
    return Splits(*(_take(everything, part) for part in parts)), facts


def _series(config: CandlestickGafConfig) -> list[Bars]:
    """The bars of the source: one series, or one of each value of the units' column."""
    if config.kind == "sim":
        return [simulate.bars(config.sim_bars, config.seed)]
    if config.unit in (units.WINDOW, *units.CALENDAR):
        return [bars.read(config.paths)]
    return list(bars.read_by(config.paths, config.unit).values())


def _of_series(table: Bars, config: CandlestickGafConfig) -> tuple[Windows, dict[str, int]]:
    """The windows of one series of bars, which follow from nothing else, and their counts."""
    labels = patterns.detect(table.open, table.high, table.low, table.close)
    bound = units.calendar(table.time, config.unit) if config.unit in units.CALENDAR else None
    cut = windows.cut(table, labels, config.length, bound)
    return cut, {
        "bars": table.close.size,
        "moved_bars": int((table.close != table.open).sum()),
        "patterns": int((labels >= 0).sum()),
        "windows": cut.label.size,
        "windows_with_gap": cut.with_gap,
        "windows_overlapping": cut.overlapping,
        "windows_crossing": cut.crossing,
    }


def _together(config: CandlestickGafConfig, cuts: list[Windows]) -> tuple[Windows, np.ndarray]:
    """The windows of all series in ascending time, and the unit of each, from 0 on."""
    columns = zip(*(cut[:4] for cut in cuts), strict=True)
    ohlc, label, time, place = map(np.concatenate, columns)
    order = np.argsort(time, kind="stable")
    whole = Windows(ohlc[order], label[order], time[order], place[order], 0, 0)
    if config.unit == units.WINDOW:
        return whole, np.arange(label.size)
    if config.unit in units.CALENDAR:
        owner = units.calendar(whole.time, config.unit)
    else:
        owner = np.repeat(np.arange(len(cuts)), [cut.label.size for cut in cuts])[order]
    return whole, np.unique(owner, return_inverse=True)[1]


def _from_pickle(config: CandlestickGafConfig) -> tuple[Splits, dict[str, Any]]:
    """The paper's own training and validation sets, and its test set divided in three."""
    content = paper_pickle.read(config.paths[0])
    train, validation, rest = (_paper_split(content, name) for name in paper_pickle.SPLITS)
    count = train.label.size + validation.label.size
    validation = validation._replace(unit=validation.unit + train.label.size)
    rest = rest._replace(unit=rest.unit + count)
    shares = np.array(config.fractions[2:])
    parts = splits.at_random(rest.label.size, shares / shares.sum(), config.seed)
    examples = Splits(train, validation, *(_take(rest, part) for part in parts))
    left_out = ("windows_with_gap", "windows_overlapping", "windows_crossing")
    unknown = dict.fromkeys(("bars", "moved_bars", "patterns", *left_out), 0)
    return examples, {"windows": sum(part.label.size for part in examples)} | unknown


def _paper_split(content: dict[str, np.ndarray], name: str) -> Examples:
    """One of the paper's splits, which has no times; each image is a unit."""
    image, label, ohlc = (content[f"{name}_{field}"] for field in ("culr_gaf", "label", "ohlc"))
    no_time = np.full(label.size, "NaT", "datetime64[us]")
    return Examples(image, label, ohlc, no_time, np.arange(label.size))


def _take(examples: Examples, chosen: np.ndarray) -> Examples:
    """Some of the examples."""
    return Examples(*(values[chosen] for values in examples))


def _check_examples(examples: Splits) -> None:
    """Refuses an empty or huge split, and a training split that lacks a pattern."""
    total = sum(part.label.size for part in examples)
    for name, part in zip(Splits._fields, examples, strict=True):
        if not part.label.size:
            raise InputError(
                f"data.source has too few bars: of {total} windows in the five splits none is in "
                f"{name}; give more bars or change data.fractions."
            )
        size = part.image.nbytes + part.ohlc.nbytes
        if size > _SPLIT_BYTES:
            raise InputError(
                f"data.source has too many bars: the {part.label.size} windows of {name} take "
                f"{size / 2**20:.0f} MiB, and a split may take {_SPLIT_BYTES / 2**20:.0f} MiB; "
                "give fewer bars."
            )
    counts = np.bincount(examples.train.label, minlength=len(patterns.PATTERNS))
    for pattern, count in zip(patterns.PATTERNS, counts, strict=True):
        if not count:
            raise InputError(
                f"data.source has too few bars: none of the {counts.sum()} windows of the train "
                f"split is of the pattern {pattern!r}; give more bars."
            )
