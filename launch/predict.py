"""Labels new bars with a shared model: one row a window, with the probability of each pattern.

A window ends on every bar, except where its ten bars (those with close != open) have a gap in time
between them; --stride=10 takes windows of ten bars that share none. The model names one of its
patterns for every window, also where none ends.

  python -m launch.predict --model=logs/dpsgd/release --bars=bars.csv.gz
  python -m launch.predict --model=logs/dpsgd/release --bars=bars.csv --output=labels.parquet

Writes predictions.csv into the workdir, or the file that --output names, with the columns time (the
open time of the window's last bar, UTC), pattern, and the probability of each pattern.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from ml_collections import ConfigDict

from dpfinjax import inference, release, workdir
from dpfinjax.data import bars
from dpfinjax.errors import InputError
from dpfinjax.inference import Answers
from launch import app

_WRITERS = {".csv": pa_csv.CSVWriter, ".parquet": pq.ParquetWriter}


def predict(config: ConfigDict, folder: str | Path) -> int:
    """Labels all windows of a file of bars.

    Args:
      config: as `configs/predict.py` makes it.
      folder: where predictions.csv is written unless `config.output` names a file.

    Returns:
      How many windows were labelled.

    Raises:
      InputError: for a model, bars or output that cannot be used.
    """
    output = Path(config.output or Path(folder) / "predictions.csv")
    _check(config, output)
    model, begun = release.read(config.model), time.monotonic()
    given = bars.read(config.bars)
    started = time.monotonic()
    answers = inference.answer(model, given, config.stride)
    first = next(answers, None)
    if first is None:
        raise InputError(
            f"{config.bars} has no {model.length} bars with close != open without a gap between "
            "them, as a window needs."
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with workdir.replacing(output) as temporary:
            windows = _write(temporary, first, answers, model.labels)
    except OSError as error:
        raise InputError(f"--output={output} cannot be written: {error.strerror}.") from error
    done = time.monotonic()
    print(
        f"{windows:,} windows labelled at {windows / (done - started):,.0f} a second, "
        f"{windows / (done - begun):,.0f} with reading {len(given.time):,} bars.\n"
        f"Written to {output}"
    )
    return windows


def _check(config: ConfigDict, output: Path) -> None:
    """Raises InputError for settings that are wrong whatever the files are."""
    for field in ("model", "bars"):
        if not config[field]:
            raise InputError(f"--{field} is missing; --help has examples.")
    if config.stride < 1:
        raise InputError(f"--stride is {config.stride}; it must be at least 1.")
    if output.suffix not in _WRITERS:
        raise InputError(f"--output={output} must end in {' or '.join(_WRITERS)}.")
    if output.exists() and Path(config.bars).exists() and output.samefile(config.bars):
        raise InputError(f"--output={output} is the file of --bars; it must be another.")


def _write(path: Path, first: Answers, others: Iterator[Answers], labels: tuple[str, ...]) -> int:
    """Writes a row for each window, and returns how many there are."""
    rows = _rows(first, labels)
    with _WRITERS[path.suffix](path, rows.schema) as writer:
        writer.write_table(rows)
        windows = rows.num_rows
        for answers in others:
            rows = _rows(answers, labels)
            writer.write_table(rows)
            windows += rows.num_rows
    return windows


def _rows(answers: Answers, labels: tuple[str, ...]) -> pa.Table:
    """The rows of a chunk."""
    probabilities = answers.probabilities
    best = pa.array(probabilities.argmax(axis=-1).astype("int32"))
    pattern = pa.DictionaryArray.from_arrays(best, list(labels)).dictionary_decode()
    columns = [pa.array(answers.time), pattern, *(pa.array(each) for each in probabilities.T)]
    return pa.table(columns, names=["time", "pattern", *labels])


if __name__ == "__main__":
    app.run(predict, "predict", {"model": str, "bars": str, "output": str, "stride": int})
