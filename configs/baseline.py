"""The model without privacy, the yardstick for the private ones.

Variants, after a colon:
  (none)   ours: Adam, 80 epochs, copies of windows, averaged parameters.
  paper    Wang and Tsai (2022): sigmoid convolutions, SGD at 0.0006 with Nesterov momentum.
  quick    a small simulated market.

Examples:
  python -m launch.baseline --config=configs/baseline.py --config.data.source=bars.csv
"""

from ml_collections import ConfigDict

from configs.common import QUICK_SIM_BARS, common, training, variant_of


def without_privacy() -> ConfigDict:
    """What any training without privacy changes in a training's config."""
    return ConfigDict(
        {
            "clip_method": "none",
            "target_epsilon": None,
            "noise_multiplier": None,
            "batch_size": 100,
            "epochs": 40.0,
            "steps": None,
            "optimizer": "adam",
            "learning_rate": 3e-3,
            "schedule": "cosine",
            "momentum": 0.0,
            "weight_decay": 0.5,
            "ema_decay": 0.99,
            "augment": {"copies": 0},
            # Its own network, whatever the private models' is.
            "model": training().model.copy_and_resolve_references(),
        }
    )


def overrides() -> ConfigDict:
    """What the non-private model changes in any training's config."""
    changes = without_privacy()
    # Without noise a wider network learns more, and from copies for longer.
    changes.update(epochs=80.0, augment={"copies": 3}, model={"hidden": (64, 64, 64)})
    return changes


def _paper(config: ConfigDict) -> None:
    config.update(
        optimizer="sgd",
        learning_rate=0.0006,
        momentum=0.9,
        nesterov=True,
        schedule="constant",
        epochs=120.0,
        weight_decay=0.0,
        ema_decay=0.0,
        augment={"copies": 0},
        model={"variant": "paper_baseline", "hidden": None},
    )


def _quick(config: ConfigDict) -> None:
    config.data.sim_bars = QUICK_SIM_BARS


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    config = common()
    config.update(overrides())
    variant_of("configs/baseline.py", {"paper": _paper, "quick": _quick}, variant)(config)
    return config
