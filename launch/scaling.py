"""Measures how time and memory grow with the number of windows, of preparing and of training.

  python -m launch.scaling                                      # to 10 million, about an hour
  python -m launch.scaling --config=configs/scaling.py:quick    # to see that it works

Each figure comes from a process of its own, whose peak of resident memory the system tells (VmHWM).
Prints a table and writes scaling.json, scaling.csv and plots/scaling.png. The same command with the
same --workdir goes on where it was stopped. Prepared data lie in the workdir until they are used.
"""

import json
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dpfinjax import data, experiment, plots, resumable, streaming, sweeps, training, workdir
from dpfinjax.errors import InputError
from dpfinjax.streaming import Chunk
from launch import app

PREPARED, STREAMED, IN_MEMORY = "prepared", "trained from disk", "trained in memory"

_FILE = "scaling.json"
_MIB = 2**20


class Row(NamedTuple):
    """One figure.

    Attributes:
      job: one of the three above.
      asked: windows as the config has them.
      bars: simulated.
      windows: in the five splits together.
      seconds: of preparing, or of `config.steps` steps once everything is compiled.
      peak_mib: the process's peak of resident memory.
      start_mib: the same before the job, with all libraries loaded.
      disk_mib: what was prepared; None for a training.
      device_mib: the most that arrays on the device held; None for preparing.
    """

    job: str
    asked: int
    bars: int
    windows: int
    seconds: float
    peak_mib: float
    start_mib: float
    disk_mib: float | None = None
    device_mib: float | None = None


def measure(config: ConfigDict, folder: str | Path) -> list[Row]:
    """Measures what a config asks for, prints it and writes it.

    Args:
      config: as `configs/scaling.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      The figures.

    Raises:
      InputError: for a config or a folder that cannot be used.
    """
    _check(config)
    workdir.check(folder, config)
    folder = workdir.claim(folder, config, {})
    rows = _known(folder)
    for windows in config.windows:
        cache = folder / "cache" / str(windows)
        for job in (PREPARED, STREAMED, IN_MEMORY):
            if any((row.job, row.asked) == (job, windows) for row in rows):
                continue
            if job == IN_MEMORY and windows > config.in_memory:
                continue
            rows.append(_alone(_JOBS[job], _config(config, windows, cache), windows, config.steps))
            print(_line(rows[-1]), flush=True)
            _write(folder, rows)
        shutil.rmtree(cache, ignore_errors=True)
    print(f"\n{_table(rows)}\n\nWritten to {folder}")
    return rows


def _check(config: ConfigDict) -> None:
    """Raises InputError for sizes that cannot be."""
    for name, values in {**config, "windows": min(config.windows, default=0)}.items():
        if type(values) is int and values < (name != "in_memory"):
            raise InputError(f"config.{name} is {config[name]}; it must be at least 1.")


def _config(config: ConfigDict, windows: int, cache: Path) -> ConfigDict:
    """The training of one size."""
    changes = {
        "data.sim_bars": windows * config.bars_per_window,
        "data.cache_dir": str(cache.absolute()),
        "epochs": None,
        "steps": 2 * config.steps,
    }
    return sweeps.changed(config.train, changes)


