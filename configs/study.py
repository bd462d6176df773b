"""The whole balance of privacy and accuracy on one's bars, as one report.

Variants, after a colon:
  (none)   for real bars: five seeds; DP-SGD at five epsilons, the published recipe at its five
           noise levels, DP-SGD after simulated bars, PATE, 16 shadow models a model, audits.
  quick    a small simulated market and little of everything, some minutes; `make demo` runs it.
  paper    the ten cells and the PATE grid of Wang and Tsai (2022), and 64 shadow models; hours.

Examples:
  python -m launch.study --config=configs/study.py --config.data.source=bars.csv.gz
  python -m launch.study --config.dpsgd.clip_norm=0.5 --config.seeds=3
  python -m launch.study --config.parts=dpsgd,attack --config.attack.models=64
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from configs import attack, dpsgd, pate
from configs.common import QUICK_SIM_BARS, common, variant_of
from dpfinjax.attacks import intervals

PARTS = ("dpsgd", "published", "pretrained", "pate", "attack", "audit")
"""All parts, in the order in which they are done."""

SHARED = ("data", "seed", "seeds", "models_at_once", "delta", "privacy")
"""Fields that are the same for all parts and stand outside of them."""

_PRETRAIN_SIM_BARS = 3_000_000


def _at(field: str, values: Sequence[float]) -> tuple[dict[str, float], ...]:
    """A cell for each value of a field."""
    return tuple({field: value} for value in values)


def _quick(config: ConfigDict) -> None:
    config.data.sim_bars = QUICK_SIM_BARS
    config.seeds = 3
    for part in ("dpsgd", "pretrained"):
        config[part].cells = _at("target_epsilon", (1.0, 4.0))
        config[part].augment.copies = 0
    config.dpsgd.baseline.update(epochs=40.0, augment={"copies": 0})
    config.pretrained.pretrain.update(sim_bars=QUICK_SIM_BARS, epochs=10.0)
    config.published.cells = _at("noise_multiplier", (1.0,))
    config.pate.cells = ()
    config.pate.teachers = 10
    config.pate.teacher.epochs = 20.0
    config.pate.student.epochs = 40.0
    config.attack.update(models=8, variance="global", steps=500)
    config.audit.update(canaries=500, runs=500, network_runs=20)


def _paper(config: ConfigDict) -> None:
    config.published.cells = dpsgd.get_config("paper").cells
    config.pate = _own(pate.get_config("paper"))
    config.attack.update(models=64, variance="example")
    config.attacked = ("dpsgd", "published", "pretrained", "pate")


def _own(config: ConfigDict) -> ConfigDict:
    """A launcher's config without what all parts share."""
    for field in SHARED:
        del config[field]
    return config


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant.

    Its fields beside those of `SHARED`:
      parts: what is done, of `PARTS`; the data and the report always are.
      tolerance: how far below the non-private accuracy a recommended model may be, in accuracy.
      dpsgd, published, pretrained: configs of `launch.dpsgd`, a model a cell: our recipe, with the
        non-private model; that of Wang and Tsai (2022); ours after training on simulated bars.
      pate: a config of `launch.pate`.
      attacked: those of these and of pate whose models are attacked, the first seed of each.
      attack: the settings of `launch.attack`'s attacks.
      audit: the settings of `launch.audit`'s audits of each training of dpsgd and pretrained.
    """
    config = common()
    for field in set(config) - set(SHARED):
        del config[field]
    config.seeds = 5
    config.parts = PARTS
    config.tolerance = 0.02
    config.attacked = ("dpsgd", "pretrained")
    config.dpsgd = _own(dpsgd.get_config())
    config.dpsgd.with_baseline = True
    config.dpsgd.cells = _at("target_epsilon", (0.5, 1.0, 2.0, 4.0, 8.0))
    config.published = _own(dpsgd.get_config("paper"))
    config.published.cells = _at("noise_multiplier", (0.1, 0.3, 0.5, 0.7, 1.0))
    config.pretrained = _own(dpsgd.get_config())
    config.pretrained.cells = config.dpsgd.cells
    config.pretrained.pretrain.sim_bars = _PRETRAIN_SIM_BARS
    config.pate = _own(pate.get_config())
    config.pate.cells = _at("target_epsilon", (4.0, 8.0))
    config.attack = attack.get_config().attack
    config.attack.update(models=16, variance="global")
    config.audit = ConfigDict(intervals.Settings()._asdict())
    config.audit.update(runs=1000, network_runs=50)
    variant_of("configs/study.py", {"quick": _quick, "paper": _paper}, variant)(config)
    return config
