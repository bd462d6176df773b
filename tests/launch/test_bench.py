"""The benchmark: figures that agree with each other, and other libraries that may be missing."""

import contextlib
import csv
import importlib.util
import io
import itertools
import json
import os
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import bench as bench_config
from dpfinjax import sampling
from dpfinjax.errors import InputError
from launch import bench
from launch.peers import protocol, race
from launch.peers.protocol import Task

pytestmark = pytest.mark.long  # nothing here is a claim about a model
TASK = Task(
    method="",
    examples=200,
    batch_size=16,
    capacity=48,
    microbatch=24,
    clip_norm=1.0,
    noise_multiplier=1.0,
    learning_rate=0.1,
    momentum=0.9,
    repeats=2,
    seconds=0.0,
)
TASKS = {r: TASK._replace(method=r.method) for r in (race.OURS, *race.PEERS)}
SECONDS = {"dpfinjax ghost": 0.001, "Opacus hooks": 0.004, "Opacus ghost": 0.002}
FAKE = f"""#!{sys.executable}
import json, os, sys
module, task = sys.argv[4], json.loads(sys.argv[5])
if module.endswith("jax_privacy_step"):
    sys.exit("ModuleNotFoundError: No module named 'jax_privacy'")
seconds = {{"dpfinjax_step": 0.001, "opacus_step": 0.002}}[module.split(".")[-1]]
seconds *= 2 if task["method"] == "hooks" else 1
print("something else first")
print(json.dumps({{"seconds": [seconds] * task["repeats"], "versions": {{"lib": "1.0"}}}}))
"""


def interpreter(path, program):
    """A program that is started as if it were a Python."""
    path.write_text(program)
    path.chmod(0o755)
    return str(path)


def quick(**changes):
    config = bench_config.get_config("quick")
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compiling is most of these tests' time, and what it makes need not be fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def done(compiled_quickly, tmp_path_factory):
    """Rows, what was printed, folder and config of one benchmark of a very small network."""
    folder, printed = tmp_path_factory.mktemp("bench") / "run", io.StringIO()
    config = quick(methods=("none", "ghost"), sweep_cells=(2,))
    config.train.model.update(widths=(), strides=(), hidden=())
    with contextlib.redirect_stdout(printed):
        rows = bench.measure(config, folder)
    return rows, printed.getvalue(), folder, config


def of(rows, section):
    found = {(row.case, row.size): row for row in rows if row.section == section}
    assert found
    return found


def test_every_section_has_its_cases(done):
    rows, _, _, config = done
    assert set(of(rows, "step")) == {("none", 32), ("ghost", 32)}
    assert {case for case, _ in of(rows, "part")} == {
        "the whole step",
        "noise",
        "sampling",
        "gradient, clipped by ghost",
        "gradient, not clipped",
    }
    assert set(of(rows, "sweep")) == {("one after another", 1), ("one program", 2)}
    assert set(of(rows, "teachers")) == {("one model", 1), ("one program", 4)}
    kinds = ("non-private", "private")
    alone = {(f"{kind}, alone", 1) for kind in kinds}
    assert set(of(rows, "shadow")) == alone | {(f"{kind}, shadow", 4) for kind in kinds}
    assert set(of(rows, "memory")) == set(of(rows, "compile")) == {("none", 64), ("ghost", 64)}
    assert {size for _, size in of(rows, "data")} == {config.bars, config.windows}
    assert {size for _, size in of(rows, "accounting")} == {20, 2}
    assert {row.section for row in rows} | {"peers"} == set(bench.SECTIONS)


def test_ratios_and_rates_are_those_of_the_times(done):
    rows, *_, config = done
    for row in rows:
        if row.value is not None:
            assert 0 < row.low <= row.value <= row.high
    steps, none = of(rows, "step"), of(rows, "step")["none", 32]
    for row in [*steps.values(), *of(rows, "part").values()]:
        whole = none if row.section == "step" else of(rows, "part")["the whole step", 32]
        assert row.ratio == pytest.approx(row.value / whole.value)
    assert none.per_second == pytest.approx(32e6 / none.value)
    sweep = of(rows, "sweep")
    one, together = sweep["one after another", 1], sweep["one program", 2]
    assert together.ratio == pytest.approx(one.value / together.value)
    (paper,) = of(rows, "paper").values()
    model_steps = 10 * 120 * config.examples / 30
    assert paper.value == pytest.approx(together.value * model_steps / 60e6)
    assert "extrapolated" in paper.note
    memory = of(rows, "memory")
    ghost = memory["ghost", 64]
    assert ghost.ratio == pytest.approx(ghost.value / memory["none", 64].value)
    theirs, ours = of(rows, "accounting").values()
    assert ours.ratio == pytest.approx(theirs.value / ours.value)
    assert float(ours.note.split()[-1]) < 1e-6


