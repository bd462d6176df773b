"""What every training's config has, with defaults that the configs beside this one change."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict, config_dict

from dpfinjax import data, models, selection
from dpfinjax.errors import InputError


def common() -> ConfigDict:
    """Returns the fields of a training of some data, and of its repetitions."""
    config = training()
    config.data = data.default_config()
    config.cells = ()
    config.seeds = 1
    config.models_at_once = 16
    config.sweep = selection.default_config()
    return config


def training() -> ConfigDict:
    """Returns the fields of a training; a None is meant to be filled in or left out."""
    config = ConfigDict()
    # None draws it from the operating system, once a run, and keeps it in seed.json of the workdir.
    config.seed = config_dict.placeholder(int)
    config.model = ConfigDict({"variant": "gaf_series"})
    for name in models.GafCnn.__dataclass_fields__:
        if name not in ("parent", "name"):
            kind = type(getattr(models.GafCnn(), name))
            config.model[name] = config_dict.placeholder(kind)

    config.target_epsilon = config_dict.placeholder(float)
    config.noise_multiplier = config_dict.placeholder(float)
    config.delta = 1e-5
    config.accountant = "pld"
    config.published_formula = False
    # The unit is "window", "day", "week" or a column of the bars; of a larger one than a window so
    # many windows are used.
    config.privacy = ConfigDict({"unit": "window", "windows_per_unit": 16})
    config.clip_method = "auto"
    config.clip_rule = "flat"
    config.clip_norm = 0.3
    # So many noisy copies of a window beside it, whose gradients are averaged before clipping.
    config.augment = ConfigDict({"copies": 0, "price_noise": 0.01, "scale_jitter": 0.2})
    # Bars of a simulated market, public by construction, to train on before; 0 for none.
    config.pretrain = ConfigDict({"sim_bars": 0, "epochs": 40.0})
    config.microbatch = config_dict.placeholder(int)

    # None leaves batch size and learning rate to the rules of `dpfinjax.recipes`.
    config.batch_size = config_dict.placeholder(int)
    config.epochs = config_dict.placeholder(float)
    config.steps = config_dict.placeholder(int)
    config.optimizer = "sgd"
    config.learning_rate = config_dict.placeholder(float)
    config.momentum = 0.0
    config.nesterov = False
    config.schedule = "constant"
    config.warmup = 0.0
    config.weight_decay = 0.0
    config.ema_decay = 0.0
    config.checkpoint_epochs = 1
    return config


QUICK_SIM_BARS = 400_000
"""Simulated bars of the quick variants: about 2,000 training images."""


def variant_of(
    file: str, variants: Mapping[str, Callable[[ConfigDict], None]], name: str
) -> Callable[[ConfigDict], None]:
    """Returns the function that changes a config into the named variant; "" changes nothing.

    Raises:
      InputError: for a name that the file does not have.
    """
    if name and name not in variants:
        raise InputError(f"{file} has no variant {name!r}; it has {', '.join(variants)}.")
    return variants.get(name, lambda config: None)
