"""Configs as the commands that give them."""

import shlex
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from dpfinjax import workdir
from dpfinjax.report import tables


def command(job: str, variants: Mapping[str, ConfigDict], config: ConfigDict, folder: str) -> str:
    """Returns the shortest command that runs a launcher with a config.

    A flag is given for each field that differs from the variant's. A field that is None here and is
    not there has none, since none can say so: another flag clears it, see `sweeps.EITHER_OR`, or
    the variant is not the one to start from.

    Args:
      job: the launcher's name, and its config file's.
      variants: by name, what each variant of the file gives; "" for the one without a name.
      config: the config; fields that a variant does not have are left out.
      folder: the workdir; "" for the launcher's own.

    Returns:
      One line, quoted for a shell.
    """
    found = {name: _flags(config, base) for name, base in variants.items()}
    variant = min(found, key=lambda name: len(found[name]))
    file = f"configs/{job}.py" + (f":{variant}" if variant else "")
    words = ["python", "-m", f"launch.{job}", f"--config={file}", *found[variant]]
    return shlex.join(words + ([f"--workdir={folder}"] if folder else []))


def _flags(config: ConfigDict, base: ConfigDict) -> list[str]:
    """A flag for each field that differs."""
    ours, theirs = (tables.flat(workdir.as_json(each)) for each in (config, base))
    return [
        f"--config.{name}={_text(ours[name])}"
        for name, value in theirs.items()
        if name in ours and ours[name] != value and ours[name] is not None
    ]


def _text(value: Any) -> str:
    """A value as a flag is given it."""
    return repr(tuple(value)) if isinstance(value, list) else str(value)