def test_other_libraries_stand_beside_ours(tmp_path, monkeypatch, capsys):
    for section in (
        "_steps",
        "_parts",
        "_sweeps",
        "_teachers",
        "_shadows",
        "_programs",
        "_data",
        "_accounting",
    ):
        monkeypatch.setattr(bench, section, lambda config, data: [])
    fake = interpreter(tmp_path / "python", FAKE)
    monkeypatch.setattr(sys, "executable", fake)
    config = quick(peers=True, peers_python=fake, noise_draws=1)
    peers = of(bench.measure(config, tmp_path / "run"), "peers")
    for case, seconds in SECONDS.items():
        row = peers[case, 32]
        assert row.value == pytest.approx(seconds * 1e6)
        assert row.per_second == pytest.approx(32 / seconds)
        assert row.ratio == pytest.approx(seconds / SECONDS["dpfinjax ghost"])
        assert row.note == "lib 1.0"
    missing = peers["jax_privacy clipped_grad", 32]
    assert missing.value is None
    assert missing.note == "not installed (ModuleNotFoundError: No module named 'jax_privacy')"
    assert len(peers) == len(SECONDS) + 1
    printed = capsys.readouterr().out
    assert missing.note in printed
    assert "Opacus hooks" in printed
    assert (tmp_path / "run" / "plots" / "bench.png").stat().st_size > 10_000


