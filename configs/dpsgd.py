"""DP-SGD on candlestick images.

Variants, after a colon:
  (none)   ours: large batches, bounded activations, averaged parameters, epsilon 4. On 5,769
           windows of ETH/USD minutes: 91.9 % test accuracy, some twenty seconds.
  quick    a small simulated market, the non-private model first; for a first look.
  paper    the ten cells of Wang and Tsai (2022): noise x clip norm, batch 30, 120 epochs, with the
           epsilon really spent and, beside it, what the published formula gives.

Examples:
  python -m launch.dpsgd --config=configs/dpsgd.py --config.target_epsilon=2
  python -m launch.dpsgd --config=configs/dpsgd.py:paper --config.data.source=bars.csv.gz
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import baseline
from configs.common import QUICK_SIM_BARS, common, variant_of


def sweep(add: Callable[..., None]) -> None:
    """Adds the ten cells of the paper's grid."""
    for clip_norm in (1.0, 1.5):
        for noise_multiplier in (0.1, 0.3, 0.5, 0.7, 1.0):
            add(clip_norm=clip_norm, noise_multiplier=noise_multiplier)


def _paper(config: ConfigDict) -> None:
    config.model.variant = "paper_dpsgd"
    config.target_epsilon = None
    config.noise_multiplier = 1.0
    config.published_formula = True
    config.clip_norm = 1.0
    config.update(
        batch_size=30, epochs=120.0, learning_rate=0.0006, momentum=0.9, schedule="constant"
    )
    config.ema_decay = 0.0
    config.augment.copies = 0
    cells: list[dict[str, float]] = []
    sweep(lambda **cell: cells.append(cell))
    config.cells = tuple(cells)


def _quick(config: ConfigDict) -> None:
    config.data.sim_bars = QUICK_SIM_BARS
    config.with_baseline = True


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    config = common()
    config.target_epsilon = 4.0
    config.epochs = 100.0
    config.ema_decay = 0.98
    config.augment.copies = 1
    config.with_baseline = False
    config.baseline = baseline.overrides()
    variant_of("configs/dpsgd.py", {"quick": _quick, "paper": _paper}, variant)(config)
    return config
