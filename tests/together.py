"""The long checks of several processes: `python -m tests.together [check ...]`, some minutes each.

Each runs launchers in real processes on this machine, compares what they leave with the same run in
one process, and prints a line. An assertion ends it.
"""

import collections
import csv
import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from dpfinjax import last_words
from tests import processes
from tests.launch.test_app import CLONE
from tests.launch.test_dpsgd import final_state
from tests.test_hosts import SWEEP

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # of parameters; float32 rounding grows over steps
ALWAYS = "--config.data.stream=always"
BOUND_S = 20  # from the death of a process that computes with others to their end


def timed(flags, job="dpsgd", programs=None, starter=()):
    """Runs a launcher in as many processes as there are flags, or as the starter makes; seconds."""
    start = time.monotonic()
    if len(flags) == 1:
        (program,) = programs or [[f"launch.{job}"]]
        command = [*starter, sys.executable, "-m", *program, *flags[0]]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
        done = subprocess.run(command, cwd=CLONE, env=environment, capture_output=True, text=True)
        ended = [(done.returncode, done.stdout, done.stderr)]
    else:
        ended = processes.ended(processes.start(flags, job, programs), timeout=900)
    assert not any(code for code, *_ in ended), ended
    return time.monotonic() - start


def flags_of(config, folder, *more):
    """The flags of one process."""
    return [f"--config={config}", f"--workdir={folder}", *more]


def rows_of(folder):
    """The rows of a results.csv without seconds, numbers as numbers."""

    def value(text):
        try:
            return float(text)
        except ValueError:
            return text

    with open(folder / "results.csv") as file:
        return [
            {name: value(text) for name, text in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def compare(first, second):
    """Asserts that two runs have the same rows and parameters; whether to the last bit."""
    same = True
    for a, b in zip(rows_of(first), rows_of(second), strict=True):
        numbers = [name for name, value in a.items() if isinstance(value, float)]
        for name in a:
            assert name in numbers or a[name] == b[name], (name, a[name], b[name])
        x, y = (np.array([row[name] for name in numbers]) for row in (a, b))
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)
        same &= np.array_equal(x, y, equal_nan=True)
    for place in sorted(path.parent for path in first.rglob("checkpoints")):
        states = final_state(place), final_state(second / place.relative_to(first))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **TOLERANCE), *states)
        same &= all(
            np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, states), strict=True)
        )
    return "the same bits" if same else "the same to rounding"


def report(what, folders, seconds):
    """Prints how a run in several processes compares with one."""
    ratio = f"{seconds[1] / seconds[0]:.2f} times its seconds ({seconds[0]:.1f})"
    print(f"{what}: {compare(*folders)}, {ratio}", flush=True)


def sweep(folder, numbers=(2, 4)):
    """A sweep of three models in one process, in two and in four."""
    config = made_config(folder)
    alone = timed([flags_of(config, folder / "1")])
    for number in numbers:
        together = timed([flags_of(config, folder / f"{number}")] * number)
        report(
            f"sweep in {number} processes",
            (folder / "1", folder / f"{number}"),
            (alone, together),
        )


def clusters(folder):
    """The sweep as two tasks of Slurm and of Open MPI, where there are any."""
    config = made_config(folder)
    alone = timed([flags_of(config, folder / "1")])
    for starter in ("srun", "mpirun"):
        if not shutil.which(starter):
            print(f"there is no {starter}", flush=True)
            continue
        together = timed([flags_of(config, folder / starter)], starter=(starter, "-n", "2"))
        report(f"sweep under {starter}", (folder / "1", folder / starter), (alone, together))


def batch(folder):
    """Three models, each with its batches divided over two processes."""
    config = made_config(folder)
    alone = timed([flags_of(config, folder / "1")])
    shared = "--devices_per_model=2"
    together = timed([flags_of(config, folder / "2", shared)] * 2)
    report("batches over 2 processes", (folder / "1", folder / "2"), (alone, together))


