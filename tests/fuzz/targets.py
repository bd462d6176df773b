"""What is fuzzed: functions of bytes that end well, or raise an InputError."""

import contextlib
import functools
import hashlib
import io
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from dpfinjax import metrics_log, results
from dpfinjax.attacks import targets
from dpfinjax.data import bars, binance, candlestick_gaf, loading, paper_pickle
from dpfinjax.errors import InputError
from dpfinjax.report import collect
from launch import attack, recognition, study
from tests.fuzz import folders, launchers, mutations, valid
from tests.fuzz.promise import Entry


class Target(NamedTuple):
    """Something that reads what others wrote.

    Attributes:
      entry: reads an input.
      valid: inputs that it accepts.
      mutations: what makes others of them.
      always: bytes of memory that any input may take: accounting and compilation, where there are.
    """

    entry: Entry
    valid: Callable[[], Sequence[bytes]]
    mutations: tuple[mutations.Mutation, ...]
    always: int = 96 << 20


def mutated(target: Target, seed: int) -> bytes:
    """An input that follows from a number alone."""
    rng = random.Random(seed)
    return _mutated(target, rng.choice(target.valid()), rng)


def changed(target: Target, data: bytes, seed: int) -> bytes:
    """An input that is like another one."""
    return _mutated(target, data, random.Random(seed))


