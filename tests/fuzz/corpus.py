"""Inputs that once broke the promise, each a file in the folder of its target."""

import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent / "cases"


def inputs(target: str) -> dict[str, bytes]:
    """The inputs of a target, by their names."""
    return {path.name: path.read_bytes() for path in sorted((_FOLDER / target).glob("*"))}


def keep(target: str, data: bytes) -> None:
    """Adds an input."""
    (_FOLDER / target).mkdir(parents=True, exist_ok=True)
    name = f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    (_FOLDER / target / name).write_bytes(data)
