"""A config turned into what a training needs: epochs into steps, epsilon into noise, once."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpfinjax import (
    accounting,
    clipping,
    entropy,
    fields,
    models,
    pretraining,
    privacy,
    recipes,
    sweeps,
    workdir,
)
from dpfinjax.augmentation import Augmentation
from dpfinjax.data import Facts, units
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.training import CLIP_METHODS, HParams, Spec

_LARGEST = float(np.finfo(np.float32).max)
_OVERFLOW_SHARE = 1e-6  # of delta, at most, pays for batches that the sampler cannot hold
_MOST_STEPS = 2**31 - 1  # the device counts them in int32
_TARGETS = (1e-6, 1e6)  # beyond them no accountant has digits left
_PLACES = ("source", "binance_url", "cache_dir", "stream")  # of data: where, not what they are

_PAIRED = ("target_epsilon", "noise_multiplier", "epochs", "steps", "batch_size", "learning_rate")
_OPTIONAL = (*_PAIRED, "microbatch", "seed")
_NUMBERS = ("target_epsilon", "noise_multiplier", "delta", "clip_norm", "epochs", "learning_rate")
_KINDS = {
    **dict.fromkeys((*_NUMBERS, "momentum", "warmup"), fields.NUMBER),
    **dict.fromkeys(("weight_decay", "ema_decay"), fields.NUMBER),
    **dict.fromkeys(("seed", "microbatch", "batch_size", "steps"), fields.WHOLE),
    **dict.fromkeys(("checkpoint_epochs",), fields.WHOLE),
    **dict.fromkeys(("accountant", "clip_method", "clip_rule"), fields.TEXT),
    **dict.fromkeys(("optimizer", "schedule"), fields.TEXT),
    **dict.fromkeys(("published_formula", "nesterov"), fields.TRUTH),
    **dict.fromkeys(("model", "privacy", "augment", "pretrain"), fields.PART),
}
_KINDS_OF_PARTS = {
    "model": {"variant": fields.TEXT},
    "privacy": {"unit": fields.TEXT, "windows_per_unit": fields.WHOLE},
    "augment": {
        "copies": fields.WHOLE,
        "price_noise": fields.NUMBER,
        "scale_jitter": fields.NUMBER,
    },
    "pretrain": {"sim_bars": fields.WHOLE, "epochs": fields.NUMBER},
}


CHOSEN_UNSEEN = (
    "The settings were chosen without looking at the private examples; choosing the best of "
    "several private runs spends more."
)
"""An assumption of every private training, unless `dpfinjax.selection` accounts for the choice."""


class Plan(NamedTuple):
    """Everything about a training that follows from its config and its data.

    Attributes:
      hparams: the settings that are arrays.
      spec: the settings that are compiled in.
      statement: the privacy statement.
      data: the name of the prepared data set, which has its digest.
      windows_per_unit: the most windows of a unit that are used; None where each window is an
        example of its own.
    """

    hparams: HParams
    spec: Spec
    statement: privacy.Statement
    data: str = ""
    windows_per_unit: int | None = None


def check_types(config: ConfigDict, name: str = "config") -> None:
    """Raises InputError for a field of a training that is missing or of another type.

    Args:
      config: of a training.
      name: what it is called in an error.
    """
    fields.check(config, _KINDS, _OPTIONAL, name)
    for part, kinds in _KINDS_OF_PARTS.items():
        fields.check(config[part], kinds, name=f"{name}.{part}")


def check(config: ConfigDict) -> None:
    """Raises InputError for values that are wrong whatever the data are."""
    check_types(config)
    _one_of(config, "clip_method", CLIP_METHODS)
    _one_of(config, "clip_rule", clipping.RULES)
    _one_of(config, "accountant", ("rdp", "pld"))
    _check_pairs(config)
    positive = ("target_epsilon", "batch_size", "epochs", "steps", "learning_rate", "clip_norm")
    for name in (*positive, "microbatch", "checkpoint_epochs"):
        if config[name] is not None and not 0 < config[name] <= _LARGEST:
            raise InputError(f"config.{name} is {config[name]}; it must be positive and finite.")
    least, most_epsilon = _TARGETS
    if config.target_epsilon is not None and not least <= config.target_epsilon <= most_epsilon:
        raise InputError(
            f"config.target_epsilon is {config.target_epsilon}; it must be from {least:g} to "
            f"{most_epsilon:g}."
        )
    noise = config.noise_multiplier
    if noise is not None and not 0 <= noise <= accounting.MAX_NOISE_MULTIPLIER:
        most = f"{accounting.MAX_NOISE_MULTIPLIER:g}"
        raise InputError(f"config.noise_multiplier is {noise}; it must be from 0 to {most}.")
    if config.seed is not None and not 0 <= config.seed < 2**32:
        raise InputError(f"config.seed is {config.seed}; it must be from 0 to 2^32 - 1.")
    if not 0 < config.delta < 1:
        raise InputError(f"config.delta is {config.delta}; it must be above 0 and below 1.")
    if not 0 <= config.warmup <= 1:
        raise InputError(f"config.warmup is {config.warmup}; it is a share of the steps, 0 to 1.")
    if config.privacy.unit != units.WINDOW and config.privacy.windows_per_unit < 1:
        raise InputError(
            f"config.privacy.windows_per_unit is {config.privacy.windows_per_unit}; it must be at "
            "least 1."
        )
    _check_recipe(config)
    module = models.build(**config.model)
    if module.classes != len(PATTERNS):
        raise InputError(
            f"config.model.classes is {module.classes}; there are {len(PATTERNS)} patterns."
        )
    _spec(_with_batch_size(config, 1), module, steps=1, epoch_steps=1, capacity=1)
    if config.learning_rate is None and not _has_rule(config):
        raise InputError(
            "config.learning_rate is None, which leaves it to a rule for private SGD without "
            "momentum; it must be a positive number here."
        )


def _check_recipe(config: ConfigDict) -> None:
    """Raises InputError for copies or a pretraining that cannot be."""
    augment, pretrain = config.augment, config.pretrain
    for name, value, allowed in (
        ("augment.copies", augment.copies, 0 <= augment.copies < math.inf),
        ("augment.price_noise", augment.price_noise, 0 <= augment.price_noise < math.inf),
        ("pretrain.sim_bars", pretrain.sim_bars, 0 <= pretrain.sim_bars <= 10**9),
    ):
        if not allowed:
            raise InputError(f"config.{name} is {value}; it must be finite and at least 0.")
    if not 0 <= augment.scale_jitter < 0.5:
        raise InputError(
            f"config.augment.scale_jitter is {augment.scale_jitter}; it must be at least 0 and "
            "below 0.5."
        )
    if pretrain.sim_bars and "data" in config:
        fields.check(config, {"data": fields.PART})
        _check_pretrained_data(config.data)
    if not 0 < pretrain.epochs < math.inf:
        raise InputError(
            f"config.pretrain.epochs is {pretrain.epochs}; it must be positive and finite."
        )


def _check_pretrained_data(data: ConfigDict) -> None:
    """Raises InputError for data that pretrained parameters do not fit, or have seen already."""
    kinds = {"length": fields.WHOLE, "seed": fields.WHOLE, "cache_dir": fields.TEXT}
    fields.check(data, kinds, name="config.data")
    if data.length != pretraining.LENGTH:
        raise InputError(
            f"config.data.length is {data.length}, but pretrained parameters are for windows of "
            f"{pretraining.LENGTH} bars; it must be that, or config.pretrain.sim_bars 0."
        )
    if data.source == "sim" and data.seed == pretraining.MARKET:
        raise InputError(
            f"config.data.seed is {data.seed}, whose simulated market is the one that pretrained "
            "parameters have seen; config.data.source must name bars, or the seed be another."
        )


def check_window(config: ConfigDict, job: str) -> None:
    """Raises InputError where the unit is not a window, for a job that knows no other."""
    fields.check(config, {"privacy": fields.PART})
    fields.check(config.privacy, _KINDS_OF_PARTS["privacy"], name="config.privacy")
    if config.privacy.unit != units.WINDOW:
        raise InputError(
            f"config.privacy.unit is {config.privacy.unit!r}, but {job} works window by window; it "
            "must be 'window'."
        )


def plan(config: ConfigDict, facts: Facts) -> Plan:
    """Turns a config into a training of a data set, see `sized`, with a statement about its unit.

    Without clipping there is no unit to protect: such a model is trained on windows, all of them,
    so that what a private one loses by its unit and its limit shows as a price of privacy.

    Args:
      config: a checked config, see `check`.
      facts: what is known of the data: how many training examples, and what one of them is.

    Returns:
      The arrays, the static settings and the privacy statement.

    Raises:
      InputError: if the batch is larger than the data, or no noise reaches the target epsilon.
    """
    used = None
    if facts.unit_name != units.WINDOW and config.clip_method != "none":
        used = units.usage(facts.units["train"], config.privacy.windows_per_unit)
    found = sized(config, used.units if used else sum(facts.examples["train"].values()), used)
    assumptions = found.statement.assumptions + facts.assumptions
    statement = found.statement._replace(unit=facts.unit, assumptions=assumptions)
    return found._replace(statement=statement, data=data_name(facts))


def data_name(facts: Facts) -> str:
    """Returns the name of a prepared data set, with the digest of source, settings and code."""
    return Path(facts.folder).parent.name


def key(config: ConfigDict, data: str, purpose: str) -> jax.Array:
    """Returns the random key of a run: another one for another config, data set or purpose.

    Two models whose noise is the same would let it cancel out, whoever shares them both: so no two
    runs that differ in anything share a key, though they have one seed, and a run that is resumed
    has the key that it had. Where the data lie is no difference: `data` says what they are.

    Args:
      config: the whole config of one model, with what `entropy.settled` drew where its seed is not
        fixed; the digest that the key comes from is of all of it but the places of its data.
      data: the data set, see `data_name`.
      purpose: what the key is for.

    Raises:
      ValueError: if the config is one to plan with, from which no noise may come.
    """
    if config.seed is None or config.get("entropy", 0) is None:
        raise ValueError("A private run's randomness must be drawn first, see entropy.settled.")
    content = workdir.as_json(config)
    for place in _PLACES:
        content.get("data", {}).pop(place, None)
    words = json.dumps([content, data, purpose], sort_keys=True)
    digest = hashlib.sha256(words.encode()).digest()
    found = jax.random.key(config.seed)
    for start in range(0, 16, 4):
        word = int.from_bytes(digest[start : start + 4], "little")
        found = jax.random.fold_in(found, word)
    return found


def sized(config: ConfigDict, examples: int, used: units.Usage | None = None) -> Plan:
    """Turns a config into a training of so many examples, of a unit that is still to be named.

    The sample rate is rounded to float32, and the noise up to the next one, before epsilon is
    computed: the statement is about the numbers that the device is given.

    Args:
      config: a checked config, see `check`.
      examples: number of training examples, or of units where these have several.
      used: what units of several windows use of them; None where an example is a window.

    Returns:
      The arrays, the static settings and the privacy statement.

    Raises:
      InputError: if the batch is larger than the data, or no noise reaches the target epsilon.
    """
    config = _with_batch_size(config, examples)
    if config.batch_size > examples:
        raise InputError(
            f"config.batch_size is {config.batch_size}; the training data have only "
            f"{examples} {_noun(used)}, and the batch must not be larger."
        )
    rate = float(np.float32(config.batch_size / examples))
    epoch_steps = math.ceil(examples / config.batch_size)
    steps = config.steps or max(1, round(config.epochs * examples / config.batch_size))
    if steps > _MOST_STEPS:
        raise InputError(
            f"config.{'steps' if config.steps else 'epochs'} asks for {steps:.4g} steps; a "
            f"training can have at most {_MOST_STEPS}."
        )
    needed = accounting.capacity(examples, rate, steps, _OVERFLOW_SHARE * config.delta)
    capacity = 8 * math.ceil(needed / 8)
    noise_multiplier = _noise_multiplier(config, examples, rate, steps, capacity)
    module = models.build(**config.model)
    width = (used.width if used else 1) * (1 + config.augment.copies)
    spec = _spec(config, module, steps, min(epoch_steps, steps), capacity, width)
    learning_rate = config.learning_rate
    if learning_rate is None:
        learning_rate = recipes.learning_rate(
            noise_multiplier, config.clip_norm, config.batch_size, steps, bool(spec.start)
        )
    numbers = (learning_rate, config.clip_norm, noise_multiplier, rate, config.batch_size)
    statement = _statement(config, examples, spec, noise_multiplier, rate, used)
    hparams = HParams(*(jnp.float32(number) for number in numbers))
    return Plan(hparams, spec, statement, windows_per_unit=used and used.width)


def _has_rule(config: ConfigDict) -> bool:
    """Whether `recipes.learning_rate` is about such a training."""
    return config.clip_method != "none" and config.optimizer == "sgd" and not config.momentum


def _with_batch_size(config: ConfigDict, examples: int) -> ConfigDict:
    """A config whose batch size is a number, by the rule where it leaves it open."""
    if config.batch_size is not None:
        return config
    return sweeps.changed(config, {"batch_size": recipes.batch_size(examples)})


def _noun(used: units.Usage | None) -> str:
    """What a batch is made of."""
    return "units" if used else "examples"


def _microbatch(config: ConfigDict, width: int) -> int:
    """How many units to work on at a time: most batches as a whole, or in a few equal pieces.

    Two standard deviations above the expected batch size: more would be padding nearly always, less
    a second piece too often. No piece is larger than what fits into a CPU's caches (measured), or
    than what keeps the memory of a batch of any size bounded; a unit is as large as its windows.
    """
    if config.microbatch is not None:
        return config.microbatch
    on_cpu = jax.default_backend() == "cpu"
    most = 64 if config.clip_method == "vmap" else 512 if on_cpu else 4096
    batch = config.batch_size + 2 * math.sqrt(config.batch_size)
    even = batch / math.ceil(batch * width / most)
    return 8 * math.ceil(even / 8) if width == 1 else math.ceil(even)


def _spec(
    config: ConfigDict,
    module: models.GafCnn,
    steps: int,
    epoch_steps: int,
    capacity: int,
    width: int = 1,
) -> Spec:
    """The static settings of a training."""
    return Spec(
        module=module,
        steps=steps,
        epoch_steps=epoch_steps,
        capacity=capacity,
        clip_method=config.clip_method,
        clip_rule=config.clip_rule,
        microbatch=_microbatch(config, width),
        optimizer=config.optimizer,
        momentum=config.momentum,
        nesterov=config.nesterov,
        schedule=config.schedule,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        augmentation=Augmentation(**config.augment),
        start=pretraining.name(config),
    )


def _check_pairs(config: ConfigDict) -> None:
    """Raises InputError unless exactly one setting of each pair has a value that is used."""
    for first, second in sweeps.EITHER_OR:
        if second not in config:
            continue
        values = f"config.{first} and config.{second} are {config[first]} and {config[second]}"
        given = (config[first] is not None) + (config[second] is not None)
        if first == "target_epsilon" and config.clip_method == "none":
            if given:
                raise InputError(f"{values}; with clip_method 'none' there is no noise to set.")
        elif given != 1:
            raise InputError(f"{values}; exactly one must be set.")


def _one_of(config: ConfigDict, name: str, allowed: Sequence[str]) -> None:
    """Raises InputError unless a field has one of the allowed values."""
    if config[name] not in allowed:
        raise InputError(
            f"config.{name} is {config[name]!r}; it must be one of {', '.join(allowed)}."
        )


def _noise_multiplier(
    config: ConfigDict, examples: int, rate: float, steps: int, capacity: int
) -> float:
    """The noise multiplier that the config names or implies, as a float32 that is not below it."""
    if config.clip_method == "none":
        return 0.0
    wanted = config.noise_multiplier
    if wanted is None:
        delta = config.delta - accounting.overflow_probability(examples, rate, steps, capacity)
        wanted = accounting.noise_multiplier(
            config.target_epsilon, rate, steps, delta, config.accountant
        )
    rounded = np.float32(wanted)
    if float(rounded) < wanted:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return float(rounded)


def _statement(
    config: ConfigDict,
    examples: int,
    spec: Spec,
    noise_multiplier: float,
    rate: float,
    used: units.Usage | None,
) -> privacy.Statement:
    """The claim about a training, its unit still to be named."""
    private = config.clip_method != "none"
    overflow = float(accounting.overflow_probability(examples, rate, spec.steps, spec.capacity))
    epsilon = math.inf
    if private:
        delta = config.delta - overflow
        epsilon = float(
            accounting.epsilon(rate, noise_multiplier, spec.steps, delta, config.accountant)
        )
    published = None
    if private and config.published_formula and examples >= 100:
        published = float(
            accounting.published_epsilon(
                examples, spec.steps * config.batch_size / examples, noise_multiplier, config.delta
            )
        )
    return privacy.Statement(
        epsilon=epsilon,
        delta=config.delta,
        noise_multiplier=noise_multiplier,
        clip_norm=config.clip_norm if private else math.inf,
        sample_rate=rate,
        steps=spec.steps,
        batch_size=config.batch_size,
        examples=examples,
        overflow_probability=overflow,
        unit="",
        sampler=f"Poisson, at most {spec.capacity} {_noun(used)} a step",
        accountant=config.accountant,
        assumptions=_assumptions(config, examples, used) if private else (),
        published_epsilon=published,
        windows_per_unit=used and config.privacy.windows_per_unit,
        windows_used=used and used.used,
        windows_left_out=used and used.windows - used.used,
    )


def _assumptions(config: ConfigDict, examples: int, used: units.Usage | None) -> tuple[str, ...]:
    """What a DP-SGD run takes for granted, whatever the data."""
    noun = _noun(used)
    large = (
        f"Delta is not below one in {examples}, the number of {noun}: it allows one of them to "
        "be given away whole.",
    )
    first: tuple[str, ...] = large if config.delta * examples >= 1 else ()
    if used:
        first += (
            "A unit counts once, whatever its windows: at most "
            f"{config.privacy.windows_per_unit} of them are used, spread evenly over its own by "
            "their number alone, and the mean of their losses has one gradient, clipped once.",
        )
    return (
        *first,
        "Only the parameters are shared: metrics, accuracies, pictures and everything else in the "
        "run's folder were computed from the private examples and are not covered.",
        f"The number of training {noun}, and with it the sample rate, is public.",
        CHOSEN_UNSEEN,
        entropy.assumption(config),
        "Noise is drawn by the method of Box and Muller and added in float32: it lies on a grid, "
        "ends at 7.54 standard deviations, where normal noise goes on with a chance of 5e-14, and "
        "its distribution function is off by up to 3e-7. Epsilon and delta are those of exact "
        "normal noise; attacks on its rounding (Mironov 2012) are not excluded.",
    )
