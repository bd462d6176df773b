"""What trains best at an epsilon: the default of `configs/dpsgd.py`, and one change to it a cell.

Choose by the validation column; three seeds each. Looking at many private models and sharing the
best one spends more than one epsilon: --config.sweep.select=private accounts for that.

Variants, after a colon:
  (none)    networks, clipping, batches, epochs, optimizers, averages and copies.
  networks  networks alone.

Examples:
  python -m launch.dpsgd --config=configs/search.py --config.data.source=bars.csv.gz
  python -m launch.dpsgd --config=configs/search.py --config.target_epsilon=1 \
    --config.sweep.select=private --seeds=1
"""

from typing import Any

from ml_collections import ConfigDict

from configs import dpsgd
from configs.common import variant_of

NETWORKS: tuple[dict[str, Any], ...] = (
    {"model.variant": "gaf_series"},
    {"model.hidden": (16, 16, 16)},
    {"model.hidden": (64, 64)},
    {"model.hidden": (64, 64, 64)},
    {"model.dense_activation": "relu"},
    *(
        {"model.variant": "gaf_cnn", "augment.copies": 0} | changes
        for changes in (
            {},
            {"model.conv_activation": "relu"},
            {"model.input": "normalised"},
            {"model.groups": 4},
            {"model.groups": 4, "model.standardise": True},
        )
    ),
    {"model.variant": "paper_dpsgd", "augment.copies": 0},
)

TRAINING: tuple[dict[str, Any], ...] = (
    {"clip_norm": 0.1},
    {"clip_norm": 1.0},
    {"clip_rule": "automatic"},
    {"clip_rule": "per_layer"},
    {"learning_rate": 3.0},
    {"learning_rate": 6.0},
    {"learning_rate": 10.0},
    {"batch_size": 512},
    {"batch_size": 1024},
    {"epochs": 50.0},
    {"epochs": 200.0},
    {"momentum": 0.9, "learning_rate": 0.6},
    {"schedule": "linear"},
    {"ema_decay": 0.0},
    {"augment.copies": 0},
    {"augment.copies": 3},
    {"augment.copies": 7},
    {"augment.scale_jitter": 0.1},
    {"augment.price_noise": 0.03},
)


def _networks(config: ConfigDict) -> None:
    config.cells = NETWORKS


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    config = dpsgd.get_config()
    config.cells = NETWORKS + TRAINING
    config.seeds = 3
    variant_of("configs/search.py", {"networks": _networks}, variant)(config)
    return config
