"""The data set alone.

Variants, after a colon:
  (none)   a simulated market with the paper's 13,170 training images, or --config.data.source.
  quick    a small simulated market.

Examples:
  python -m launch.data --config=configs/data.py:quick
  python -m launch.data --config.data.source=bars.csv.gz --config.data.split=chronological
"""

from ml_collections import ConfigDict

from configs.common import QUICK_SIM_BARS, variant_of
from dpfinjax import data


def _quick(config: ConfigDict) -> None:
    config.data.sim_bars = QUICK_SIM_BARS


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    config = ConfigDict({"data": data.default_config()})
    variant_of("configs/data.py", {"quick": _quick}, variant)(config)
    return config