def test_what_is_printed_is_what_is_written(done):
    rows, printed, folder, _ = done
    content = json.loads((folder / "bench.json").read_text())
    assert [bench.Row(**row) for row in content["rows"]] == rows
    with open(folder / "bench.csv") as file:
        lines = list(csv.DictReader(file))
    assert [(line["section"], line["case"], line["size"], line["value"]) for line in lines] == [
        (row.section, row.case, str(row.size), str(row.value or "")) for row in rows
    ]
    assert set(content["machine"]) >= {"date", "cpu", "cores", "devices", "versions"}
    assert len(content["machine"]["load_before"]) == len(content["machine"]["load_after"]) == 3
    for row in rows:
        assert bench.SECTIONS[row.section].title in printed
    for row in rows:
        assert any(row.case in line and row.note in line for line in printed.splitlines())
    assert f"{content['noise']['draws']:,} draws" in printed
    assert (folder / "plots" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_works_take_turns_and_are_counted_by_the_item(monkeypatch):
    clock, order = itertools.count(), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
    works = {name: bench.Work(lambda name=name: order.append(name), 4) for name in "ab"}
    seconds = bench._in_turns(works, 3)
    assert "".join(order) == "aabb" + "ababab"
    assert {name: times.tolist() for name, times in seconds.items()} == {
        "a": [0.25] * 3,
        "b": [0.25] * 3,
    }


def test_parts_do_what_they_are_named_after():
    config = quick(**{"train.clip_norm": 1e6})
    config.train.model.update(widths=(4,), strides=(2,), hidden=(64,))
    data = bench.Data(*map(jnp.asarray, protocol.made_up(config.examples)))
    plan = bench._plan(config, 32, "auto")
    works = bench._part_works(plan, data, 3)
    assert {work.items for work in works.values()} == {3}
    start = bench.training.init(jax.random.key(0), data, plan.spec).params
    flat = [leaf.ravel() for leaf in jax.tree.leaves(works["noise"].call())]
    moved = jnp.concatenate(flat) - jnp.concatenate([x.ravel() for x in jax.tree.leaves(start)])
    assert float(jnp.std(moved)) == pytest.approx(3**0.5, rel=0.02)
    rows = 0
    for key in jax.random.split(jax.random.key(0), 3):
        drawn, mask = sampling.poisson(key, config.examples, 32 / 600, plan.spec.capacity)
        rows += int(drawn[mask].sum())
    assert int(works["sampling"].call()) == rows
    # Where nothing is clipped the two gradients agree; biases start at zero, so they move exactly.
    clipped, plain = (
        works[name].call()["Dense_1"]["bias"]
        for name in ("gradient, clipped by ghost", "gradient, not clipped")
    )
    assert float(jnp.abs(plain).min()) > 0
    assert clipped.tolist() == pytest.approx(plain.tolist(), rel=1e-3)


def test_a_program_is_never_taken_from_the_cache_but_the_cache_stays_on(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()

    def kept(number):
        """How many more programs the cache holds after another one is compiled."""
        already = len(list(tmp_path.iterdir()))
        jax.jit(lambda x: x + number).lower(0.0).compile()
        return len(list(tmp_path.iterdir())) - already

    assert kept(1) > 0
    with bench._without_compilation_cache():
        assert kept(2) == 0
    assert kept(3) > 0
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_capacities_are_those_of_a_training():
    config = bench_config.get_config()
    plans = {method: bench._plan(config, 32, method) for method in config.methods}
    assert len({plan.spec.capacity for plan in plans.values()}) == 1
    assert plans["none"].spec.capacity > 2 * 32
    assert plans["ghost"].spec.momentum == 0.9
    assert float(plans["ghost"].hparams.noise_multiplier) == 1.0


def test_processes_run_on_the_cores_that_are_asked_for(tmp_path, monkeypatch):
    program = "import json, os; cores = len(os.sched_getaffinity(0))\n"
    program += "print(json.dumps({'seconds': [cores], 'versions': {}}))\n"
    fake = interpreter(tmp_path / "python", f"#!{sys.executable}\n{program}")
    monkeypatch.setattr(sys, "executable", fake)
    before = os.sched_getaffinity(0)
    laps = race.run(TASKS, fake, [min(before)], 2)
    assert [lap.seconds for lap in laps] == [[1, 1]] * 4
    assert os.sched_getaffinity(0) == before
    with pytest.raises(InputError, match=r"peers_cores"):
        race.run(TASKS, fake, [9999], 1)


def test_a_library_that_fails_is_not_called_missing(tmp_path, monkeypatch):
    fake = interpreter(tmp_path / "python", "#!/bin/sh\necho ValueError: no >&2; exit 3\n")
    monkeypatch.setattr(sys, "executable", fake)
    laps = race.run(TASKS, fake, (), 2)
    assert [lap.note for lap in laps] == ["failed (ValueError: no)"] * 4
    assert not any(lap.seconds for lap in laps)


def test_our_own_process_answers(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    lap = race._lap(race.OURS, TASKS[race.OURS], sys.executable)
    assert len(lap.seconds) == TASK.repeats
    assert min(lap.seconds) > 0
    assert lap.note == f"jax {jax.__version__}"


@pytest.mark.parametrize("runner", race.PEERS, ids=lambda runner: runner.name)
def test_another_library_answers_where_it_is_installed(runner):
    library = runner.script.removesuffix("_step")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    lap = race._lap(runner, TASKS[runner], sys.executable)
    assert len(lap.seconds) == TASK.repeats
    assert library in lap.note


def test_an_answer_for_another_network_is_refused():
    with pytest.raises(ValueError, match=r"107 parameters"):
        protocol.answer(TASK, lambda: None, 1, 107, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("vmap",)}, "config.methods"),
        ({"methods": ("none", "ghots")}, "clip_method"),
        ({"batch_sizes": (32, 601)}, "config.batch_sizes"),
        ({"memory_batch_size": 601}, "config.memory_batch_size"),
        ({"repeats": 0}, "config.repeats"),
        ({"sweep_cells": ()}, "config.sweep_cells"),
        ({"peers": True, "train.model.hidden": (16,)}, "config.train.model"),
        ({"peers": True, "peers_python": "/nowhere/python"}, "config.peers_python"),
    ],
)
def test_a_wrong_config_is_named_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        bench.measure(quick(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interpreter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.peers_python is '.*nowhere'"):
        race._lap(race.PEERS[0], TASK, str(tmp_path / "nowhere"))
