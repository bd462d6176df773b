"""A run's folder: one config each, and files that are whole or absent."""

import contextlib
import csv
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dpfinjax.errors import InputError

CONFIG = "config.json"
_PACKAGES = (
    "dpfinjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "dp-accounting",
    "orbax-checkpoint",
    "tensorflow-datasets",
)


def check(workdir: str | Path, config: ConfigDict) -> None:
    """Refuses a folder that belongs to another config, or to something else.

    Args:
      workdir: the folder, which need not exist.
      config: the whole config of the run that wants it.

    Raises:
      InputError: if the folder was made by another config (the first field that differs is named),
        is not a folder, or holds files but no config.
    """
    path = Path(workdir)
    try:
        path.stat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(
            f"--workdir={path} cannot name a folder ({error}); choose another."
        ) from error
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir={path} is a file; it must be a folder.")
    if (path / CONFIG).exists():
        difference = _first_difference(_read(path / CONFIG)["config"], as_json(config))
        if difference:
            raise InputError(
                f"--workdir={path} holds a run of another config ({difference}); "
                "choose another folder, or the same config to resume it."
            )
    elif path.is_dir() and not os.access(path, os.W_OK):
        raise InputError(f"--workdir={path} cannot be written; choose another folder.")
    elif path.is_dir() and any(not f.name.startswith(".") for f in path.iterdir()):
        raise InputError(
            f"--workdir={path} holds files but no {CONFIG}; choose an empty or a new folder."
        )


def claim(workdir: str | Path, config: ConfigDict, bound: Mapping[str, Any]) -> Path:
    """Makes the folder this config's, or confirms that it is.

    Writes `config.json` (the config, what it is bound to, versions, devices, command, git commit)
    where there is none.

    Args:
      workdir: the folder, made with its parents where it is missing.
      config: the whole config of the run.
      bound: what else must be the same when the run is resumed, as JSON values: the data's digests
        and the numbers that its privacy statement is about.

    Returns:
      The folder's path.

    Raises:
      InputError: as `check`, if the folder is bound to something else, or cannot be written.
    """
    check(workdir, config)
    path = Path(workdir)
    ours = json.loads(json.dumps(bound))
    if (path / CONFIG).exists():
        difference = _first_difference(_read(path / CONFIG)["bound"], ours, "it")
        if difference:
            raise InputError(
                f"--workdir={path} holds a run of the same config on other data or code "
                f"({difference}); choose another folder."
            )
        return path
    try:
        path.mkdir(parents=True, exist_ok=True)
        content = {"config": as_json(config), "bound": ours, **_surroundings()}
        write_json(path / CONFIG, content)
    except OSError as error:
        raise InputError(f"--workdir={path} cannot be written: {error.strerror}.") from error
    return path


def cache_folder() -> Path:
    """Returns the user's cache folder, as the XDG base directory specification says.

    `$XDG_CACHE_HOME/dpfinjax`, or `~/.cache/dpfinjax` where the variable is not an absolute path.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "dpfinjax"


def user_folder(path: str, field: str) -> Path:
    """Returns the path of a folder, with the user's own for `~`.

    Args:
      path: as a config has it.
      field: the config's field.

    Raises:
      InputError: if the text cannot name a folder.
    """
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{field} cannot name a folder ({error}); choose another.") from error
    if "\0" in path:
        raise InputError(f"{field} is {path!r}, which has a zero byte; choose another folder.")
    return folder


def as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as plain JSON values: tuples as lists, infinity as its name."""
    return json.loads(config.to_json_best_effort(), parse_constant=str)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, which takes its place when the block ends well.

    Args:
      path: the final name; what it held stays until the block has ended.

    Yields:
      The temporary path, with the suffix of `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Gives an empty folder beside `path`, which takes its place when the block ends well.

    What a kill leaves is at worst no folder at `path`, or a hidden one that the next call removes.

    Args:
      path: the final name; what it held stays until the block has ended.

    Yields:
      The temporary folder, in which files, but no folders, are to be written.
    """
    path = Path(path)
    temporary, former = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    for left in (temporary, former):
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        for written in (*temporary.iterdir(), temporary):
            _to_disk(written)
        if path.exists():
            os.replace(path, former)
        os.replace(temporary, path)
    finally:
        for left in (temporary, former):
            shutil.rmtree(left, ignore_errors=True)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes an object as indented, strictly standard JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows under a header of the first one's keys, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Writes an array, whole or not at all."""
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def read_json(path: str | Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
      InputError: if it cannot be read as JSON, or is nested deeper than any file of ours.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({_reason(error)}).") from error


def read_npy(path: str | Path) -> np.ndarray:
    """Returns the array in a file, whose header cannot make it larger than the file.

    Raises:
      InputError: if it is no array of numbers or truth values, or is cut short.
    """
    try:
        # Mapped, since a file that is shorter than its array is then refused before any memory.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is Python text, and its parser may raise anything
        raise InputError(f"{path} cannot be read as an array ({_reason(error)}).") from error
    # Text and void can have no bytes at all: a copy of 1e13 of them would take hours.
    if mapped.dtype.kind not in "biuf":
        raise InputError(f"{path} is an array of {mapped.dtype}; it must be one of numbers.")
    return np.array(mapped)


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of files, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`."""
    try:
        content = read_json(path)
        return {"config": content["config"], "bound": content["bound"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as a run's config; choose another folder."
        ) from error


def _first_difference(theirs: Any, ours: Any, name: str = "config") -> str | None:
    """The first field in which two JSON values differ, with both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(set(theirs) | set(ours)):
            found = _first_difference(theirs.get(key), ours.get(key), f"{name}.{key}")
            if found:
                return found
        return None
    return None if theirs == ours else f"{name} is {theirs!r} there and {ours!r} here"


def _surroundings() -> dict[str, Any]:
    """What a run depends on besides its config."""
    return {
        "command": sys.argv,
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain")),
    }


def _git(*arguments: str) -> str | None:
    """The output of git in the clone, or None outside of one."""
    clone = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", *arguments], cwd=clone, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
