"""Metrics of a training as JSON lines and TensorBoard events, which a resumed run continues."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from dpfinjax import workdir

METRICS = "metrics.jsonl"


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
        self._events = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, split: str, values: Mapping[str, float | None]) -> None:
        """Adds one line, and each value that is not None as a TensorBoard scalar `split/name`."""
        line = {"step": step, "split": split, "values": dict(values)}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(f"{split}/{name}", value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._events.close()


def read(folder: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl`, without a last one that a kill cut short."""
    path = Path(folder) / METRICS
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]
