"""From price bars to the five splits of labelled images."""

from dpfinjax.data.loading import Facts, default_config, describe, load, name
from dpfinjax.data.splits import Examples, Splits

__all__ = ["Examples", "Facts", "Splits", "default_config", "describe", "load", "name"]
