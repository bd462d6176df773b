"""Folders and files that know their digests, so that damage is noticed before it is used."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dpfinjax import workdir
from dpfinjax.errors import InputError

SEAL = "sha256.json"
"""The file of the digests, written after all others: without it a folder is not finished."""


def write(folder: str | Path, files: Iterable[str | Path] | None = None) -> None:
    """Writes the digests of a folder's files.

    Args:
      folder: the folder.
      files: paths within it, by default of all of its files.
    """
    workdir.write_json(Path(folder) / SEAL, _digests(Path(folder), files))


def is_written(folder: str | Path) -> bool:
    """Returns whether a folder has its digests, be they right or not."""
    return (Path(folder) / SEAL).exists()


def is_kept(folder: str | Path) -> bool:
    """Returns whether a folder has its digests and every file is still the one that was written."""
    try:
        stored = workdir.read_json(Path(folder) / SEAL)
        return bool(stored == _digests(Path(folder), stored))
    except (InputError, OSError, TypeError, ValueError):
        return False


def check(folder: str | Path, remedy: str) -> None:
    """Refuses a folder whose files are not those that were written.

    Args:
      folder: a folder with its digests.
      remedy: what to do about it.

    Raises:
      InputError: if a file differs or lacks.
    """
    if not is_kept(folder):
        raise InputError(f"{folder} is damaged: its files are not as they were written; {remedy}.")


def with_digest(content: bytes) -> bytes:
    """Returns what a single file holds that knows its digest: SHA-256, then the content."""
    return hashlib.sha256(content).digest() + content


def content(kept: bytes) -> bytes:
    """Returns the content of a file that `with_digest` made.

    Raises:
      ValueError: if it is not as it was written.
    """
    digest, found = kept[: hashlib.sha256().digest_size], kept[hashlib.sha256().digest_size :]
    if hashlib.sha256(found).digest() != digest:
        raise ValueError("the digest is that of another content")
    return found


def _digests(folder: Path, files: Iterable[str | Path] | None) -> dict[str, str]:
    """SHA-256 of files, by their paths within the folder."""
    if files is None:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [folder / path for path in files]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path != folder / SEAL
    }
