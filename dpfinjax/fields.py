"""The types of a config's fields, which a config file or a `config.json` may have got wrong.

Flags cannot: `ml_collections` refuses a value of another type than the field's own.
"""

import numbers
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from dpfinjax.errors import InputError


class Kind(NamedTuple):
    """What a field may hold.

    Attributes:
      words: what it must be, for the sentence.
      types: the types of such a value.
    """

    words: str
    types: tuple[type, ...]


NUMBER = Kind("a number", (numbers.Real,))
WHOLE = Kind("a whole number", (numbers.Integral,))
TEXT = Kind("text", (str,))
TRUTH = Kind("True or False", (bool,))
MANY = Kind("a tuple", (tuple, list))
PART = Kind("a part with fields of its own", (ConfigDict,))

_SHOWN = 60


def check(
    config: ConfigDict,
    kinds: Mapping[str, Kind],
    optional: Collection[str] = (),
    name: str = "config",
) -> None:
    """Checks that fields are there and of their type.

    Args:
      config: a config or a part of one.
      kinds: what each field holds.
      optional: those of them that may be None.
      name: what the config is called in an error.

    Raises:
      InputError: for the first field that is missing or of another type.

    >>> check(ConfigDict({"epochs": "many"}), {"epochs": NUMBER})
    Traceback (most recent call last):
    dpfinjax.errors.InputError: config.epochs is 'many'; it must be a number.
    """
    for field, kind in kinds.items():
        if field not in config:
            raise InputError(f"{name} has no field {field!r}; it must be {kind.words}.")
        value = config[field]
        if value is None and field in optional:
            continue
        is_kind = isinstance(value, kind.types) and (kind is TRUTH or not isinstance(value, bool))
        if not is_kind:
            raise InputError(f"{name}.{field} is {shown(value)}; it must be {kind.words}.")


def shown(value: object) -> str:
    """Returns a value of any type as one line that is not too long."""
    text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
