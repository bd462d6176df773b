"""The default tests with the oldest and the newest versions that setup.py allows.

  python -m tests.versions                # both, some twenty minutes each
  python -m tests.versions oldest
  python -m tests.versions newest --python=python3.13 tests/test_noise.py

The oldest are the lower bounds of setup.py, those of the tests' tools too; what they need in turn
is as new as they allow. Each set gets an environment of its own in a temporary folder. Other
arguments go to pytest. The exit code says whether all tests passed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}  # in uv's words
TOLD = (
    *("jax", "flax", "optax", "tensorflow-datasets"),
    *("orbax-checkpoint", "numpy", "scipy", "pyarrow"),
)
SHARED = (  # as in the Makefile
    *("--numprocesses=auto", "--maxprocesses=4"),
    *("--dist=loadfile", "--no-loadscope-reorder"),
)


def uv(*arguments):
    """Runs uv; what it prints."""
    command = [sys.executable, "-m", "uv", *arguments]
    return subprocess.run(command, cwd=CLONE, stdout=subprocess.PIPE, text=True, check=True).stdout


def passed(which, python, arguments, folder):
    """Installs a set of versions into a folder, prints them and runs pytest; whether it passed."""
    own = f"--python={folder}"
    uv("venv", "--quiet", "--no-python-downloads", f"--python={python}", folder)
    uv("pip", "install", "--quiet", own, f"--resolution={RESOLUTIONS[which]}",
       "--editable", ".[test]")  # fmt: skip
    versions = {
        package["name"]: package["version"]
        for package in json.loads(uv("pip", "list", "--quiet", own, "--format=json"))
    }
    told = ", ".join(f"{name} {versions[name]}" for name in TOLD)
    interpreter = folder / "bin" / "python"
    number = subprocess.run([interpreter, "--version"], capture_output=True, text=True, check=True)
    print(f"{which}: {number.stdout.strip()}, {told}", flush=True)
    start = time.monotonic()
    tests = [interpreter, "-m", "pytest", *SHARED, *arguments]
    done = subprocess.run(tests, cwd=CLONE, check=False)
    outcome = "FAILED" if done.returncode else "passed"
    print(f"{which}: {outcome} after {time.monotonic() - start:.0f} s", flush=True)
    return not done.returncode


def main():
    """Tests the sets that the command line names; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions")
    parser.add_argument("set", nargs="?", choices=RESOLUTIONS, help="both by default")
    parser.add_argument("--python", default=sys.executable, help="another interpreter")
    given, arguments = parser.parse_known_args()
    outcomes = []
    for which in [given.set] if given.set else RESOLUTIONS:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(passed(which, given.python, arguments, Path(folder) / which))
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
