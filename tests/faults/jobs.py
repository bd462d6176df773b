"""Small jobs of the launchers, for faults to befall them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import attack, audit, data, dpsgd, pate, study
from tests import processes
from tests.launch.test_app import CLONE

_MARKET = {"data.sim_bars": 120_000}
_TRAINED = _MARKET | {
    "seed": 0,
    "batch_size": 64,
    "epochs": 20.0,
    "accountant": "rdp",
    "model.hidden": (8,),
    "microbatch": 512,
    "augment.copies": 0,
}
_RATES = ({"learning_rate": 0.5}, {"learning_rate": 1.0}, {"learning_rate": 2.0})
_VOTED = _MARKET | {"seed": 0, "teachers": 4, "threshold": 2.0, "answers": 20, "cells": ()}
_ATTACKED = _MARKET | {
    "seed": 0,
    "epochs": 4.0,
    "accountant": "rdp",
    "cells": ({"noise_multiplier": 2.0},),
    "baseline.epochs": 5.0,
    "attack.models": 4,
    "attack.steps": 100,
    "models_at_once": 2,
    "checkpoint_epochs": 2,
}
_AUDITED = _TRAINED | {
    "epochs": None,
    "steps": 5,
    "audit.canaries": 50,
    "audit.runs": 100,
    "audit.network_runs": 4,
}
_STUDIED = _MARKET | {
    "seed": 0,
    "seeds": 1,
    "dpsgd.epochs": 3.0,
    "dpsgd.cells": ({"target_epsilon": 4.0},),
    "dpsgd.baseline.epochs": 3.0,
    "published.epochs": 2.0,
    "pretrained.epochs": 2.0,
    "pretrained.cells": ({"target_epsilon": 4.0},),
    "pretrained.pretrain.sim_bars": 100_000,
    "pretrained.pretrain.epochs": 2.0,
    "pate.teachers": 3,
    "pate.answers": 30,
    "pate.semi_supervised": False,
    "pate.teacher.epochs": 1.0,
    "pate.student.epochs": 1.0,
    "attack.models": 4,
    "attack.steps": 50,
    "audit.canaries": 50,
    "audit.runs": 50,
    "audit.network_runs": 4,
}


class Job(NamedTuple):
    """A launcher and the small config that it is run with.

    Attributes:
        launcher: Its name.
        config: The whole config, but for the folder of prepared data.
    """

    launcher: str
    config: ConfigDict


class Place(NamedTuple):
    """Where the files of a job lie.

    Attributes:
        root: Its workdir and prepared data are in it.
        outside: The folder of its config file and of what it says, by default the same.
    """

    root: Path
    outside: Path | None = None

    @property
    def own(self) -> Path:
        """The folder of what the launcher does not write: its config file and what it says."""
        return self.outside or self.root

    @property
    def run(self) -> Path:
        """Its workdir."""
        return self.root / "run"

    @property
    def cache(self) -> Path:
        """The folder of its prepared data."""
        return self.root / "cache"


def _changed(config: ConfigDict, changes: dict) -> ConfigDict:
    config.update_from_flattened_dict(changes)
    return config


JOBS = {
    "data": Job("data", _changed(data.get_config(), {"data.sim_bars": 1_000_000})),
    "dpsgd": Job("dpsgd", _changed(dpsgd.get_config(), _TRAINED)),
    "sweep": Job("dpsgd", _changed(dpsgd.get_config(), _TRAINED | {"cells": _RATES})),
    "choice": Job(
        "dpsgd",
        _changed(
            dpsgd.get_config(),
            _TRAINED | {"cells": _RATES, "sweep.select": "private", "sweep.mean_runs": 3.0},
        ),
    ),
    "stream": Job("dpsgd", _changed(dpsgd.get_config(), _TRAINED | {"data.stream": "always"})),
    "pate": Job("pate", _changed(pate.get_config("quick"), _VOTED)),
    "attack": Job("attack", _changed(attack.get_config("quick"), _ATTACKED)),
    "audit": Job("audit", _changed(audit.get_config(), _AUDITED)),
    "study": Job("study", _changed(study.get_config("quick"), _STUDIED)),
}


def command(job: Job, place: Place) -> list[str]:
    """Returns the job's command, and writes its config where that names it."""
    config = job.config.copy_and_resolve_references()
    config.data.cache_dir = str(place.cache)
    place.own.mkdir(parents=True, exist_ok=True)
    file = place.own / "config.py"
    processes.write_config(file, config)
    flags = [f"--config={file}", f"--workdir={place.run}"]
    return [sys.executable, "-m", f"launch.{job.launcher}", *flags]


@contextlib.contextmanager
def started(job: Job, place: Place, before: Sequence[str] = ()) -> Iterator[subprocess.Popen]:
    """Gives a process of the job, killed at the end of the block with all that it started.

    Args:
        job: What it does.
        place: Where.
        before: A command that runs the job's.

    Yields:
        The process; what it says goes to `place.own / "stderr"`.
    """
    line = [*before, *command(job, place)]
    with open(place.own / "stderr", "wb") as errors:
        process = subprocess.Popen(
            line, cwd=CLONE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
