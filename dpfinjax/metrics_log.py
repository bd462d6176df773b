"""Metrics of a training as JSON lines and TensorBoard events, which a resumed run continues."""

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from dpfinjax import workdir
from dpfinjax.errors import InputError

METRICS = "metrics.jsonl"
_SHOWN_SECONDS = 60  # after which TensorBoard can see an event


class MetricsLog:
    """Appends to `metrics.jsonl` and `tensorboard/` in a run's folder; a context manager.

    A line is `{"step": int, "split": str, "values": {name: number}}`.
    """

    def __init__(self, folder: str | Path, step: int) -> None:
        """Opens the log for a run that goes on after `step`; what lies beyond it is dropped."""
        path = Path(folder) / METRICS
        kept = [line for line in read(folder) if line["step"] <= step]
        with workdir.replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(path, "a")  # noqa: SIM115, closed by __exit__
        events = Path(folder) / "tensorboard"
        events.mkdir(exist_ok=True)
        # Not by a SummaryWriter: where the disk is full its thread dies, and who writes then waits.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._events, self._shown = RecordWriter(str(events / name)), time.monotonic()
        self._add(file_version="brain.Event:2")
        self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, split: str, values: Mapping[str, float | None]) -> None:
        """Adds one line, and each value that is not None as a TensorBoard scalar `split/name`."""
        line = {"step": step, "split": split, "values": dict(values)}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                scalar = Summary.Value(tag=f"{split}/{name}", simple_value=value)
                self._add(step=step, summary=Summary(value=[scalar]))
        if time.monotonic() - self._shown > _SHOWN_SECONDS:
            self._events.flush()
            self._shown = time.monotonic()

    def _add(self, **fields: Any) -> None:
        self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file, contextlib.closing(self._events):
            pass


def read(folder: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl`, without a last one that a kill cut short.

    Raises:
      InputError: if the file cannot be read, or a line is none that `MetricsLog` writes.
    """
    path = Path(folder) / METRICS
    if not path.exists():
        return []
    try:
        lines = path.read_text().split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); it should be lines of JSON.") from error
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _parsed(line: str, where: str) -> dict[str, Any]:
    """One line, if it is of the form that `MetricsLog` writes."""
    try:
        found = json.loads(line)
        numbers = (found["step"], *(n for n in found["values"].values() if n is not None))
        if isinstance(found["split"], str) and all(isinstance(n, int | float) for n in numbers):
            return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(
        f"{where} is damaged; it should have step, split and values, and without the line the run "
        "can go on."
    )
