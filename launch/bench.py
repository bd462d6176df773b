"""Measures how fast training, its parts, data and accounting are on this machine.

  python -m launch.bench                                  # about ten minutes on two cores
  python -m launch.bench --config=configs/bench.py:quick  # some seconds, to see that it works
  python -m launch.bench --config=configs/bench.py:peers --config.peers_python=peers/bin/python

Prints tables and writes bench.json, bench.csv and plots/bench.png. What is compared is measured in
turns, after a warm-up; tables give the median and the quartiles. Other programs on the machine
disturb every figure: the load average is printed before and after.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import itertools
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dp_accounting.rdp import RdpAccountant
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from dpfinjax import (
    accounting,
    clipping,
    fields,
    models,
    noise,
    plots,
    resumable,
    sampling,
    settings,
    training,
    workdir,
)
from dpfinjax.attacks import design
from dpfinjax.data import gaf, patterns, simulate
from dpfinjax.errors import InputError
from dpfinjax.pate import ensemble
from dpfinjax.settings import Plan
from dpfinjax.training import Data, Membership
from launch import app, normality
from launch.normality import NoiseQuality
from launch.peers import protocol, race

_VERSIONS = ("dpfinjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "dp-accounting")

_COUNTS = (
    *("examples", "repeats", "part_steps", "sweep_batch_size", "teachers", "shadow_models"),
    *("paper_cells", "paper_epochs", "memory_batch_size", "bars", "windows", "settings"),
    *("reference_settings", "noise_draws", "peers_rounds"),
)
_KINDS = {
    **dict.fromkeys(_COUNTS, fields.WHOLE),
    **dict.fromkeys(("batch_sizes", "methods", "sweep_cells"), fields.MANY),
    **dict.fromkeys(("peers_batch_sizes", "peers_cores"), fields.MANY),
    "train": fields.PART,
    "peers": fields.TRUTH,
    "peers_python": fields.TEXT,
    "peers_seconds": fields.NUMBER,
}

_Name = TypeVar("_Name")


class Work(NamedTuple):
    """What is timed.

    Attributes:
      call: does it, and returns when it is done.
      items: how many items, such as training steps, a call does.
    """

    call: Callable[[], object]
    items: int


class Row(NamedTuple):
    """One figure.

    Attributes:
      section: a name in `SECTIONS`.
      case: what was measured.
      size: how large it was: examples in a batch, models, bars.
      value: the median; None where there is no figure.
      low: the lower quartile.
      high: the upper quartile.
      unit: of these three.
      per_second: how many of what `SECTIONS` names are done in a second.
      ratio: to what `SECTIONS` names.
      note: what else there is to say.
    """

    section: str
    case: str
    size: int
    value: float | None
    low: float | None
    high: float | None
    unit: str
    per_second: float | None = None
    ratio: float | None = None
    note: str = ""


class Section(NamedTuple):
    """How the rows of a section are shown.

    Attributes:
      title: over the table.
      size: what `Row.size` counts.
      per_second: what `Row.per_second` counts; empty for nothing.
      ratio: what `Row.ratio` is; empty for nothing.
    """

    title: str
    size: str
    per_second: str = ""
    ratio: str = ""


SECTIONS = {
    "step": Section(
        "One training step: sampling, gather, clip, noise, update",
        "batch",
        "examples/s",
        "times none",
    ),
    "part": Section("What a private step consists of", "batch", "", "of the step"),
    "sweep": Section(
        "Models trained as one program, a step of one of them",
        "models",
        "steps/s",
        "times faster",
    ),
    "paper": Section("The paper's sweep, extrapolated from the step above", "cells"),
    "teachers": Section(
        "An epoch of one model, and of PATE teachers on parts of the same data",
        "models",
        "",
        "times one",
    ),
    "shadow": Section(
        "A step of a target trained alone, and of one of its shadow models",
        "models",
        "",
        "times alone",
    ),
    "compile": Section("Tracing and compiling an epoch, without a cache", "batch"),
    "memory": Section(
        "Memory of a compiled epoch: temporaries and results", "batch", "", "times none"
    ),
    "data": Section("Data, for one item", "items", "items/s"),
    "accounting": Section("Accounting, for one setting", "settings", "settings/s", "times faster"),
    "peers": Section(
        "One training step in other libraries, same cores", "batch", "examples/s", "times ours"
    ),
}


def measure(config: ConfigDict, folder: str | Path) -> list[Row]:
    """Measures what a config asks for, prints it and writes it.

    Args:
      config: as `configs/bench.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      The figures.

    Raises:
      InputError: for a config, an interpreter or a folder that cannot be used.
    """
    _check(config)
    workdir.check(folder, config)
    folder = workdir.claim(folder, config, {})
    machine = _machine()
    print("\n".join(f"{name:<13} {_words(value)}" for name, value in machine.items()))
    if machine["load_before"][0] > 0.5 * machine["cores"]:
        print("\nThe machine is busy with something else: do not trust the figures that follow.")
    data = Data(*map(jnp.asarray, protocol.made_up(config.examples)))

    rows: list[Row] = []
    for section in (_steps, _parts, _sweeps, _teachers, _shadows, _programs, _data, _accounting):
        rows += _printed(section(config, data))
    if config.peers:
        rows += _printed(_peers(config))
    module = _plan(config, config.batch_sizes[0], "none").spec.module
    params = module.init(jax.random.key(0), jnp.zeros((1, *protocol.IMAGE)))["params"]
    quality = normality.measure(config.noise_draws, params)
    normality.show(quality)

    machine["load_after"] = os.getloadavg()
    _write(folder, machine, rows, quality)
    print(f"\nload_after    {_words(machine['load_after'])}\nWritten to {folder}")
    return rows


def _check(config: ConfigDict) -> None:
    """Raises InputError for values that are wrong whatever the machine."""
    fields.check(config, _KINDS)
    settings.check_types(config.train, "config.train")
    if "none" not in config.methods:
        raise InputError("config.methods has no 'none', which the others are compared with.")
    sizes = {name: config[name] for name in ("batch_sizes", "sweep_cells", "peers_batch_sizes")}
    counts = {name: (value,) for name, value in config.items() if type(value) is int}
    for name, values in (counts | sizes).items():
        if not values or not all(isinstance(value, int) and value >= 1 for value in values):
            raise InputError(f"config.{name} is {config[name]}; it must be at least 1, and whole.")
        if "batch_size" in name and max(values) > config.examples:
            raise InputError(
                f"config.{name} is {config[name]}, more than config.examples={config.examples}; no "
                "batch may be larger than the data."
            )
    if config.peers and models.build(**config.train.model) != models.build("paper_dpsgd"):
        raise InputError(
            "config.train.model is not paper_dpsgd; with config.peers it must be, since the other "
            "libraries have that network alone."
        )
    if config.peers and shutil.which(config.peers_python or sys.executable) is None:
        raise InputError(
            f"config.peers_python is {config.peers_python!r}, which is no program; it must be the "
            "path of a Python that has the other libraries."
        )
    for method in config.methods:
        settings.check(_training(config, config.batch_sizes[0], method))


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        "load_before": os.getloadavg(),
    }


def _cpu() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _steps(config: ConfigDict, data: Data) -> list[Row]:
    """Whole steps by every method, epoch by epoch."""
    rows = []
    for batch_size in config.batch_sizes:
        plans = {method: _plan(config, batch_size, method) for method in config.methods}
        if "vmap" in plans:
            whole = dataclasses.replace(plans["vmap"].spec, microbatch=_whole(batch_size))
            plans["vmap, whole batch"] = plans["vmap"]._replace(spec=whole)
        works = {method: _epochs(plan, data) for method, plan in plans.items()}
        seconds = _in_turns(works, config.repeats)
        reference = np.median(seconds["none"])
        rows += [
            _timed("step", m, batch_size, t, batch_size, reference, note=_batches(plans[m]))
            for m, t in seconds.items()
        ]
    return rows


def _whole(batch_size: int) -> int:
    """A piece that nearly every batch fits into, as `jax.vmap` alone would take it."""
    return math.ceil(batch_size + 2 * math.sqrt(batch_size))


def _batches(plan: Plan) -> str:
    """How a training's batches are laid out."""
    return f"capacity {plan.spec.capacity}, {plan.spec.microbatch} at a time"


def _parts(config: ConfigDict, data: Data) -> list[Row]:
    """The whole private step, and parts of it alone."""
    rows = []
    for batch_size in config.batch_sizes:
        plan = _plan(config, batch_size, "auto")
        works = {"the whole step": _epochs(plan, data)} | _part_works(plan, data, config.part_steps)
        seconds = _in_turns(works, config.repeats)
        reference = np.median(seconds["the whole step"])
        rows += [
            _timed("part", case, batch_size, times, 1, reference) for case, times in seconds.items()
        ]
    return rows


def _part_works(plan: Plan, data: Data, steps: int) -> dict[str, Work]:
    """Loops over single parts of a step; each carries something on, so none can be left out."""
    key, hparams, spec = jax.random.key(0), plan.hparams, plan.spec
    examples, expected = data.targets.shape[0], int(hparams.batch_size)
    # Every step sees other examples, or the compiler would work on them once for all steps.
    longer = jax.tree.map(lambda x: jnp.resize(x, (examples + spec.capacity, *x.shape[1:])), data)
    mask = jnp.arange(spec.capacity) < expected
    params = training.init(key, data, spec).params

    def noisy(params: Any, key: jax.Array, longer: Data) -> Any:
        return noise.add_gaussian(key, params, hparams.noise_multiplier)

    def sampled(total: jax.Array, key: jax.Array, longer: Data) -> jax.Array:
        rows, drawn = sampling.poisson(key, examples, hparams.sample_rate, spec.capacity)
        return total + jnp.sum(rows * drawn)

    def plain_sum(params: Any, batch: Any, mask: jax.Array) -> tuple[Any, Any]:
        inputs, targets = batch

        def total_loss(params: Any) -> tuple[jax.Array, jax.Array]:
            logits = spec.module.apply({"params": params}, inputs)
            losses = mask * _cross_entropy(logits, targets)
            return jnp.sum(losses), losses

        return jax.grad(total_loss, has_aux=True)(params)

    def gradient(function: clipping.ClippedGrad) -> Work:
        grad_fn = clipping.in_microbatches(function, spec.microbatch)

        def descended(params: Any, key: jax.Array, longer: Data) -> Any:
            start = jax.random.randint(key, (), 0, examples)
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, start, spec.capacity), longer
            )
            grad, _ = grad_fn(params, (batch.inputs, batch.targets), mask)
            # A step too small to matter, but not to be left out.
            return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grad)

        return _loop(descended, params, longer, steps)

    ghost = clipping.ghost_clipped_grad(spec.module, _cross_entropy, hparams.clip_norm)
    return {
        "noise": _loop(noisy, params, longer, steps),
        "sampling": _loop(sampled, jnp.int32(0), longer, steps),
        "gradient, clipped by ghost": gradient(ghost),
        "gradient, not clipped": gradient(clipping.ClippedGrad(plain_sum, math.inf)),
    }


def _sweeps(config: ConfigDict, data: Data) -> list[Row]:
    """Several models as one program against one model after another."""
    plan = _plan(config, config.sweep_batch_size, "auto")
    works = {("one after another", 1): _epochs(plan, data)} | {
        ("one program", cells): _epochs(plan, data, cells) for cells in config.sweep_cells
    }
    seconds = _in_turns(works, config.repeats)
    reference = np.median(seconds["one after another", 1])
    rows = []
    for (case, size), times in seconds.items():
        row = _timed("sweep", case, size, times, 1)
        rows.append(row._replace(ratio=float(reference / np.median(times))))
    return [*rows, _paper(config, rows[1:])]


def _teachers(config: ConfigDict, data: Data) -> list[Row]:
    """An epoch of all the data by one model, and by teachers in one program, each on its part."""
    teachers, batch_size = config.teachers, config.sweep_batch_size
    train = _training(config, batch_size, "none")
    part = settings.sized(train, -(-config.examples // teachers))
    chosen = np.arange(config.examples) % teachers
    works = {
        ("one model", 1): _epochs(settings.sized(train, config.examples), data),
        ("one program", teachers): _epochs(part, data, teachers, ensemble.parts(chosen, teachers)),
    }
    seconds = _in_turns({name: Work(work.call, 1) for name, work in works.items()}, config.repeats)
    reference = np.median(seconds["one model", 1])
    return [
        _timed("teachers", case, size, times, 1, reference, scale=1e3, unit="ms")
        for (case, size), times in seconds.items()
    ]


def _shadows(config: ConfigDict, data: Data) -> list[Row]:
    """A step of a model of half the data, and of one of several with random halves of all."""
    half, models = config.examples // 2, config.shadow_models
    pool = Data(data.inputs[: 2 * half], data.targets[: 2 * half])
    own = Data(pool.inputs[:half], pool.targets[:half])
    membership = design.rows(design.balanced(0, models, 2 * half))
    rows = []
    for name, method in (("non-private", "none"), ("private", "auto")):
        plan = settings.sized(_training(config, config.sweep_batch_size, method), half)
        works = {
            (f"{name}, alone", 1): _epochs(plan, own),
            (f"{name}, shadow", models): _epochs(plan, pool, models, membership),
        }
        seconds = _in_turns(works, config.repeats)
        reference = np.median(seconds[f"{name}, alone", 1])
        rows += [
            _timed("shadow", case, size, times, 1, reference)
            for (case, size), times in seconds.items()
        ]
    return rows


def _paper(config: ConfigDict, together: Sequence[Row]) -> Row:
    """How long the paper's sweep takes, from the step of the nearest number of models."""
    nearest = min(together, key=lambda row: abs(row.size - config.paper_cells))
    steps = config.paper_epochs * config.examples / config.sweep_batch_size
    scale = config.paper_cells * steps / 60e6
    note = (
        f"extrapolated: {config.paper_epochs} epochs at batch {config.sweep_batch_size}, "
        f"{nearest.size} models at once, training steps alone"
    )
    row = nearest._replace(section="paper", case="all cells", size=config.paper_cells, unit="min")
    row = row._replace(per_second=None, ratio=None, note=note)
    return row._replace(value=row.value * scale, low=row.low * scale, high=row.high * scale)


def _programs(config: ConfigDict, data: Data) -> list[Row]:
    """Memory and compile times of an epoch by every method."""
    batch_size, rows = config.memory_batch_size, []
    memory: dict[str, float | None] = {}
    plans = {method: _plan(config, batch_size, method) for method in config.methods}
    for method, plan in plans.items():
        start = time.perf_counter()
        compiled = _compiled(plan, data)
        seconds = np.array([time.perf_counter() - start])
        memory[method] = _mebibytes(compiled.memory_analysis())
        rows.append(_timed("compile", method, batch_size, seconds, 1, scale=1.0, unit="s"))
    for method, size in memory.items():
        note = _batches(plans[method]) if size else "this device does not say"
        ratio = size / memory["none"] if size and memory["none"] else None
        rows.append(
            Row("memory", method, batch_size, size, size, size, "MiB", ratio=ratio, note=note)
        )
    return rows


def _mebibytes(analysis: Any) -> float | None:
    """The memory of a compiled program's temporaries and results, where it is known."""
    if analysis is None:
        return None
    return (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20


def _data(config: ConfigDict, data: Data) -> list[Row]:
    """Rates of simulating bars, finding patterns in them, and making images."""
    del data
    bars = simulate.bars(config.bars, 0)
    prices = (bars.open, bars.high, bars.low, bars.close)
    starts = np.random.default_rng(0).integers(0, config.bars - 9, config.windows)
    ohlc = np.stack(prices, axis=-1)[starts[:, None] + np.arange(10)]
    works = {
        "bars simulated": Work(lambda: simulate.bars(config.bars, 0), config.bars),
        "bars searched for patterns": Work(lambda: patterns.detect(*prices), config.bars),
        "windows made images": Work(lambda: gaf.encode(ohlc), config.windows),
    }
    seconds = _in_turns(works, config.repeats)
    return [_timed("data", case, works[case].items, times, 1) for case, times in seconds.items()]


def _accounting(config: ConfigDict, data: Data) -> list[Row]:
    """Rates of epsilons by RDP, here and in dp_accounting."""
    del data
    plan = _plan(config, config.sweep_batch_size, "auto")
    rate, steps, delta = float(plan.hparams.sample_rate), plan.spec.steps, config.train.delta
    multipliers = np.linspace(1, 5, config.settings)
    some = multipliers[:: max(1, config.settings // config.reference_settings)]

    def reference() -> list[float]:
        accountants = [RdpAccountant(accounting.DEFAULT_ORDERS) for _ in some]
        return [
            accountant.compose(accounting.event(rate, float(multiplier), steps)).get_epsilon(delta)
            for accountant, multiplier in zip(accountants, some, strict=True)
        ]

    ours, theirs = "dpfinjax, all at once", "dp_accounting, one by one"
    works = {
        theirs: Work(reference, len(some)),
        ours: Work(lambda: accounting.epsilon(rate, multipliers, steps, delta), len(multipliers)),
    }
    seconds = _in_turns(works, config.repeats)
    gap = np.max(np.abs(accounting.epsilon(rate, some, steps, delta) / reference() - 1))
    rows = [_timed("accounting", n, works[n].items, times, 1) for n, times in seconds.items()]
    ratio = float(np.median(seconds[theirs]) / np.median(seconds[ours]))
    return [rows[0], rows[1]._replace(ratio=ratio, note=f"epsilons differ by at most {gap:.1e}")]


def _peers(config: ConfigDict) -> list[Row]:
    """Steps of other libraries, and ours beside them under the same conditions."""
    python, rows = config.peers_python or sys.executable, []
    for batch_size in config.peers_batch_sizes:
        tasks = {runner: _task(config, batch_size, runner) for runner in (race.OURS, *race.PEERS)}
        laps = race.run(tasks, python, config.peers_cores, config.peers_rounds)
        reference = np.median(laps[0].seconds) if laps[0].seconds else None
        for name, seconds, note in laps:
            row = Row("peers", name, batch_size, None, None, None, "us", note=note)
            if seconds:
                times = np.array(seconds)
                row = _timed("peers", name, batch_size, times, batch_size, reference, note=note)
            rows.append(row)
    return rows


def _task(config: ConfigDict, batch_size: int, runner: race.Runner) -> protocol.Task:
    """A library's part in the comparison: the noise, batches and optimizer of our own training."""
    noise_multiplier = float(_plan(config, batch_size, "ghost").hparams.noise_multiplier)
    spec = _plan(config, batch_size, runner.batches).spec
    return protocol.Task(
        method=runner.method,
        examples=config.examples,
        batch_size=batch_size,
        capacity=spec.capacity,
        microbatch=spec.microbatch,
        clip_norm=config.train.clip_norm,
        noise_multiplier=noise_multiplier,
        learning_rate=config.train.learning_rate,
        momentum=config.train.momentum,
        repeats=config.repeats,
        seconds=config.peers_seconds,
    )


def _training(config: ConfigDict, batch_size: int, method: str) -> ConfigDict:
    """The config of a training."""
    train = config.train.copy_and_resolve_references()
    train.update(batch_size=batch_size, clip_method=method)
    if method == "none":
        train.update(target_epsilon=None, noise_multiplier=None)
    return train


def _plan(config: ConfigDict, batch_size: int, method: str) -> Plan:
    """A training as a launcher would plan it for so many examples."""
    return settings.sized(_training(config, batch_size, method), config.examples)


def _epochs(
    plan: Plan, data: Data, cells: int | None = None, membership: Membership | None = None
) -> Work:
    """A training of one model, or of several at once, that makes one more epoch a call.

    With a membership each of several sees its own part; without one, all see all the data.
    """
    key, hparams, spec = jax.random.key(0), plan.hparams, plan.spec
    if cells is not None:
        key = jax.random.split(key, cells)
        hparams = jax.tree.map(lambda x: jnp.broadcast_to(x, cells), hparams)
        hparams = hparams._replace(noise_multiplier=jnp.linspace(0.1, 1.0, cells))
    seen, state = membership or training.everything(data), resumable.init(key, data, spec)
    key, hparams, seen, data, state = resumable.spread(key, hparams, seen, data, state)
    numbers = itertools.cycle(range(spec.steps // spec.epoch_steps))  # whole epochs alone

    def call() -> None:
        nonlocal state
        number = jnp.int32(next(numbers))
        done = resumable.train_epoch(key, state, number, hparams, seen, data, spec=spec)
        state = jax.block_until_ready(done)[0]

    return Work(call, spec.epoch_steps * (cells or 1))


def _loop(body: Callable[[Any, jax.Array, Data], Any], carry: Any, data: Data, steps: int) -> Work:
    """A compiled loop that hands `carry`, a key of its own and the data to each step."""

    @jax.jit
    def loop(carry: Any, data: Data) -> Any:
        keys = jax.random.split(jax.random.key(0), steps)
        return jax.lax.scan(lambda carry, key: (body(carry, key, data), None), carry, keys)[0]

    return Work(lambda: jax.block_until_ready(loop(carry, data)), steps)


def _compiled(plan: Plan, data: Data) -> Any:
    """A compiled epoch, never from the cache, whose programs know nothing of their memory."""
    state = jax.eval_shape(lambda: resumable.init(jax.random.key(0), data, plan.spec))
    everyone = training.everything(data)
    with _without_compilation_cache():
        lowered = resumable.train_epoch.lower(
            jax.random.key(0), state, jnp.int32(0), plan.hparams, everyone, data, spec=plan.spec
        )
        return lowered.compile()


@contextlib.contextmanager
def _without_compilation_cache() -> Iterator[None]:
    """Compiles anew what a cache on disk may hold."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _in_turns(works: Mapping[_Name, Work], repeats: int) -> dict[_Name, np.ndarray]:
    """Seconds of one item [repeats] of each work, in turns after a warm-up."""
    seconds: dict[_Name, list[float]] = {name: [] for name in works}
    for work in works.values():
        work.call()
        work.call()  # results of a first call may lie on other devices than its arguments
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work.call()
            seconds[name].append((time.perf_counter() - start) / work.items)
    return {name: np.array(values) for name, values in seconds.items()}


def _timed(
    section: str,
    case: str,
    size: int,
    seconds: np.ndarray,
    items: float,
    reference: float | None = None,
    scale: float = 1e6,
    unit: str = "us",
    note: str = "",
) -> Row:
    """The row of a thing that does `items` in some `seconds` [repeats]."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    ratio = None if reference is None else median / float(reference)
    values = (median * scale, low * scale, high * scale)
    return Row(section, case, size, *values, unit, items / median, ratio, note)


def _cross_entropy(logits: Any, targets: jax.Array) -> jax.Array:
    """The cross-entropy of each example in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _size(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _printed(rows: list[Row]) -> list[Row]:
    """Prints the rows, a table for each section, and returns them."""
    for name, group in itertools.groupby(rows, key=lambda row: row.section):
        section = SECTIONS[name]
        print(f"\n{section.title}")
        print(
            f"{section.size:>10}  {'':<26}{'median':>12}{'quartiles':>20}"
            f"{section.per_second:>14}{section.ratio:>14}".rstrip()
        )
        for row in group:
            median, spread = "-", ""
            if row.value is not None:
                median = f"{_number(row.value)} {row.unit}"
                spread = f"{_number(row.low)} to {_number(row.high)}"
            print(
                f"{row.size:>10,}  {row.case:<26}{median:>12}{spread:>20}"
                f"{_number(row.per_second) if section.per_second else '':>14}"
                f"{_number(row.ratio) if section.ratio else '':>14}  {row.note}".rstrip()
            )
    return rows


def _number(value: float | None) -> str:
    """A number with three digits or more; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _words(value: Any) -> str:
    """A value of the header on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _write(
    folder: Path, machine: Mapping[str, Any], rows: Sequence[Row], quality: NoiseQuality
) -> None:
    """Writes everything as JSON, the rows as CSV, and the steps as a picture."""
    tails = [tail._asdict() for tail in quality.tails]
    content = {
        "machine": machine,
        "rows": [row._asdict() for row in rows],
        "noise": quality._asdict() | {"tails": tails},
    }
    workdir.write_json(folder / "bench.json", content)
    workdir.write_csv(folder / "bench.csv", [row._asdict() for row in rows])
    rates: dict[str, dict[int, tuple[float, float, float]]] = {}
    for row in rows:
        if row.section in ("step", "peers") and row.value and row.low and row.high:
            times = (row.value, row.high, row.low)
            median, low, high = (1e6 * row.size / time for time in times)
            rates.setdefault(row.case, {})[row.size] = (median, low, high)
    (folder / "plots").mkdir(exist_ok=True)
    plots.bench_bars(folder / "plots" / "bench.png", rates)


if __name__ == "__main__":
    app.run(measure, "bench")
