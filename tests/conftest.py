"""What tests share: a small simulated market, prepared once a session."""

import os
from pathlib import Path

import hypothesis
import pytest
from matplotlib.figure import Figure

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The same examples in every run, on a slow machine too; `pytest --hypothesis-profile=default` looks
# for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder for prepared data sets that lasts for the session."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def empty_pictures():
    """Empty pictures of models and attacks: full ones take most of the time of small trainings."""
    from dpfinjax import plots

    def draw(path, *_, **__):
        plots.save(Figure(figsize=(1, 1)), path)

    with pytest.MonkeyPatch.context() as patch:
        for name in (
            *("training_curves", "confusion_matrix", "accuracy_per_pattern"),
            *("privacy_risk", "roc_curves", "exposed_windows", "audit_intervals"),
        ):
            patch.setattr(plots, name, draw)
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of real bars; skips where there is none."""
    clone = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("DPFINJAX_DATA", clone / ".." / "shared" / "data"))
    if not (folder / "ethusd_1m.csv.gz").exists():
        pytest.skip("no real bars; DPFINJAX_DATA names their folder")
    return folder.resolve()
