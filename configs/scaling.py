"""How time and memory grow with the number of windows.

Variants, after a colon:
  (none)   10 thousand to 10 million windows: about an hour on two cores, 9 GB of disk.
  quick    two small sizes, a minute: to see that it works.

Examples:
  python -m launch.scaling --config=configs/scaling.py:quick
  python -m launch.scaling --workdir=logs/scaling
"""

from ml_collections import ConfigDict

from configs import dpsgd
from configs.common import variant_of


def _quick(config: ConfigDict) -> None:
    config.windows = (1000, 4000)
    config.in_memory = 1000
    config.train.batch_size = 64
    config.steps = 10


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant.

    Its fields beside those of a training, which are in `train`:
      windows: about how many, ascending; each number is a simulated market of its own.
      bars_per_window: simulated for one window.
      steps: of the training that is timed; as many are made before.
      in_memory: up to so many windows a training in memory is measured too.
    """
    config = ConfigDict()
    config.train = dpsgd.get_config()
    config.train.update(
        seed=0, target_epsilon=None, noise_multiplier=1.0, batch_size=1024, accountant="rdp"
    )
    config.windows = (10_000, 100_000, 1_000_000, 10_000_000)
    config.bars_per_window = 140
    config.steps = 200
    config.in_memory = 1_000_000
    variant_of("configs/scaling.py", {"quick": _quick}, variant)(config)
    return config
