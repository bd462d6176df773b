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

from dpfinjax import data, models, training, workdir
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

    It is a digest of all that they depend on: the network, `config.pretrain` and the recipe.

    Args:
      config: of a training.
    """
    if not config.pretrain.sim_bars:
        return ""
    recipe = [MARKET, _BATCH_SIZE, _LEARNING_RATE, _SETTINGS]
    words = [repr(models.build(**config.model)), config.pretrain.to_dict(), recipe]
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
    path = workdir.cache_folder() / "pretrained" / f"{name(config)}.msgpack"
    if path.exists():
        image = jnp.zeros((1, LENGTH, LENGTH, 4))
        like = module.init(jax.random.key(0), image)["params"]
        return jax.tree.map(jnp.asarray, serialization.from_bytes(like, path.read_bytes()))
    params = _trained(module, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with workdir.replacing(path) as temporary:
        Path(temporary).write_bytes(serialization.to_bytes(jax.tree.map(np.asarray, params)))
    return params


def _trained(module: nn.Module, config: ConfigDict) -> Any:
    """The parameters, from a training of its own."""
    simulated = data.default_config()
    simulated.update(sim_bars=config.pretrain.sim_bars, seed=MARKET)
    try:
        splits = data.load(ConfigDict({"data": simulated}))
    except InputError as error:
        raise InputError(
            f"config.pretrain.sim_bars is {config.pretrain.sim_bars}, too few to hold labelled "
            "windows for every split; it must be larger."
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