def _mutated(target: Target, data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(target.mutations)(data, rng)
    return data


def _in_file(read: Callable[[Path], object], name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        read(path)


def _in_folder(files: Callable[[], folders.Files], read: Callable[[Path], object], data: bytes):
    with tempfile.TemporaryDirectory() as name:
        folders.replaced(files(), data, Path(name))
        read(Path(name))


def _read_bars(path: Path) -> None:
    """All that is made of a file of bars: windows, images and splits."""
    settings = candlestick_gaf.configure(
        kind="bars", paths=(str(path),), fractions=(0.2,) * 5, seed=0
    )
    bars.read(path)
    with contextlib.suppress(InputError):  # so few bars have no window, or have one
        candlestick_gaf._from_bars(settings)


def _read_series(path: Path) -> None:
    bars.read_by(path, "client")


def _paper(path: Path) -> None:
    settings = candlestick_gaf.configure(
        kind="pickle", paths=(str(path),), fractions=(0.2,) * 5, seed=0
    )
    paper_pickle.read(path)
    candlestick_gaf._from_pickle(settings)


def _source(data: bytes) -> None:
    """A source of two lines, its name and its server, and what the server and the cache hold."""
    name, base_url, published, kept = (*data.split(b"\n", 3), b"", b"", b"")[:4]
    text = name.decode("utf-8", "surrogateescape")
    config = launchers.config_of("data")
    config.data.source = text if text.startswith("binance:") else f"binance:{text}"
    config.data.binance_url = base_url.decode("utf-8", "surrogateescape")
    with tempfile.TemporaryDirectory() as folder, launchers.offline(published):
        config.data.cache_dir = folder
        _keep(config, folder, published, kept)
        loading._resolve(config)


def _keep(config, folder: str, published: bytes, kept: bytes) -> None:
    """Puts an archive and its checksum into the cache, where the source has a name for them."""
    cache = Path(folder) / "binance"
    path = cache / "data.example/data/spot/monthly/klines/ETHUSDT/1m/ETHUSDT-1m-2020-01.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(kept)
    binance._checksum_path(path).write_bytes(published)


def _sources() -> list[bytes]:
    archive = valid.zipped(valid.texts()[4])
    digest = hashlib.sha256(archive).hexdigest().encode()
    about = digest + b"  ETHUSDT-1m-2020-01.zip"
    return [
        b"\n".join(
            [b"binance:ETHUSDT:1m:2020-01:2020-01", b"https://data.example", about, archive]
        ),
    ]


def _recognise(folder: Path) -> None:
    config = launchers.config_of("recognition")
    config.attack_workdir = str(folder)
    with (
        mock.patch("dpfinjax.plots.recognition_violins"),
        mock.patch("dpfinjax.plots.recognition_against_epsilon"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        recognition.draw(config, folder / "drawn")


def _attack(folder: Path) -> None:
    """What an attack reads of its targets before it begins."""
    config = launchers.config_of("attack")
    config.targets = f"{folder / 'dpsgd'},{folder / 'pate'}"
    with (
        launchers.prepared() as run,
        mock.patch.object(targets, "check_finished"),
        contextlib.suppress(launchers.Started),
    ):
        attack.attack_all(config, run / "run")


def _study(folder: Path) -> None:
    found = collect.read(folder, "command", study.command_of)
    collect.accusations(folder)
    study.table(found)


def _metrics(path: Path) -> None:
    metrics_log.read(path.parent)
    with metrics_log.MetricsLog(path.parent, 20) as log:
        log.write(30, "train", {"loss": 0.5})


def _named(function: Callable, *arguments) -> Entry:
    return functools.partial(function, *arguments)


_OF_BYTES = (mutations.of_bytes,)
_BARS = (mutations.of_text, mutations.of_text, mutations.packed, mutations.parquet, *_OF_BYTES)


def _of_folder(data: bytes, rng: random.Random) -> bytes:
    """A mutation that suits the file which an input replaces."""
    name, _, content = data.partition(b"\n")
    by_suffix = {
        b"json": mutations.of_json,
        b"csv": mutations.of_text,
        b"npy": mutations.of_npy,
    }
    change = by_suffix.get(name.rpartition(b".")[2], mutations.of_bytes)
    return name + b"\n" + change(content, rng)


def _of_lines_of_json(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    lines[place] = mutations.of_json(lines[place], rng)
    return b"\n".join(lines)


@functools.cache
def _fields() -> dict[str, tuple[str, ...]]:
    return launchers.fields()


def _of_arguments(data: bytes, rng: random.Random) -> bytes:
    return mutations.of_arguments(data, rng, _fields())


def _of_fields(data: bytes, rng: random.Random) -> bytes:
    return mutations.of_fields(data, rng, _fields())


def _in(files: Callable[[], folders.Files]) -> Callable[[], list[bytes]]:
    return lambda: folders.inputs(files())


def _jobs() -> list[bytes]:
    return [
        *(job.encode() for job in launchers.JOBS if job not in ("recognition", "simulate")),
        b"simulate\n--config.real={bars}",
        b"dpsgd\n--config.data.source={bars}\n--config.seeds=2\n--config.models_at_once=4",
        b"dpsgd\n--config=configs/dpsgd.py:paper\n--sweep\n--seeds=3",
        b"audit\n--config=configs/audit.py:mutants",
    ]


def _configs() -> list[bytes]:
    alone = [job.encode() for job in launchers.JOBS if job not in ("recognition", "simulate")]
    return [*alone, b'simulate\nreal="{bars}"', b"dpsgd\nseed=1\nmodel.hidden=[7]\nepochs=2.5"]


TARGETS = {
    "bars": Target(_named(_in_file, _read_bars, "bars"), valid.bar_files, _BARS),
    "series": Target(_named(_in_file, _read_series, "bars"), valid.files_of_series, _BARS),
    "binance": Target(_source, _sources, (mutations.of_lines, mutations.of_bytes)),
    "pickle": Target(
        _named(_in_file, _paper, "ETH_gaf.pkl"),
        valid.pickles,
        (mutations.of_opcodes, mutations.of_opcodes, *_OF_BYTES),
        always=300 << 20,
    ),
    "flags": Target(launchers.run_arguments, _jobs, (_of_arguments,), 600 << 20),
    "config": Target(launchers.run_config, _configs, (_of_fields,), 600 << 20),
    "targets": Target(
        _named(_in_folder, folders.targets, _attack), _in(folders.targets), (_of_folder,), 600 << 20
    ),
    "recognition": Target(
        _named(_in_folder, folders.attack, _recognise), _in(folders.attack), (_of_folder,)
    ),
    "study": Target(
        _named(_in_folder, folders.finished_study, _study),
        _in(folders.finished_study),
        (_of_folder,),
    ),
    "metrics": Target(
        _named(_in_file, _metrics, metrics_log.METRICS),
        lambda: [folders.METRICS],
        (_of_lines_of_json, *_OF_BYTES),
    ),
    "results": Target(
        _named(_in_file, results.count, "results.csv"),
        lambda: [folders.targets()["dpsgd/results.csv"]],
        (mutations.of_text,),
    ),
}
