"""A split that stays on disk: rows of it are read when they are asked for."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from dpfinjax.data import gaf
from dpfinjax.data.splits import Examples
from dpfinjax.errors import InputError

_CHUNK = 65_536


class Place(NamedTuple):
    """Where a split lies, in plain values that another process can be told.

    Attributes:
      folder: the absolute path of the prepared dataset.
      split: the split's name.
      digest: of the dataset's name, which stands for source, settings and code, and of how many
        examples and bytes each of its splits has.
    """

    folder: str
    split: str
    digest: str


class Stored:
    """A split of a prepared dataset, with random access to its examples.

    What is read is the same, bit for bit, as in the arrays that `data.load` gives, whether the
    dataset holds the images or only the bars that they show. Threads may read at once.

    Attributes:
      place: where it lies; `opened` opens it again, also in another process.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        """Opens the files of a split.

        Args:
          builder: of a prepared dataset of windows, with images or without.
          split: its name.

        Raises:
          ValueError: if the files do not hold as many examples as were written.
          RuntimeError: if a file is missing or cut off.
        """
        info = builder.info.splits[split]
        self._source = _source([str(path) for path in info.filepaths])
        if len(self._source) != info.num_examples:
            raise ValueError(f"{len(self._source)} of {info.num_examples} examples are there.")
        self.place = Place(str(Path(builder.data_dir).absolute()), split, _digest(builder.info))
        self._has_images = "image" in builder.info.features
        self._length = builder.info.features["ohlc"].shape[0]

    def __len__(self) -> int:
        return len(self._source)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image."""
        return (self._length, self._length, 4)

    def images(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads what training wants of some examples.

        Args:
          rows: whole numbers [b] below `len(self)`.

        Returns:
          Images float32 [b, length, length, 4], and labels int32 [b].

        Raises:
          InputError: if a record is damaged.
        """
        try:
            records = self._records(rows)
        except RuntimeError as damage:
            raise InputError(
                f"The prepared data in {self.place.folder} are damaged; delete that folder, and "
                "the same command makes them again (for a process other than 0, "
                "python -m launch.data on its machine)."
            ) from damage
        if self._has_images:
            image, label = _columns(records, _image_and_label, 2)
            return self._joined(image), np.array(label, np.int32)
        ohlc, label = _columns(records, _ohlc_and_label, 2)
        return gaf.encode(self._windows(ohlc)), np.array(label, np.int32)

    def load(self) -> Examples:
        """Reads the whole split into memory.

        Raises:
          RuntimeError: if a record is damaged.
        """
        image = np.empty((len(self), *self.image_shape), np.float32)
        parts = [self._part(rows, image[rows.start : rows.stop]) for rows in self.chunks(_CHUNK)]
        label, ohlc, time, unit = map(np.concatenate, zip(*parts, strict=True))
        return Examples(image, label, ohlc, time.view("datetime64[us]"), unit)

    def chunks(self, size: int) -> Iterator[range]:
        """Yields the rows of the whole split, `size` at a time."""
        for start in range(0, len(self), size):
            yield range(start, min(start + size, len(self)))

    def _part(self, rows: range, image: np.ndarray) -> tuple[np.ndarray, ...]:
        """Fills in the images of some rows, and returns their other columns."""
        records = self._records(rows)
        ohlc, label, time, unit = _columns(records, _all_but_image, 4)
        windows = self._windows(ohlc)
        if self._has_images:
            image[...] = self._joined(_columns(records, _image_and_label, 2)[0])
        else:
            image[...] = gaf.encode(windows)
        numbers = (np.array(column, np.int64) for column in (time, unit))
        return np.array(label, np.int32), windows, *numbers

    def _records(self, rows: Sequence[int] | np.ndarray) -> Sequence[bytes]:
        """The records as they were written; a batch of them is several times faster than one."""
        return self._source.__getitems__(np.asarray(rows).tolist()) if len(rows) else ()

    def _windows(self, parts: Sequence[bytes]) -> np.ndarray:
        """The bars of all parts."""
        return np.frombuffer(bytearray().join(parts), np.float64).reshape(-1, self._length, 4)

    def _joined(self, parts: Sequence[bytes]) -> np.ndarray:
        """The images of all parts."""
        return np.frombuffer(bytearray().join(parts), np.float32).reshape(-1, *self.image_shape)


def opened(place: Place) -> Stored:
    """Opens a split that another process has prepared.

    Args:
      place: from that process's `Stored`.

    Returns:
      The same split as this machine has it in that folder.

    Raises:
      InputError: if no data, other data or damaged data are there.
    """
    needed = (
        "each process of a training that reads its examples from disk needs the data of process 0 "
        "there, by a shared file system or made on its own machine by python -m launch.data."
    )
    try:
        builder = tfds.builder_from_directory(place.folder)
        digest = _digest(builder.info)
    except Exception as error:  # whatever the readers raise where no dataset is, or a broken one
        raise InputError(f"No prepared data can be read in {place.folder}; {needed}") from error
    if digest != place.digest:
        raise InputError(f"The prepared data in {place.folder} are others; {needed}")
    try:
        return Stored(builder, place.split)
    except (ValueError, RuntimeError) as damage:
        raise InputError(f"The prepared data in {place.folder} are damaged; {needed}") from damage


def _digest(info: tfds.core.DatasetInfo) -> str:
    """Tells datasets apart without reading their examples."""
    splits = [(name, part.shard_lengths, part.num_bytes) for name, part in info.splits.items()]
    return hashlib.sha256(repr((info.full_name, sorted(splits))).encode()).hexdigest()


def _source(paths: list[str]) -> Any:
    """Random access to the records of several files."""
    return grain.sources.ArrayRecordDataSource(paths)


def _columns(
    records: Sequence[bytes], values: Callable[[Any], tuple[Any, ...]], count: int
) -> Sequence[Sequence[Any]]:
    """So many values of every record, as columns."""
    parse = tf_example_pb2.Example.FromString
    rows = [values(parse(record).features.feature) for record in records]
    return list(zip(*rows, strict=True)) or [()] * count


def _image_and_label(feature: Any) -> tuple[bytes, int]:
    return feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0]


def _ohlc_and_label(feature: Any) -> tuple[bytes, int]:
    return feature["ohlc"].bytes_list.value[0], feature["label"].int64_list.value[0]


def _all_but_image(feature: Any) -> tuple[bytes, int, int, int]:
    numbers = (feature[name].int64_list.value[0] for name in ("time", "unit"))
    return *_ohlc_and_label(feature), *numbers
