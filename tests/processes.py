"""Real processes on this machine that run one launcher together."""

import os
import socket
import subprocess
import sys

from tests.launch.test_app import CLONE


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_config(file, config):
    """Writes a config file with plain values.

    Importing tests instead computes, which no process may do before it has joined others.
    """
    file.write_text(
        "from math import inf\nfrom ml_collections import ConfigDict\n"
        f"def get_config(variant=''):\n    return ConfigDict({config.to_dict()!r})\n"
    )


def start(flags, job="dpsgd", programs=None, **environment):
    """Starts a process for each list of flags; each has one device.

    A process runs the launcher, or of `programs`, which are modules with arguments, its own.
    """
    programs = programs or [[f"launch.{job}"]] * len(flags)
    together = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={len(flags)}"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", *program, *together, f"--process_id={number}", *own],
            cwd=CLONE,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, (program, own) in enumerate(zip(programs, flags, strict=True))
    ]


def ended(processes, timeout=300):
    """Waits for processes; their exit codes, and what they wrote to stdout and stderr."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]
