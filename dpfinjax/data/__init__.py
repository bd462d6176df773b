"""From price bars to the five splits of labelled images."""

from dpfinjax.data.disk import Place, Stored, opened
from dpfinjax.data.loading import Facts, StoredSplits, default_config, describe, load, name, stored
from dpfinjax.data.splits import Examples, Splits

__all__ = [
    "Examples",
    "Facts",
    "Place",
    "Splits",
    "Stored",
    "StoredSplits",
    "default_config",
    "describe",
    "load",
    "name",
    "opened",
    "stored",
]