def _alone(
    job: Callable[[ConfigDict, int, int], Row], config: ConfigDict, windows: int, steps: int
) -> Row:
    """Does a job in a fresh process, whose memory nothing else has touched."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(job, config, windows, steps).result()


def _prepare(config: ConfigDict, windows: int, steps: int) -> Row:
    """Simulates, finds, cuts, divides and writes."""
    del steps
    before, start = _peak_mib(), time.monotonic()
    facts = data.describe(config)
    seconds, folder = time.monotonic() - start, Path(facts.folder)
    size = sum(file.stat().st_size for file in folder.iterdir()) / _MIB
    return _row(PREPARED, config, windows, seconds, before)._replace(disk_mib=size)


def _train_from_disk(config: ConfigDict, windows: int, steps: int) -> Row:
    """Trains on the prepared windows as they are on disk."""
    config.data.stream = "always"
    before = _peak_mib()
    (run,) = experiment.runs_of(config, data.describe(config))
    examples = data.stored(config).train
    stream = _Watched(examples)
    held = experiment.training_data(run, examples)
    everyone = streaming.everything(examples)
    seconds = _seconds(run, steps, held, everyone, stream.train_epoch)
    row = _row(STREAMED, config, windows, seconds, before)
    return row._replace(device_mib=stream.most / _MIB)


def _train_in_memory(config: ConfigDict, windows: int, steps: int) -> Row:
    """Trains on images that are all on the device."""
    config.data.stream = "never"
    before = _peak_mib()
    (run,) = experiment.runs_of(config, data.describe(config))
    held = experiment.training_data(run, data.load(config).train)
    everyone = training.everything(held)
    seconds = _seconds(run, steps, held, everyone, resumable.train_epoch)
    row = _row(IN_MEMORY, config, windows, seconds, before)
    return row._replace(device_mib=_live_bytes() / _MIB)


_JOBS = {PREPARED: _prepare, STREAMED: _train_from_disk, IN_MEMORY: _train_in_memory}


class _Watched(streaming.Stream):
    """A stream that notes what the device holds whenever it has been given examples."""

    most = 0

    def chunks(self, *arguments: Any) -> Iterator[Chunk]:
        """As `Stream.chunks`."""
        for chunk in super().chunks(*arguments):
            yield chunk
            # JAX no longer lists what a program was given; at most one chunk is there at a time.
            given = sum(array.nbytes for array in chunk)
            self.most = max(self.most, _live_bytes() + given)


def _seconds(
    run: experiment.Run,
    steps: int,
    held: training.Data,
    everyone: training.Membership,
    epoch_of: Callable[..., tuple[training.State, training.History]],
) -> float:
    """The seconds of so many steps, after as many that compile and fill the caches."""
    spec = run.plan.spec.__class__(**{**vars(run.plan.spec), "epoch_steps": steps})
    key = experiment.key_of(run)
    state = resumable.init(key, held, spec)
    for epoch in range(2):
        start = time.monotonic()
        number = jnp.int32(epoch)
        state, _ = epoch_of(key, state, number, run.plan.hparams, everyone, held, spec=spec)
        jax.block_until_ready(state)
    return time.monotonic() - start


def _row(job: str, config: ConfigDict, windows: int, seconds: float, before: float) -> Row:
    """What every job has."""
    facts = data.describe(config)
    found = sum(sum(counts.values()) for counts in facts.examples.values())
    return Row(job, windows, facts.bars, found, seconds, _peak_mib(), before)


def _live_bytes() -> int:
    """What all arrays on the device hold."""
    return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())


def _peak_mib() -> float:
    """The most resident memory that this process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def _known(folder: Path) -> list[Row]:
    """The figures of an interrupted run."""
    if not (folder / _FILE).exists():
        return []
    return [Row(**row) for row in json.loads((folder / _FILE).read_text())["rows"]]


def _write(folder: Path, rows: list[Row]) -> None:
    """Writes the figures as JSON and CSV, and the picture."""
    content = [row._asdict() for row in rows]
    workdir.write_json(folder / _FILE, {"rows": content})
    workdir.write_csv(folder / "scaling.csv", content)
    (folder / "plots").mkdir(exist_ok=True)
    draw(folder / "plots" / "scaling.png", rows)


def draw(path: str | Path, rows: list[Row]) -> None:
    """Draws figures, see `plots.scaling`.

    Args:
      path: where the PNG goes.
      rows: as `measure` returns them.
    """
    jobs = [job for job in (PREPARED, STREAMED, IN_MEMORY) if any(row.job == job for row in rows)]
    seconds, memory = (
        {job: {r.windows: getattr(r, field) for r in rows if r.job == job} for job in jobs}
        for field in ("seconds", "peak_mib")
    )
    images = {row.windows: row.windows * 1600 / _MIB for row in rows}
    plots.scaling(path, seconds, memory, images)


def _table(rows: list[Row]) -> str:
    """The figures as a table in Markdown."""
    head = "| job | bars | windows | s | peak MiB | device MiB | disk MiB |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *map(_line, rows)])


def _line(row: Row) -> str:
    """One line of the table."""
    sizes = (row.device_mib, row.disk_mib)
    last = ("" if size is None else f"{size:,.0f}" for size in sizes)
    numbers = (f"{row.bars:,}", f"{row.windows:,}", f"{row.seconds:,.1f}", f"{row.peak_mib:,.0f}")
    return f"| {' | '.join((row.job, *numbers, *last))} |"


if __name__ == "__main__":
    app.run(measure, "scaling")