def streamed(folder):
    """The sweep from disk, in two processes with a disk each, and what each of them reads."""
    config, cache = made_config(folder), folder / "cache"
    timed([flags_of(config, folder / "memory")])
    shutil.copytree(cache, folder / "disk")
    disks = cache, folder / "disk"

    def run(name, number, *more):
        """The seconds, and how often each process has read each row."""
        files = [folder / f"{name} {place}.json" for place in range(number)]
        programs = [
            ["tests.on_own_disk", str(file), str(cache), str(disk), "launch.dpsgd"]
            for file, disk in zip(files, disks, strict=False)
        ]
        flags = flags_of(config, folder / name, ALWAYS, *more)
        seconds = timed([flags] * number, programs=programs)
        return seconds, [collections.Counter(json.loads(file.read_text())) for file in files]

    alone, (whole,) = run("1", 1)
    print(f"from disk and in memory: {compare(folder / 'memory', folder / '1')}", flush=True)
    for what, more in (("models", ()), ("batches", ("--devices_per_model=2",))):
        together, read = run(what, 2, *more)
        assert read[0] + read[1] == whole
        rows = " and ".join(str(own.total()) for own in read)
        what_read = f"{what} over 2 processes from disk ({rows} of {whole.total()} rows read)"
        report(what_read, (folder / "1", folder / what), (alone, together))


def killed(folder, *more):
    """One of two processes is killed, the other ends too, and one process alone goes on."""
    long = ("--config.epochs=200", "--config.checkpoint_epochs=5", *more)
    config = made_config(folder)
    timed([flags_of(config, folder / "undisturbed", *long)])
    for victim in (0, 1):
        run = folder / f"killed {victim}"
        started = processes.start([flags_of(config, run, *long)] * 2)
        while not any(run.glob("unfinished/*/checkpoints/[0-9]*")):
            assert started[0].poll() is None, started[0].communicate()
            time.sleep(0.05)
        started[victim].send_signal(signal.SIGKILL)
        begun = time.monotonic()
        code, _, errors = processes.ended(started)[1 - victim]
        seconds = time.monotonic() - begun
        told = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert code, "the other one ended well"
        assert seconds < BOUND_S, seconds
        assert len(told) == 1, errors
        assert last_words.SENTENCE in told[0], errors
        assert "Traceback" not in errors, errors
        assert "***" not in errors, errors
        timed([flags_of(config, run, *long)])
        same = compare(folder / "undisturbed", run)
        print(f"process {victim} of 2 killed: the other ended after {seconds:.1f} s with {code}; "
              f"gone on in one process: {same}", flush=True)  # fmt: skip


def job(name, changes, folder):
    """Another launcher's small run in one process and in two."""
    module = importlib.import_module(f"tests.launch.test_{name}")
    config = module.make_config(str(folder / "cache"), **{"seed": 0, **changes})
    file = folder / f"{name}.py"
    processes.write_config(file, config)
    seconds = [timed([flags_of(file, folder / f"{n}")] * n, name) for n in (1, 2)]
    report(f"{name} in 2 processes", (folder / "1", folder / "2"), seconds)


def made_config(folder):
    """The file of a small sweep."""
    file = folder / "sweep.py"
    file.write_text(SWEEP.format(cache=str(folder / "cache")))
    return file


CHECKS = {check.__name__: check for check in (sweep, clusters, batch, killed, streamed)} | {
    "streamed_killed": lambda folder: killed(folder, ALWAYS),
}
CHECKS |= {
    name: functools.partial(job, name, changes)
    for name, changes in {
        "pate": {"cells": ()},
        "attack": {"attack.models": 4, "baseline.epochs": 5.0},
        "audit": {"audit.canaries": 20, "audit.runs": 100},
    }.items()
}

if __name__ == "__main__":
    for name in sys.argv[1:] or CHECKS:
        with tempfile.TemporaryDirectory() as place:
            CHECKS[name](Path(place))
