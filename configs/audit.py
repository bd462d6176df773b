"""Audits of a DP-SGD training: lower bounds on its epsilon, beside what it states.

Variants, after a colon:
  (none)   a training of 10 epochs at epsilon 4 on a simulated market, or --config.data.source:
           21,002 models in about a minute.
  quick    a small simulated market, a small network and fewer canaries; half a minute.
  mutants  eleven private mechanisms with one part broken, and the test that refutes each; five
           seeds in half a minute.

Examples:
  python -m launch.audit --config=configs/audit.py:quick
  python -m launch.audit --config.data.source=bars.csv.gz --config.target_epsilon=2
  python -m launch.audit --config=configs/audit.py:mutants
"""

from ml_collections import ConfigDict, config_dict

from configs.common import QUICK_SIM_BARS, common, variant_of
from dpfinjax.attacks import intervals


def _quick(config: ConfigDict) -> None:
    config.data.sim_bars = QUICK_SIM_BARS
    config.batch_size = 512
    config.model.hidden = (16,)
    config.audit.canaries = 500


def _mutants(config: ConfigDict) -> None:
    config.mutants = True


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    config = common()
    config.target_epsilon = 4.0
    config.epochs = 10.0
    config.clip_norm = 2.0
    # None audits the epsilon that the training itself states.
    config.stated_epsilon = config_dict.placeholder(float)
    config.audit = ConfigDict(intervals.Settings()._asdict())
    config.mutants = False
    config.mutant_runs = 4000
    config.mutant_seeds = 5
    variant_of("configs/audit.py", {"quick": _quick, "mutants": _mutants}, variant)(config)
    return config
