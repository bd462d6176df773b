"""The recognition rate of the models that `launch.attack` attacked.

Examples:
  python -m launch.recognition --config.attack_workdir=logs/attack
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    return ConfigDict({"attack_workdir": "logs/attack"})
