"""Attacks on trained models, or on a set of models that is trained first.

The set is a config of `launch.dpsgd` (`with_baseline`, `cells`, ...). Training split and population
are of equal size here, so that a shadow model, which sees half of both, sees as many examples as
its target. `attack` has the settings of the attacks themselves:
  models         number of shadow models of each target, even and at least 4
  variance       LiRA's: "example" (from 64 models on) or "global" (for few)
  gamma          RMIA's factor
  hidden, steps, batch_size, learning_rate   of the attack model of the paper's attack
`models_at_once` says how many shadow models one program trains at most.

Variants, after a colon:
  (none)   the non-private model and the five noise levels of Wang and Tsai (2022) at their clip
           norm 1, batch 30 and 120 epochs, so at their epsilons, but on our network and with our
           learning rate; 64 shadow models for each. The non-private model trains for 120 epochs
           too, without weight decay: nobody took care that it does not memorise.
  paper    the same on their network and with their learning rate, which takes ten times as long.
  quick    a small simulated market, the non-private model and two noise levels, 16 shadow models.

Examples:
  python -m launch.attack --config=configs/attack.py:quick
  python -m launch.attack --config=configs/attack.py --config.data.source=bars.csv.gz
  python -m launch.attack --config.targets=logs/dpsgd,logs/pate --workdir=logs/attack_mine
"""

from ml_collections import ConfigDict

from configs import baseline, dpsgd
from configs.common import QUICK_SIM_BARS, variant_of


def _paper(config: ConfigDict) -> None:
    config.model.variant = config.baseline.model.variant = "paper_dpsgd"
    config.update(learning_rate=0.0006, momentum=0.9)


def _quick(config: ConfigDict) -> None:
    config.data.sim_bars = QUICK_SIM_BARS
    config.update(batch_size=128, epochs=40.0)
    config.cells = tuple({"noise_multiplier": noise} for noise in (0.5, 2.0))
    config.attack.update(models=16, variance="global", steps=1000)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    config = dpsgd.get_config("paper")
    config.targets = ""
    config.data.fractions = (0.40, 0.05, 0.10, 0.05, 0.40)
    config.with_baseline = True
    config.baseline = baseline.without_privacy()
    config.baseline.update(epochs=120.0, weight_decay=0.0)
    config.clip_norm = 1.0
    config.model.variant = "gaf_series"
    config.update(learning_rate=None, momentum=0.0, published_formula=False)
    config.cells = tuple({"noise_multiplier": noise} for noise in (0.1, 0.3, 0.5, 0.7, 1.0))
    config.attack = ConfigDict(
        {
            "models": 64,
            "variance": "example",
            "gamma": 2.0,
            "hidden": (64, 32),
            "steps": 2000,
            "batch_size": 1024,
            "learning_rate": 1e-3,
        }
    )
    variant_of("configs/attack.py", {"paper": _paper, "quick": _quick}, variant)(config)
    return config
