"""A config turned into what a training needs: epochs into steps, epsilon into noise, once."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpfinjax import accounting, clipping, models, privacy, workdir
from dpfinjax.data import Facts
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from dpfinjax.training import CLIP_METHODS, HParams, Spec

_LARGEST = float(np.finfo(np.float32).max)
_OVERFLOW_SHARE = 1e-6  # of delta, at most, pays for batches that the sampler cannot hold


EITHER_OR = (
    ("target_epsilon", "noise_multiplier"),
    ("target_epsilon", "scale"),
    ("epochs", "steps"),
)
"""Pairs of fields of which one is set: a later one that is given clears its alternative."""


class Plan(NamedTuple):
    """Everything about a training that follows from its config and its data.

    Attributes:
      hparams: the settings that are arrays.
      spec: the settings that are compiled in.
      statement: the privacy statement.
      data: the name of the prepared data set, which has its digest.
    """

    hparams: HParams
    spec: Spec
    statement: privacy.Statement
    data: str = ""


class Model(NamedTuple):
    """One model of a launcher's run.

    Attributes:
      cell: its name in tables; models of one cell differ in their seed alone.
      config: its config.
    """

    cell: str
    config: ConfigDict


def models_of(config: ConfigDict, name: str | None = None) -> dict[str, Model]:
    """Returns each model that a run trains, in order, under its name.

    A run has the model that its fields describe, or one for each of `cells` (a dict of the fields
    that it changes), after the non-private one where `with_baseline` is set; each of them `seeds`
    times, with the seeds from `seed` on.

    Args:
      config: the run's config.
      name: of the model where there are no cells; "baseline" without clipping, else "dpsgd".

    Raises:
      InputError: for cells, seeds or models_at_once that cannot be.
    """
    for field in ("seeds", "models_at_once"):
        if config[field] < 1:
            raise InputError(f"config.{field} is {config[field]}; it must be at least 1.")
    if not 0 <= config.seed <= 2**32 - config.seeds:
        raise InputError(
            f"config.seed is {config.seed} for {config.seeds} seeds; they must be from 0 to "
            "2^32 - 1."
        )
    found = {}
    if config.get("with_baseline", False):
        found["baseline"] = _changed(config, config.baseline)
    for cell in config.cells:
        label = _cell_name(cell, config)
        if label in found:
            raise InputError(f"config.cells has the cell {label} twice; each must differ.")
        found[label] = _changed(config, cell)
    if not config.cells:
        found[name or ("baseline" if config.clip_method == "none" else "dpsgd")] = config
    return {
        f"{label},seed={seed}" if config.seeds > 1 else label: Model(
            label, _changed(cell, {"seed": seed}) if config.seeds > 1 else cell
        )
        for label, cell in found.items()
        for seed in range(config.seed, config.seed + config.seeds)
    }


def settle_pairs(config: ConfigDict, given: Iterable[str]) -> None:
    """Clears, in place, each setting whose alternative is among the names that were given."""
    given = tuple(given)
    for part, value in config.items():
        if isinstance(value, ConfigDict):
            within = (name for name in given if name.startswith(f"{part}."))
            settle_pairs(value, [name.removeprefix(f"{part}.") for name in within])
    for pair in EITHER_OR:
        for name, other in (pair, pair[::-1]):
            if name in given and other not in given and other in config:
                config[other] = None


def check(config: ConfigDict) -> None:
    """Raises InputError for values that are wrong whatever the data are."""
    _one_of(config, "clip_method", CLIP_METHODS)
    _one_of(config, "clip_rule", clipping.RULES)
    _one_of(config, "accountant", ("rdp", "pld"))
    _check_pairs(config)
    positive = ("target_epsilon", "batch_size", "epochs", "steps", "learning_rate", "clip_norm")
    for name in (*positive, "microbatch", "checkpoint_epochs"):
        if config[name] is not None and not 0 < config[name] <= _LARGEST:
            raise InputError(f"config.{name} is {config[name]}; it must be positive and finite.")
    noise = config.noise_multiplier
    if noise is not None and not 0 <= noise <= accounting.MAX_NOISE_MULTIPLIER:
        most = f"{accounting.MAX_NOISE_MULTIPLIER:g}"
        raise InputError(f"config.noise_multiplier is {noise}; it must be from 0 to {most}.")
    if not 0 <= config.seed < 2**32:
        raise InputError(f"config.seed is {config.seed}; it must be from 0 to 2^32 - 1.")
    if not 0 < config.delta < 1:
        raise InputError(f"config.delta is {config.delta}; it must be above 0 and below 1.")
    if not 0 <= config.warmup <= 1:
        raise InputError(f"config.warmup is {config.warmup}; it is a share of the steps, 0 to 1.")
    if config.privacy.unit != "window":
        raise InputError(f"config.privacy.unit is {config.privacy.unit!r}; it must be 'window'.")
    module = models.build(**config.model)
    if module.classes != len(PATTERNS):
        raise InputError(
            f"config.model.classes is {module.classes}; there are {len(PATTERNS)} patterns."
        )
    _spec(config, module, steps=1, epoch_steps=1, capacity=1)


def plan(config: ConfigDict, facts: Facts) -> Plan:
    """Turns a config into a training of a data set, see `sized`, with a statement about its unit.

    Args:
      config: a checked config, see `check`.
      facts: what is known of the data: how many training examples, and what one of them is.

    Returns:
      The arrays, the static settings and the privacy statement.

    Raises:
      InputError: if the batch is larger than the data, or no noise reaches the target epsilon.
    """
    found = sized(config, sum(facts.examples["train"].values()))
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
    has the key that it had.

    Args:
      config: the whole config of one model.
      data: the data set, see `data_name`.
      purpose: what the key is for.
    """
    words = json.dumps([workdir.as_json(config), data, purpose], sort_keys=True)
    digest = hashlib.sha256(words.encode()).digest()
    found = jax.random.key(config.seed)
    for start in range(0, 16, 4):
        word = int.from_bytes(digest[start : start + 4], "little")
        found = jax.random.fold_in(found, word)
    return found


