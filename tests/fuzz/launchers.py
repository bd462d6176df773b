"""Launchers, run within this process; where inputs are tried, until their work would begin."""

import contextlib
import functools
import http.client
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
from pathlib import Path
from unittest import mock

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from dpfinjax import workdir
from dpfinjax.data import Examples, Facts, Splits, loading, simulate, units
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from launch import app, attack, audit, bench, data, dpsgd, pate, recognition, study
from launch import simulate as simulation
from tests.fuzz import valid
from tests.fuzz.promise import Violation

JOBS = {
    "dpsgd": dpsgd.train_and_evaluate,
    "baseline": dpsgd.train_and_evaluate,
    "data": data.build_and_draw,
    "pate": pate.train_and_vote,
    "attack": attack.attack_all,
    "audit": audit.audit_or_fail,
    "study": study.study_or_fail,
    "recognition": recognition.draw,
    "simulate": simulation.compare,
    "bench": bench.measure,
}
CLONE = Path(__file__).resolve().parent.parent.parent
_SIZES = dict(zip(Splits._fields, (2400, 80, 80, 400, 2400), strict=True))
_LARGEST_MARKET = 10**9
_SETTLED = {"JAX_NUM_CPU_DEVICES": "1", "JAX_COMPILATION_CACHE_DIR": ""}  # jax runs here already


class Started(Exception):
    """A launcher has found nothing wrong and claims its folder."""


def fields() -> dict[str, tuple[str, ...]]:
    """The fields of each launcher's config, and those of its parts with a dot."""
    return {job: tuple(_flat(config_of(job))) for job in JOBS}


def _flat(config: ConfigDict, prefix: str = ""):
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{prefix}{name}.")


def config_of(job: str) -> ConfigDict:
    """A launcher's own config."""
    return importlib.import_module(f"configs.{job}").get_config()


def ended(job: str, *given: str) -> subprocess.CompletedProcess[str]:
    """Runs a launcher in this process with flags, as a shell would."""
    argv = [f"launch/{job}.py", *given]
    with io.StringIO() as printed, contextlib.redirect_stdout(printed), _stderr() as told:
        code: object = 0
        with (
            _no_flags(),
            mock.patch.object(sys, "argv", argv),
            mock.patch.dict(os.environ, _SETTLED),
        ):
            try:
                app.run(JOBS[job], job)
            except SystemExit as end:
                code = end.code
        return subprocess.CompletedProcess(argv, code, printed.getvalue(), told.getvalue())


def run_arguments(given: bytes) -> None:
    """Runs the launcher of the first line with a flag for each other line, as a shell would."""
    lines = given.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
    job = lines.pop(0) if lines[0] in JOBS else "dpsgd"
    with prepared() as folder:
        flags_given = [line.replace("{bars}", str(folder / "bars.csv")) for line in lines]
        try:
            done = ended(job, f"--workdir={folder / 'run'}", *flags_given)
        except Started:
            return
        _check_end(done.returncode, done.stderr)


def run_config(given: bytes) -> None:
    """Runs the launcher of the first line on a config of which other lines set fields, as JSON."""
    lines = given.decode("utf-8", "replace").split("\n")
    job = lines.pop(0) if lines[0] in JOBS else "dpsgd"
    config = config_of(job)
    with prepared() as folder, contextlib.redirect_stdout(io.StringIO()), _stderr():
        with contextlib.suppress(Untold):
            for line in lines:
                _set(config, line.replace("{bars}", str(folder / "bars.csv")))
        try:
            JOBS[job](config, str(folder / "run"))
        except (Started, SystemExit):
            return


class Untold(Exception):
    """An input that says nothing."""


def _set(config: ConfigDict, line: str) -> None:
    """Sets a field to what a config file could set it to, if the line says so."""
    name, _, text = line.partition("=")
    *parts, last = name.split(".")
    try:
        value = json.loads(text)
        for part in parts:
            config = config[part]
        with config.unlocked(), config.ignore_type():
            config[last] = tuple(value) if isinstance(value, list) else value
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError, OverflowError):
        raise Untold from None


