"""Steps of several libraries against each other: one process each, the same cores, in turns."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dpfinjax.errors import InputError
from launch.peers.protocol import Task

_CLONE = Path(__file__).resolve().parents[2]


class Runner(NamedTuple):
    """One who takes part.

    Attributes:
      name: what tables call it.
      script: the module in `launch.peers` that makes its step.
      method: the library's own name of its way to clip.
      batches: the `clip_method` of ours whose capacity and microbatch suit it.
    """

    name: str
    script: str
    method: str
    batches: str


OURS = Runner("dpfinjax ghost", "dpfinjax_step", "ghost", "ghost")
PEERS = (
    Runner("Opacus hooks", "opacus_step", "hooks", "vmap"),
    Runner("Opacus ghost", "opacus_step", "ghost", "ghost"),
    Runner("jax_privacy clipped_grad", "jax_privacy_step", "clipped_grad", "vmap"),
)


class Lap(NamedTuple):
    """What came of a runner.

    Attributes:
      name: the runner's.
      seconds: of one step, once a repeat; empty where there is no answer.
      note: versions, or why there is no answer.
    """

    name: str
    seconds: list[float]
    note: str


def run(tasks: Mapping[Runner, Task], python: str, cores: Sequence[int], rounds: int) -> list[Lap]:
    """Lets every library make its step, in turns.

    Args:
      tasks: what each runner is to do.
      python: path of the interpreter that has the other libraries; ours runs in this one.
      cores: the cores that every process may use; none for all that this one may.
      rounds: how often each process is started.

    Returns:
      The laps, in the order of the tasks.

    Raises:
      InputError: if `python` cannot be started or a core does not exist.
    """
    laps = {runner: Lap(runner.name, [], "") for runner in tasks}
    with _pinned(cores):
        for _ in range(rounds):
            for runner, lap in laps.items():
                if lap.note and not lap.seconds:
                    continue  # it has failed before
                interpreter = sys.executable if runner == OURS else python
                more = _lap(runner, tasks[runner], interpreter)
                laps[runner] = Lap(runner.name, lap.seconds + more.seconds, more.note)
    return list(laps.values())


def _lap(runner: Runner, task: Task, python: str) -> Lap:
    """One process, waited for."""
    words = json.dumps(task._asdict())
    command = [python, "-W", "ignore", "-m", f"launch.peers.{runner.script}", words]
    try:
        done = subprocess.run(command, cwd=_CLONE, capture_output=True, text=True)
    except OSError as error:
        raise InputError(
            f"config.peers_python is {python!r}, which cannot be started ({error.strerror}); it "
            "must be the path of a Python that has the other libraries."
        ) from error
    if done.returncode:
        return Lap(runner.name, [], _why(done.stderr))
    reply = json.loads(done.stdout.splitlines()[-1])
    versions = ", ".join(f"{name} {version}" for name, version in reply["versions"].items())
    return Lap(runner.name, reply["seconds"], versions)


def _why(stderr: str) -> str:
    """Why a process has failed, from the last line that it wrote."""
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    missing = last.startswith(("ModuleNotFoundError", "ImportError"))
    return f"not installed ({last})" if missing else f"failed ({last})"


@contextlib.contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """Restricts this thread, and with it the processes that it starts, to some cores."""
    if not cores:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("config.peers_cores cannot be set on this system; leave it empty.")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError) as error:
        raise InputError(
            f"config.peers_cores is {tuple(cores)}; it must be some of {sorted(before)}."
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