def sized(config: ConfigDict, examples: int) -> Plan:
    """Turns a config into a training of so many examples, of a unit that is still to be named.

    The sample rate is rounded to float32, and the noise up to the next one, before epsilon is
    computed: the statement is about the numbers that the device is given.

    Args:
      config: a checked config, see `check`.
      examples: number of training examples.

    Returns:
      The arrays, the static settings and the privacy statement.

    Raises:
      InputError: if the batch is larger than the data, or no noise reaches the target epsilon.
    """
    if config.batch_size > examples:
        raise InputError(
            f"config.batch_size is {config.batch_size}; the training data have only "
            f"{examples} examples, and the batch must not be larger."
        )
    rate = float(np.float32(config.batch_size / examples))
    epoch_steps = math.ceil(examples / config.batch_size)
    steps = config.steps or max(1, round(config.epochs * examples / config.batch_size))
    needed = accounting.capacity(examples, rate, steps, _OVERFLOW_SHARE * config.delta)
    capacity = 8 * math.ceil(needed / 8)
    noise_multiplier = _noise_multiplier(config, examples, rate, steps, capacity)
    module = models.build(**config.model)
    spec = _spec(config, module, steps, min(epoch_steps, steps), capacity)
    numbers = (config.learning_rate, config.clip_norm, noise_multiplier, rate, config.batch_size)
    statement = _statement(config, examples, spec, noise_multiplier, rate)
    return Plan(HParams(*(jnp.float32(number) for number in numbers)), spec, statement)


def _microbatch(config: ConfigDict) -> int:
    """How many examples to work on at a time: most batches as a whole, or in a few equal pieces.

    Two standard deviations above the expected batch size: more would be padding nearly always, less
    a second piece too often. No piece is larger than what fits into a CPU's caches (measured), or
    than what keeps the memory of a batch of any size bounded.
    """
    if config.microbatch is not None:
        return config.microbatch
    on_cpu = jax.default_backend() == "cpu"
    most = 64 if config.clip_method == "vmap" else 512 if on_cpu else 4096
    batch = config.batch_size + 2 * math.sqrt(config.batch_size)
    return 8 * math.ceil(batch / math.ceil(batch / most) / 8)


def _spec(
    config: ConfigDict, module: models.GafCnn, steps: int, epoch_steps: int, capacity: int
) -> Spec:
    """The static settings of a training."""
    return Spec(
        module=module,
        steps=steps,
        epoch_steps=epoch_steps,
        capacity=capacity,
        clip_method=config.clip_method,
        clip_rule=config.clip_rule,
        microbatch=_microbatch(config),
        optimizer=config.optimizer,
        momentum=config.momentum,
        nesterov=config.nesterov,
        schedule=config.schedule,
        warmup_steps=round(config.warmup * steps),
        ema_decay=config.ema_decay,
    )


def _check_pairs(config: ConfigDict) -> None:
    """Raises InputError unless exactly one setting of each pair has a value that is used."""
    for first, second in EITHER_OR:
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


def _cell_name(cell: Any, config: ConfigDict) -> str:
    """The fields that a cell changes, fit for a folder's name."""
    if not isinstance(cell, Mapping) or not cell:
        raise InputError(f"config.cells has the entry {cell!r}; each is a dict of fields.")
    for name in cell:
        if name not in config or name in ("cells", "data", "seed", "seeds", "models_at_once"):
            raise InputError(f"config.cells changes {name!r}, which is no field of one model.")
    return ",".join(f"{name}={value}" for name, value in cell.items()).replace("/", "_")


def _changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config with some fields changed."""
    changed = config.copy_and_resolve_references()
    try:
        changed.update(changes)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"config.cells has {dict(changes)!r}, which does not fit: {error}."
        ) from error
    settle_pairs(changed, changes)
    return changed


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
    config: ConfigDict, examples: int, spec: Spec, noise_multiplier: float, rate: float
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
        sampler=f"Poisson, at most {spec.capacity} examples a step",
        accountant=config.accountant,
        assumptions=_assumptions(config, examples) if private else (),
        published_epsilon=published,
    )


def _assumptions(config: ConfigDict, examples: int) -> tuple[str, ...]:
    """What a DP-SGD run takes for granted, whatever the data."""
    large = (
        f"Delta is not below one in {examples}, the number of examples: it allows one of them to "
        "be given away whole.",
    )
    return (large if config.delta * examples >= 1 else ()) + (
        "Only the parameters are shared: metrics, accuracies, pictures and everything else in the "
        "run's folder were computed from the private examples and are not covered.",
        "The number of training examples, and with it the sample rate, is public.",
        "The settings were chosen without looking at the private examples; choosing the best of "
        "several private runs spends more.",
        f"The noise comes from config.seed={config.seed} through a counter-based generator, taken "
        "to be as good as random: whoever knows the seed, or tries all 2^32, can remove the noise.",
        "Noise is drawn and added in float32; attacks on the rounding of floating-point noise "
        "(Mironov 2012) are not excluded.",
    )
