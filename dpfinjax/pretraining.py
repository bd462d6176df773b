"""Parameters to start from: trained on a simulated market, which is public by construction."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import serialization
from ml_collections import ConfigDict

from dpfinjax import data, models, sealed, training, workdir
from dpfinjax.errors import InputError
from dpfinjax.training import Data, HParams, Spec

MARKET = 7408
"""The seed of the market, which nobody takes for private bars by accident."""

LENGTH = 10
"""Bars in a window, as `data.default_config` has it."""

_BATCH_SIZE, _LEARNING_RATE = 100, 3e-3
_SETTINGS: dict[str, Any] = {
    "capacity": 200,  # ten standard deviations above the batch size
    "clip_method": "none",
    "microbatch": 120,
    "optimizer": "adam",
    "schedule": "cosine",
    "weight_decay": 0.1,
    "ema_decay": 0.99,
}


def name(config: ConfigDict) -> str:
    """Returns the name of the parameters that `start` returns; "" where training starts at random.

    It is a digest of all that they depend on: the market with the code that makes it, the network,
    `config.pretrain`, the recipe and the code that trains.

    Args:
      config: of a training.
    """
    if not config.pretrain.sim_bars:
        return ""
    code = [Path(str(part.__file__)).read_text() for part in (models, training)]
    recipe = [config.pretrain.to_dict(), _BATCH_SIZE, _LEARNING_RATE, _SETTINGS]
    words = [data.name(_market(config)), repr(models.build(**config.model)), recipe, code]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
    return f"simulated-{digest[:16]}"


def start(config: ConfigDict) -> Any:
    """Returns parameters trained without privacy on all windows of a simulated market.

    Market, recipe and random key depend on nothing private, so neither do the parameters: to start
    from them costs no privacy. They are trained once and kept in the user's cache folder.

    Args:
      config: a checked config of a training, with `pretrain.sim_bars` above 0.

    Returns:
      The parameters, a pytree of arrays.

    Raises:
      InputError: if so few bars hold no windows.
    """
    module = models.build(**config.model)
    path = _cache(config) / "pretrained" / f"{name(config)}.sealed"
    try:
        image = jnp.zeros((1, LENGTH, LENGTH, 4))
        like = module.init(jax.random.key(0), image)["params"]
        kept = sealed.content(path.read_bytes())
        return jax.tree.map(jnp.asarray, serialization.from_bytes(like, kept))
    except (OSError, ValueError):  # none yet, or one that is damaged
        params = _trained(module, config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with workdir.replacing(path) as temporary:
            content = serialization.to_bytes(jax.tree.map(np.asarray, params))
            temporary.write_bytes(sealed.with_digest(content))
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be written ({error.strerror}), where pretrained parameters are "
            "kept; config.data.cache_dir must name a folder that can."
        ) from error
    return params


def _cache(config: ConfigDict) -> Path:
    """Where the run keeps what can be made again."""
    given = config.data.cache_dir if "data" in config else ""
    return workdir.user_folder(given, "config.data.cache_dir") if given else workdir.cache_folder()


def _market(config: ConfigDict) -> ConfigDict:
    """The data to pretrain on."""
    simulated = data.default_config()
    simulated.update(sim_bars=config.pretrain.sim_bars, seed=MARKET, cache_dir=str(_cache(config)))
    return ConfigDict({"data": simulated})


def _trained(module: nn.Module, config: ConfigDict) -> Any:
    """The parameters, from a training of its own."""
    try:
        splits = data.load(_market(config))
    except InputError as error:
        raise InputError(
            f"config.pretrain.sim_bars is {config.pretrain.sim_bars}, for which no market to "
            f"pretrain on can be prepared: {error}"
        ) from error
    image, label = (
        jnp.asarray(np.concatenate([getattr(part, field) for part in splits]))
        for field in ("image", "label")
    )
    examples = Data(image, label)
    steps = max(1, round(config.pretrain.epochs * len(label) / _BATCH_SIZE))
    spec = Spec(module=module, steps=steps, epoch_steps=steps, **_SETTINGS)
    numbers = (_LEARNING_RATE, 1.0, 0.0, min(1.0, _BATCH_SIZE / len(label)), _BATCH_SIZE)
    fit = jax.jit(training.fit, static_argnames=("spec",))
    hparams = HParams(*map(jnp.float32, numbers))
    params, _ = fit(jax.random.key(0), hparams, training.everything(examples), examples, spec)
    return params
