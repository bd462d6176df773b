"""The launchers' edges: one sentence and exit code 2 for every mistake, and help that helps."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from launch import app
from tests.fuzz import launchers

CLONE = Path(__file__).resolve().parent.parent.parent
CLOSED = RuntimeError("Event loop is closed")  # from TensorStore, after a refused checkpoint
OTHERS = (*(job for job in launchers.JOBS if job != "dpsgd"), "predict", "scaling")


def launch(*arguments, job="dpsgd", **options):
    """Runs a launcher in a process of its own."""
    command = [sys.executable, "-m", f"launch.{job}", *arguments]
    return subprocess.run(
        command, cwd=CLONE, capture_output=True, text=True, check=False, **options
    )


def assert_refused(done, words):
    """Exit code 2, one line on stderr, no traceback."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert words in lines[0]


def test_a_mistake_is_told_in_one_sentence(tmp_path):
    source = "--config.data.source=/no/such/bars.csv"
    assert_refused(launch(source, f"--workdir={tmp_path}/run"), "/no/such/bars.csv")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.colour=red", "no field 'colour'"),
        ("--speed=9", "speed"),
        ("--config.data.sauce=x", "no field 'sauce'"),
        ("--config=configs/dpsgd.py:huge", "has no variant 'huge'; it has quick, paper"),
        ("--config.foo.bar=1", "no field 'foo'"),
        ("--config.epochs=many", "config.epochs"),
        ("--config=configs/none.py", "does not name a config file"),
        ("quick", "is no flag"),
        ("--config.target_epsilon=0", "config.target_epsilon is 0"),
        ("--config.data.source=", "data.source"),
        ("--config.data.fractions=(0.9,0.9,0.1,0.1,0.1)", "data.fractions"),
    ],
)
def test_more_mistakes_are_told_in_one_sentence(tmp_path, flag, words):
    assert_refused(launchers.ended("dpsgd", flag, f"--workdir={tmp_path}/run"), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "job", ["dpsgd", *(pytest.param(job, marks=pytest.mark.long) for job in OTHERS)]
)
def test_help_shows_purpose_and_examples(job):
    done = launch("--help", job=job)
    assert done.returncode in (0, 1)  # absl's own choice
    assert f"python -m launch.{job}" in done.stdout
    assert "--config" in done.stdout
    assert "--workdir" in done.stdout


@pytest.mark.parametrize(("error", "times"), [(CLOSED, 0), (RuntimeError("another"), 1)])
def test_all_that_cannot_be_raised_is_told_but_a_refused_checkpoint_s_echo(
    monkeypatch, error, times
):
    told = []
    monkeypatch.setattr(sys, "__unraisablehook__", told.append)
    app._unraisable(types.SimpleNamespace(exc_value=error))
    assert len(told) == times
