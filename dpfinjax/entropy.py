"""Where the randomness of a private run comes from: the operating system, or a seed that is fixed.

A config whose `seed` is None asks for a secret of the operating system. `settled` puts it into a
copy of the config, as the field `entropy`, and numbers seeds from 0 on; nothing but `seed.json` in
the run's folder keeps it. A config that only plans has the field too, without a value.
"""

import hashlib
import json
import secrets
from pathlib import Path

from ml_collections import ConfigDict, config_dict

from dpfinjax import workdir
from dpfinjax.errors import InputError

SEED = "seed.json"
"""The file of the secret, in the run's folder; whoever has it can remove the noise."""

BITS = 64
"""As many as a key of `jax.random` holds."""


def settled(config: ConfigDict, folder: str | Path) -> ConfigDict:
    """Returns the config that a run trains by; `keep` must follow before anything is trained.

    Args:
      config: of a run; with a seed it is returned as it is.
      folder: the run's folder, whose `seed.json` is used where there is one: a run that is resumed
        has the randomness that it had.

    Returns:
      A config for `settings.key`.

    Raises:
      InputError: the file cannot be read, or is gone from a run that has begun.
    """
    if config.seed is not None:
        return config
    path = Path(folder) / SEED
    if path.exists():
        return _with(config, _read(path))
    begun = path.parent.is_dir() and any(
        file.name != workdir.CONFIG and not file.name.startswith(".")
        for file in path.parent.iterdir()
    )
    if begun:
        raise InputError(
            f"--workdir={folder} holds a run whose {SEED} is gone, without which it cannot go on; "
            "choose another folder."
        )
    return _with(config, secrets.randbits(BITS))


def keep(config: ConfigDict, folder: str | Path) -> None:
    """Writes a settled config's secret into the run's folder, unless it is there or there is none.

    Args:
      config: as `settled` returned it.
      folder: the run's folder, which exists.
    """
    path = Path(folder) / SEED
    if "entropy" not in config or path.exists():
        return
    content = {
        "entropy": f"{config.entropy:#018x}",
        "sha256": _digest(config.entropy),
        "note": "Whoever has this number can remove the noise of this run. Do not share it.",
    }
    with workdir.replacing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def planned(config: ConfigDict) -> ConfigDict:
    """Returns a config with a number for its seed, to plan with: without the secret of a run.

    Args:
      config: of a run or a model.
    """
    return config if config.seed is not None else _with(config, None)


def as_given(config: ConfigDict) -> ConfigDict:
    """Returns a model's config with the seed that the user gave, None where there was none.

    Args:
      config: from a `settled` or a `planned` one.
    """
    if "entropy" not in config:
        return config
    copy = reproducible(config)
    copy.seed = config_dict.placeholder(int)
    return copy


def reproducible(config: ConfigDict) -> ConfigDict:
    """Returns a config without secret, for randomness that protects nothing, as that of attacks.

    Args:
      config: from a `settled` or a `planned` one.
    """
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        if "entropy" in copy:
            del copy["entropy"]
    return copy


def handed(config: ConfigDict, part: ConfigDict) -> ConfigDict:
    """Returns a part of a config with the seed, and the secret, of the whole.

    Args:
      config: of a model.
      part: of a training within it.
    """
    copy = part.copy_and_resolve_references()
    with copy.unlocked():
        copy.seed = config.seed
        if "entropy" in config:
            copy.entropy = config.entropy
    return copy


def assumption(config: ConfigDict) -> str:
    """Returns what a privacy statement takes for granted of the noise's source.

    Args:
      config: of a model.
    """
    if config.seed is None or "entropy" in config:
        return (
            f"The noise comes from {BITS} random bits of the operating system through a "
            "counter-based generator, taken to be as good as random: whoever has these bits, or "
            f"tries all 2^{BITS}, can remove the noise. They are kept in the run's {SEED}, which "
            "must not be shared."
        )
    return (
        "The noise comes from config.seed, which the user fixed, through a counter-based "
        "generator, taken to be as good as random: the noise is reproducible by whoever knows the "
        "seed, or tries all 2^32, and can so be removed."
    )


def _with(config: ConfigDict, entropy: int | None) -> ConfigDict:
    """A copy with a secret, or with the place for one, and seeds from 0 on."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.seed = 0
        copy.entropy = config_dict.placeholder(int)
        copy.entropy = entropy
    return copy


def _read(path: Path) -> int:
    """The number that `keep` wrote."""
    try:
        content = json.loads(path.read_text())
        found = int(content["entropy"], 16)
        if not 0 <= found < 1 << BITS or content["sha256"] != _digest(found):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as a run's secret; choose another folder."
        ) from error
    return found


def _digest(entropy: int) -> str:
    """By which a damaged secret is noticed; it lies beside the secret alone."""
    return hashlib.sha256(entropy.to_bytes(BITS // 8, "big")).hexdigest()
