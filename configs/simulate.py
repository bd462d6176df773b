"""The simulated market beside a real one.

Examples:
  python -m launch.simulate --config.real=bars.csv.gz --config.bars=3000000
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Returns the config."""
    return ConfigDict({"real": config_dict.placeholder(str), "bars": 3_000_000, "seed": 0})
