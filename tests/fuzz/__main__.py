"""Tries inputs by the thousand, and keeps those that break the promise.

  python -m tests.fuzz --minutes=15           # every target, a share of the time each
  python -m tests.fuzz --minutes=5 bars flags

With atheris (the extra `fuzz`) inputs are also chosen by the branches that they reach; without it
they are mutated at random. Prints how many were tried and what became of them; found violations
go to `tests/fuzz/cases/<target>/found-<digest>`, which `pytest tests/fuzz` replays ever after.
"""

import argparse
import collections
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

try:
    import atheris
except ImportError:
    atheris = None

if atheris:  # only what is imported from here on tells atheris about its branches
    _PARTS = ["dpfinjax", "launch", "zipfile", "pickletools", "csv", "json"]
    with atheris.instrument_imports(include=_PARTS):
        from tests.fuzz import corpus
        from tests.fuzz.promise import ACCEPTED, REFUSED, Violation, tried
        from tests.fuzz.targets import TARGETS, changed, mutated
else:
    from tests.fuzz import corpus
    from tests.fuzz.promise import ACCEPTED, REFUSED, Violation, tried
    from tests.fuzz.targets import TARGETS, changed, mutated

_VIOLATION = "violations"
_MOST_BYTES = 1 << 16
_TOLD_EACH = 50
_STUCK_SECONDS = 180  # to start, and to end: beyond them only the process before us can stop it


class Count:
    """What became of the inputs of one target, kept in a file since atheris ends the process."""

    def __init__(self, name: str, path: Path, seconds: float) -> None:
        self._name, self._path, self._until = name, path, time.monotonic() + seconds
        self._counts: collections.Counter[str] = collections.Counter()
        self._kinds: set[str] = set()

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._until

    def add(self, data: bytes) -> None:
        """Tries an input; one that breaks the promise is kept, the first of its kind."""
        target = TARGETS[self._name]
        _input_of(self._path).write_bytes(data)
        try:
            self._counts[tried(target.entry, data, target.always)] += 1
        except Violation as violation:
            self._counts[_VIOLATION] += 1
            kind = str(violation)[:40]
            if kind not in self._kinds:
                self._kinds.add(kind)
                corpus.keep(self._name, data)
                print(f"\n{self._name}: {violation}", file=sys.stderr, flush=True)
        if self._counts.total() % _TOLD_EACH == 0 or self.over():
            self._path.write_text(json.dumps(self._counts))


def _at_random(name: str, count: Count, seed: int) -> None:
    while not count.over():
        count.add(mutated(TARGETS[name], seed))
        seed += 1


def _by_branches(name: str, count: Count, seed: int) -> None:
    """Lets atheris choose: every second input is mutated by its own means."""
    target = TARGETS[name]

    def change(data: bytes, most: int, seed: int) -> bytes:
        if seed % 4 == 0:
            return atheris.Mutate(data, min(most, _MOST_BYTES))
        if seed % 4 == 1 or not data:
            return mutated(target, seed)[:most]
        return changed(target, data, seed)[:most]

    def one(data: bytes) -> None:
        count.add(data)
        if count.over():
            os._exit(0)

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate([*target.valid(), *corpus.inputs(name).values()]):
            (Path(folder) / str(number)).write_bytes(data)
        # The limits are ours, see `promise`; libFuzzer would end the process at the first.
        limits = [
            "-timeout=0",
            "-rss_limit_mb=0",
            "-handle_segv=0",
            "-verbosity=0",
            "-close_fd_mask=1",
        ]
        arguments = [sys.argv[0], folder, f"-seed={seed}", f"-max_len={_MOST_BYTES}", *limits]
        atheris.Setup(arguments, one, custom_mutator=change)
        atheris.Fuzz()


def _in_process(name: str, path: Path, seconds: float, seed: int) -> None:
    warnings.simplefilter("ignore")
    target = TARGETS[name]
    for data in target.valid():  # compiles what is compiled once
        target.entry(data)
    count = Count(name, path, seconds)
    (_by_branches if atheris else _at_random)(name, count, seed)


def _counted(name: str, seconds: float, seed: int) -> collections.Counter[str]:
    """Fuzzes one target in a process of its own, which may end as it likes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.json"
        arguments = [f"--seconds={seconds}", f"--seed={seed}", f"--counts={path}", name]
        command = [sys.executable, "-m", "tests.fuzz", *arguments]
        try:
            limit = seconds + _STUCK_SECONDS
            code = subprocess.run(
                command, stdout=subprocess.DEVNULL, check=False, timeout=limit
            ).returncode
        except subprocess.TimeoutExpired:  # in C, where no signal of Python's reaches it
            code = "none: it hung"
        counts = json.loads(path.read_text()) if path.exists() else {}
        if code and _input_of(path).exists():
            print(f"{name}: the process ended with code {code}", file=sys.stderr)
            corpus.keep(name, _input_of(path).read_bytes())
            counts[_VIOLATION] = counts.get(_VIOLATION, 0) + 1
        return collections.Counter(counts)


def _input_of(path: Path) -> Path:
    """Where the input is that is being tried, for the case that it is the last."""
    return path.with_suffix(".input")


def main() -> int:
    """Fuzzes what the command line asks for; the exit code says whether anything was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--minutes", type=float, default=15.0, help="for all targets together")
    parser.add_argument(
        "--seed", type=int, default=int(hashlib.sha256(os.urandom(8)).hexdigest()[:7], 16)
    )
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--counts", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    unknown = set(names) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if given.counts:
        _in_process(names[0], given.counts, given.seconds, given.seed)
        return 0
    print(f"{'by branches, with atheris' if atheris else 'at random'}, seed {given.seed}")
    print(f"{'target':<12}{'tried':>9}{'accepted':>10}{'refused':>9}{'violations':>12}", flush=True)
    found = 0
    for name in names:
        counts = _counted(name, 60 * given.minutes / len(names), given.seed)
        columns = counts.total(), counts[ACCEPTED], counts[REFUSED], counts[_VIOLATION]
        print(
            f"{name:<12}{columns[0]:>9,}{columns[1]:>10,}{columns[2]:>9,}{columns[3]:>12,}",
            flush=True,
        )
        found += counts[_VIOLATION]
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
