"""Metrics: a resumed run's log is that of a run that was never stopped."""

import json
import subprocess
import sys

from tensorboardX.proto import event_pb2

from dpfinjax import metrics_log
from dpfinjax.metrics_log import MetricsLog

FULL = """
import resource, signal, sys
from dpfinjax.metrics_log import MetricsLog

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with MetricsLog(sys.argv[1], 0) as log:
        for step in range(1000):
            log.write(step, "train", {"loss": None, **dict.fromkeys(map(str, range(50)), 0.5)})
except OSError as error:
    print(error.strerror)
"""


def write(folder, after, steps):
    with MetricsLog(folder, after) as log:
        for step in steps:
            log.write(step, "train", {"loss": step / 2})


def events(folder):
    """The scalars in TensorBoard's files, as (tag, step, value)."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return found


def test_lines_say_step_split_and_values(tmp_path):
    write(tmp_path, 0, [10, 20])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[1] == {"step": 20, "split": "train", "values": {"loss": 10.0}}
    assert metrics_log.read(tmp_path) == lines


def test_what_lies_beyond_the_checkpoint_is_dropped_on_resuming(tmp_path):
    write(tmp_path, 0, [10, 20, 30])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "spl')  # killed while writing
    assert [line["step"] for line in metrics_log.read(tmp_path)] == [10, 20, 30]
    write(tmp_path, 20, [30, 40])
    assert [line["step"] for line in metrics_log.read(tmp_path)] == [10, 20, 30, 40]


def test_tensorboard_sees_the_same_numbers(tmp_path):
    write(tmp_path, 0, [10, 20])
    assert events(tmp_path) == [("train/loss", 10, 5.0), ("train/loss", 20, 10.0)]


def test_a_disk_that_takes_no_more_is_told_once(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("File too large\n", "")


def test_a_run_without_a_log_has_no_lines(tmp_path):
    assert metrics_log.read(tmp_path) == []
