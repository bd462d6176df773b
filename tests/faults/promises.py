"""What no fault may break: whole files, the epsilon that was spent, a sentence or the same bits."""

import csv
import io
import json
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from dpfinjax import sealed
from tests.faults.jobs import Job, Place, started
from tests.launch.test_dpsgd import final_state

_WAIT_S = 900
_NO_RESULTS = {"seconds", "command", "git_commit", "git_changed"}  # they differ without any fault
_LOGS = {"metrics.jsonl"}  # appended to, so its last line may be cut short


class Broken(AssertionError):
    """A promise that a fault broke."""


def ended(job: Job, place: Place, before: Sequence[str] = ()) -> str:
    """Runs a job to its end.

    Returns:
        "" where it succeeded, or its one sentence.

    Raises:
        Broken: It ended in any other way.
    """
    with started(job, place, before) as process:
        try:
            code = process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            raise Broken(f"not done after {_WAIT_S} s") from None
    said = (place.own / "stderr").read_text().replace("\r", "\n").splitlines()
    told = [line for line in said if line.startswith("error: ")]
    if any("Traceback" in line for line in said) or code not in (0, 2) or len(told) != (code == 2):
        raise Broken(f"exit code {code}:\n" + "\n".join(said[-30:]))
    return told[0] if told else ""


def check_whole(place: Place, undisturbed: Place, with_cache: bool = True) -> None:
    """Looks at every file under a final name, and at what is stated in it.

    Args:
        place: Of the run that a fault befell.
        undisturbed: Of the same run without it.
        with_cache: Whether to look at the prepared data too.

    Raises:
        Broken: One is not whole, or states a smaller epsilon than the undisturbed run's.
    """
    for folder in (place.run, place.cache) if with_cache else (place.run,):
        for path in _final(folder):
            try:
                _read(path)
            except Exception as error:
                raise Broken(f"{path} is not whole: {type(error).__name__}: {error}") from error
    for path in place.run.rglob("privacy.json"):
        spent = undisturbed.run / path.relative_to(place.run)
        if not spent.exists():
            raise Broken(f"{path} states a privacy that the undisturbed run does not")
        stated = _epsilons(json.loads(path.read_text()))
        whole = _epsilons(json.loads(spent.read_text()))
        for name, epsilon in stated.items():
            if not epsilon >= whole[name]:
                raise Broken(f"{path}: epsilon of {name} is {epsilon}; {whole[name]} was spent")


def check_same(place: Place, undisturbed: Place) -> None:
    """Compares a run's files with those of the undisturbed one.

    Raises:
        Broken: A file is missing or too many, or its content is another.
    """
    ours, theirs = (
        {path.relative_to(each.run): path for path in _final(each.run)}
        for each in (place, undisturbed)
    )
    if set(ours) != set(theirs):
        raise Broken(f"other files: {sorted(map(str, set(ours) ^ set(theirs)))}")
    for name, path in ours.items():
        found, expected = (
            _results(name, _read(each), root)
            for each, root in ((path, place.root), (theirs[name], undisturbed.root))
        )
        if not _equal(found, expected):
            raise Broken(f"{name} is not that of the undisturbed run")
    for folder in (found.parent for found in undisturbed.run.rglob("checkpoints")):
        name = folder.relative_to(undisturbed.run)
        if not _equal(final_state(place.run / name), final_state(folder)):
            raise Broken(f"the parameters of {name} are not those of the undisturbed run")


def _final(folder: Path) -> list[Path]:
    """The files under final names: none that is hidden, unfinished, or another library's own."""
    unfinished = ("incomplete", "orbax-checkpoint-tmp")
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        own = not any(part in ("checkpoints", "tensorboard") for part in parts)
        named = not any(
            part.startswith(".") or any(u in part for u in unfinished) for part in parts
        )
        if own and named and path.is_file():
            found.append(path)
    return found


def _read(path: Path):
    """A file's content; raises anything where it is not whole."""
    content = path.read_bytes()
    match path.suffix:
        case ".json":
            return json.loads(content)
        case ".jsonl":
            return [json.loads(line) for line in content.decode().split("\n")[:-1]]
        case ".csv":
            assert content.endswith(b"\n"), "no end of line"
            rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
            assert all(None not in row and None not in row.values() for row in rows), "cells lack"
            return rows
        case ".npy":
            return np.load(path, allow_pickle=False)
        case ".npz":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None, "a wrong checksum"
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        case ".png":
            assert content.endswith(b"IEND\xaeB`\x82"), "no end"
            return content
        case ".html":
            assert content.rstrip().endswith(b"</html>"), "no end"
            return None  # it tells seconds; its numbers are those of results.csv
        case _:
            assert content, "empty"
            return content


def _results(name: Path, content, root: Path):
    """A file's content without what differs from run to run."""
    if name.name == "config.json":
        content = {"config": content["config"], "bound": content["bound"]}
    if name.name == sealed.SEAL:
        return None  # of files that are compared, some of them with seconds
    if name.suffix == ".png":
        return None  # drawn from numbers that are compared, some of them seconds
    if isinstance(content, dict | list):
        text = json.dumps(_without(content), default=lambda array: array.tobytes().hex())
        return text.replace(str(root), "")
    return content


def _without(content):
    """JSON values without `_NO_RESULTS`."""
    if isinstance(content, dict):
        return {key: _without(each) for key, each in content.items() if key not in _NO_RESULTS}
    return [_without(each) for each in content] if isinstance(content, list) else content


def _equal(ours, theirs) -> bool:
    """Whether two trees have the same bits."""
    x, y = (jax.tree.leaves_with_path(tree) for tree in (ours, theirs))
    return len(x) == len(y) and all(
        a == b and np.asarray(v).tobytes() == np.asarray(w).tobytes()
        for (a, v), (b, w) in zip(x, y, strict=True)
    )


def _epsilons(content) -> dict[str, float]:
    """The epsilon of each model that a privacy.json states."""
    claims = content if "epsilon" not in content else {"": content}
    return {name: float(claim["epsilon"]) for name, claim in claims.items()}
