"""Sums of clipped per-example gradients, each with the sensitivity that it guarantees."""

from dpfinjax.clipping.contract import ClippedGrad, ClipStats
from dpfinjax.clipping.devices import over_devices
from dpfinjax.clipping.ghost import ghost_clipped_grad
from dpfinjax.clipping.microbatches import in_microbatches
from dpfinjax.clipping.per_example import vmap_clipped_grad
from dpfinjax.clipping.rules import RULES

__all__ = [
    "RULES",
    "ClipStats",
    "ClippedGrad",
    "ghost_clipped_grad",
    "in_microbatches",
    "over_devices",
    "vmap_clipped_grad",
]
