"""The windows behind the images as a TFDS dataset, for sources too large for `candlestick_gaf`.

It holds the same examples in the same order and under the same name, but of each the bars (320
bytes at ten bars) and not the image (1,600), which follows from them bit for bit. It is made in
chunks: memory holds a chunk of bars, and some 40 bytes a window while the splits are decided.
"""

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from dpfinjax.data import bars, candlestick_gaf, chunked, patterns, splits, units
from dpfinjax.data.bars import Bars
from dpfinjax.data.candlestick_gaf import CandlestickGafConfig
from dpfinjax.data.chunked import Choice, Spooled
from dpfinjax.data.splits import Splits
from dpfinjax.errors import InputError

_SHARD_EXAMPLES = 200_000  # a writer holds the index of its file until it is closed
# One record a group, for random access; snappy, which reads at twice the speed of the default.
_WRITER_OPTIONS = "group_size:1,snappy"


class CandlestickWindows(tfds.core.GeneratorBasedBuilder):
    """Builds the five splits from one source, in bounded memory."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "The bars of windows that end in one of eight patterns."}
    # As in `candlestick_gaf`.
    code_path = Path(__file__)

    def _create_builder_config(self, builder_config: Any, *_: Any, **__: Any) -> Any:
        """Takes any settings without the warning that TFDS has for unlisted ones."""
        return builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the examples."""
        shape = (self.builder_config.length, 4)
        bytes_of = tfds.features.Encoding.BYTES
        features = {
            "label": tfds.features.ClassLabel(names=list(patterns.PATTERNS)),
            "ohlc": tfds.features.Tensor(shape=shape, dtype=np.float64, encoding=bytes_of),
            # Microseconds since 1970 in UTC.
            "time": tfds.features.Scalar(dtype=np.int64),
            "unit": tfds.features.Scalar(dtype=np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Windows of price bars, labelled with the candlestick pattern that ends on "
            "the window's last bar.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes every split; TFDS's own writer would first hold each of them in memory."""
        del dl_manager, download_config
        config = self.builder_config
        # Beside the records, so that one disk is what is needed.
        with tempfile.TemporaryDirectory(dir=self.data_dir) as folder:
            blocks, path = _blocks(config), Path(folder) / "candidates"
            spooled = chunked.spool(blocks, path, config.length, config.unit)
            choice = chunked.choose(spooled, config.length)
            _check_any(config, spooled, choice)
            owner = _owners(config, choice)
            facts = _facts(spooled, choice, owner)
            _check_splits(facts["examples"])
            self.info.metadata.update(facts)
            infos = self._write(spooled, choice, owner)
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _split_generators(self, dl_manager: Any) -> Any:
        """Unused: the splits are written together."""
        raise NotImplementedError

    def _generate_examples(self, **kwargs: Any) -> Any:
        """Unused: the splits are written together."""
        raise NotImplementedError

    def _write(
        self, spooled: Spooled, choice: Choice, owner: np.ndarray
    ) -> list[tfds.core.SplitInfo]:
        """Writes each window to its split's files."""
        writers = [
            _Writer(self._template(name), int((owner == row).sum()))
            for row, name in enumerate(Splits._fields)
        ]
        for split, record in _records(spooled, choice, owner):
            writers[split].write(record)
        return [writer.close() for writer in writers]

    def _template(self, split: str) -> tfds.core.ShardedFileTemplate:
        """How the files of a split are named."""
        return tfds.core.ShardedFileTemplate(
            dataset_name=self.name,
            data_dir=self.data_path,
            split=split,
            filetype_suffix=candlestick_gaf.FILE_FORMAT,
        )


class _Writer:
    """The files of one split, of which one is open."""

    def __init__(self, template: tfds.core.ShardedFileTemplate, examples: int) -> None:
        self._template = template
        self._lengths = [_SHARD_EXAMPLES] * (examples // _SHARD_EXAMPLES)
        self._lengths += [examples % _SHARD_EXAMPLES] if examples % _SHARD_EXAMPLES else []
        self._written = self._bytes = 0
        self._open: Any = None

    def write(self, record: bytes) -> None:
        """Appends a record."""
        shard, place = divmod(self._written, _SHARD_EXAMPLES)
        if not place:
            self._finish()
            path = self._template.sharded_filepath(shard_index=shard, num_shards=len(self._lengths))
            self._open = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        self._open.write(record)
        self._written, self._bytes = self._written + 1, self._bytes + len(record)

    def close(self) -> tfds.core.SplitInfo:
        """Ends the last file."""
        self._finish()
        return tfds.core.SplitInfo(
            name=self._template.split,
            shard_lengths=self._lengths,
            num_bytes=self._bytes,
            filename_template=self._template,
        )

    def _finish(self) -> None:
        """Closes the open file."""
        if self._open is not None:
            self._open.close()


def folder_name() -> str:
    """Names where these datasets lie, by the code that makes them but not the examples.

    A dataset's own name, which random keys depend on, must be that of the images.
    """
    code = [Path(str(module.__file__)).read_bytes() for module in (chunked, sys.modules[__name__])]
    return f"chunked-{hashlib.sha256(b''.join(code)).hexdigest()[:16]}"


def _blocks(config: CandlestickGafConfig) -> Iterator[Bars]:
    """The bars of the source in chunks; files are read whole."""
    if config.kind == "sim":
        return chunked.simulated(config.sim_bars, config.seed)
    if config.unit not in (units.WINDOW, *units.CALENDAR):
        raise InputError(
            f"config.privacy.unit is {config.unit!r}, but files as large as data.source are not "
            "divided by a column; it must be window, day or week."
        )
    return chunked.sliced(bars.read(config.paths))


def _owners(config: CandlestickGafConfig, choice: Choice) -> np.ndarray:
    """The split of each window int8 [w], -1 for none, as `candlestick_gaf` divides them."""
    fractions, count = config.fractions, int(choice.unit.max()) + 1
    if config.split == "random":
        owner = _numbered(splits.at_random(count, fractions, config.seed), count)
        return owner[choice.unit]
    place, unit = choice.place, choice.unit
    parts = splits.chronological(place, fractions, config.purge_bars, config.length, unit)
    return _numbered(parts, place.size)


def _numbered(parts: list[np.ndarray], count: int) -> np.ndarray:
    """The part of each of so many, -1 for none."""
    owner = np.full(count, -1, np.int8)
    for number, part in enumerate(parts):
        owner[part] = number
    return owner


def _facts(spooled: Spooled, choice: Choice, owner: np.ndarray) -> dict[str, Any]:
    """What `candlestick_gaf` says of its examples."""
    examples = np.zeros((len(Splits._fields), len(patterns.PATTERNS)), int)
    for batch, split, _ in _batches(spooled, choice, owner):
        np.add.at(examples, (split, batch["label"]), 1)
    return {name: spooled.counts[name] for name in ("bars", "moved_bars", "patterns")} | {
        "windows": choice.place.size,
        "windows_with_gap": choice.with_gap,
        "windows_overlapping": choice.overlapping,
        "windows_crossing": choice.crossing,
        "examples": dict(zip(Splits._fields, examples.tolist(), strict=True)),
        "units": {
            name: units.sizes(choice.unit[owner == row]) for row, name in enumerate(Splits._fields)
        },
    }


def _batches(
    spooled: Spooled, choice: Choice, owner: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Windows that are in a split, their splits and their units, some at a time."""
    seen = window = 0
    for batch in chunked.read(spooled):
        kept = batch[choice.chosen[seen : seen + batch.size]]
        part = slice(window, window + kept.size)
        used = owner[part] >= 0
        yield kept[used], owner[part][used], choice.unit[part][used]
        seen, window = seen + batch.size, window + kept.size


def _records(spooled: Spooled, choice: Choice, owner: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """The records of all splits, each with its split's number."""
    for batch, split, unit in _batches(spooled, choice, owner):
        columns = batch["label"].tolist(), batch["time"].tolist(), unit.tolist()
        for number, ohlc, *values in zip(split.tolist(), batch["ohlc"], *columns, strict=True):
            yield number, _record(ohlc, *values)


def _record(ohlc: np.ndarray, label: int, time: int, unit: int) -> bytes:
    """One example as TFDS would write it."""
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["ohlc"].bytes_list.value.append(ohlc.tobytes())
    for name, value in (("label", label), ("time", time), ("unit", unit)):
        feature[name].int64_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def _check_any(config: CandlestickGafConfig, spooled: Spooled, choice: Choice) -> None:
    """Refuses a source without a window."""
    if not choice.place.size:
        raise InputError(
            f"data.source has no window of {config.length} bars that ends in a pattern: it has "
            f"{spooled.counts['bars']} bars, and a pattern needs up to {patterns.LOOKBACK_BARS} "
            "with close != open before it."
        )


def _check_splits(examples: dict[str, list[int]]) -> None:
    """Refuses an empty split, and a training split that lacks a pattern."""
    for name, counts in examples.items():
        if not sum(counts):
            raise InputError(
                f"data.source has too few bars: none of its windows is in {name}; give more bars "
                "or change data.fractions."
            )
    for pattern, count in zip(patterns.PATTERNS, examples["train"], strict=True):
        if not count:
            raise InputError(
                f"data.source has too few bars: none of the {sum(examples['train'])} windows of "
                f"the train split is of the pattern {pattern!r}; give more bars."
            )