def _check_end(code: object, told: str) -> None:
    """A launcher that ends by itself has been asked for help, or tells a mistake in one line."""
    if code == 2:
        sentences = [line for line in told.splitlines() if line.strip()]
        if len(sentences) != 1 or not sentences[0].startswith("error: "):
            raise Violation(f"exit code 2 without one sentence: {told[-300:]!r}")
        raise InputError(sentences[0])
    if code not in (0, 1, None) or "Traceback" in told:
        raise Violation(f"exit code {code}: {told[-300:]!r}")


@contextlib.contextmanager
def _stderr():
    with io.StringIO() as told, contextlib.redirect_stderr(told):
        yield told


@contextlib.contextmanager
def _no_flags():
    """Flags of a launcher that are forgotten afterwards."""
    _forget()
    known = set(flags.FLAGS)
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        _forget()


def _forget() -> None:
    for name in app._FLAGS:
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


@contextlib.contextmanager
def prepared():
    """A folder with a file of bars, in which no launcher prepares data or begins to work."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "bars.csv").write_bytes(valid.texts()[0])
        stack.enter_context(mock.patch.dict(os.environ, {"XDG_CACHE_HOME": name}))
        for target, stub in (
            ("dpfinjax.data.load", _load),
            ("dpfinjax.data.describe", _describe),
            ("dpfinjax.workdir.claim", _claim),
            ("dpfinjax.data.simulate.bars", _market),
            ("urllib.request.urlopen", _no_network),
        ):
            stack.enter_context(mock.patch(target, stub))
        yield folder


_claimed = workdir.claim


def _claim(folder, config, bound):
    """Confirms a folder that is there already; a new one is where the work would begin."""
    if (Path(folder) / workdir.CONFIG).exists():
        return _claimed(folder, config, bound)
    workdir.check(folder, config)
    json.dumps(workdir.as_json(config), allow_nan=False)
    json.dumps(bound, allow_nan=False)
    raise Started


def _no_network(*_, **__):
    raise urllib.error.URLError("no network here")


@contextlib.contextmanager
def offline(published: bytes):
    """A network whose every server answers so, after all checks that `urllib` makes itself."""

    def answer(request, **_):
        http.client.HTTPConnection(request.host)._validate_path(request.selector)
        request.selector.encode("ascii")
        return io.BytesIO(published)

    with (
        mock.patch("urllib.request.urlopen", answer),
        mock.patch("dpfinjax.data.binance._download_all", _none_to_download),
    ):
        yield


def _none_to_download(*_):
    raise InputError("no network here")


_simulated = simulate.bars


def _market(n, seed, **options):
    """A short market instead of a long one, unless nobody has memory for it."""
    if isinstance(n, int) and n > _LARGEST_MARKET:
        raise Violation(f"a market of {n} bars")
    return _simulated(min(n, 3000), seed, **options)


def _load(config: ConfigDict) -> Splits:
    loading._resolve(config)
    return splits()


@functools.cache
def splits() -> Splits:
    """Examples that are as large as real ones and mean nothing."""
    rng = np.random.default_rng(0)
    return Splits(*(_examples(rng, size) for size in _SIZES.values()))


def _examples(rng, size: int) -> Examples:
    return Examples(
        image=rng.uniform(-1, 1, (size, 10, 10, 4)).astype(np.float32),
        label=(np.arange(size) % len(PATTERNS)).astype(np.int32),
        ohlc=rng.uniform(1, 2, (size, 10, 4)),
        time=np.arange(size).astype("datetime64[us]"),
        unit=np.arange(size),
    )


def _describe(config: ConfigDict) -> Facts:
    loading._resolve(config)
    unit = config.get("privacy", {}).get("unit", units.WINDOW)
    return facts(unit)._replace(source=str(config.data.source))


def facts(unit: str = units.WINDOW) -> Facts:
    """What is known of `splits`."""
    counts = {
        split: dict.fromkeys(PATTERNS, size // len(PATTERNS)) for split, size in _SIZES.items()
    }
    numbers = dict.fromkeys(
        [
            name
            for name in Facts._fields
            if name.startswith(("windows", "bars", "moved", "pattern"))
        ],
        1,
    )
    return Facts(
        source="sim",
        source_sha256=(),
        folder="/cache/candlestick_gaf/made-0123/1.0.0",
        examples=counts,
        units={split: [0, size] for split, size in _SIZES.items()},
        disjoint=True,
        unit_name=unit,
        unit="one window of 10 bars",
        assumptions=(),
        **numbers,
    )
