import json
import subprocess
import sys

import pytest

from configs import scaling as scaling_config
from dpfinjax.errors import InputError
from launch import scaling
from tests.launch.test_app import CLONE


def make_config():
    config = scaling_config.get_config("quick")
    config.windows, config.in_memory, config.steps = (600,), 600, 3
    config.train.model.update(variant="gaf_cnn", widths=(4, 4), hidden=(8,))
    config.train.update(batch_size=16, clip_method="none", noise_multiplier=None, learning_rate=0.1)
    config.train.data.fractions = (0.4, 0.1, 0.2, 0.1, 0.1)
    return config


@pytest.fixture
def in_this_process(monkeypatch):
    done = []

    def run(job, config, windows, steps):
        done.append((job, windows))
        return job(config, windows, steps)

    monkeypatch.setattr(scaling, "_alone", run)
    return done


@pytest.mark.long
def test_every_figure_is_measured_once_and_an_interrupted_run_goes_on(tmp_path, in_this_process):
    rows = scaling.measure(make_config(), tmp_path)
    prepared, streamed, in_memory = rows
    assert [(row.job, row.asked) for row in rows] == [
        (scaling.PREPARED, 600),
        (scaling.STREAMED, 600),
        (scaling.IN_MEMORY, 600),
    ]
    for row in rows:
        assert row.peak_mib >= row.start_mib > 10
        assert row.seconds > 0
        assert row.bars == 140 * row.asked
        assert 0.5 * row.asked < row.windows < 1.5 * row.asked
    assert prepared.disk_mib > 0.1
    assert in_memory.device_mib > 0.4 * in_memory.windows * 1600 / 2**20
    assert 0 < streamed.device_mib < in_memory.device_mib
    assert not any((tmp_path / "cache").iterdir())
    assert (tmp_path / "plots" / "scaling.png").stat().st_size > 10_000

    content = json.loads((tmp_path / "scaling.json").read_text())
    del content["rows"][0]
    (tmp_path / "scaling.json").write_text(json.dumps(content))
    again = scaling.measure(make_config(), tmp_path)
    assert len(in_this_process) == 4
    assert again[:2] == rows[1:]


def test_sizes_that_cannot_be_are_refused(tmp_path):
    for name, value in (("windows", ()), ("windows", (0,)), ("steps", 0), ("bars_per_window", 0)):
        config = make_config()
        config[name] = value
        with pytest.raises(InputError, match=f"config.{name} is "):
            scaling.measure(config, tmp_path)


def test_the_peak_is_that_of_the_process():
    code = """
import numpy as np
from launch import scaling
before = scaling._peak_mib()
np.ones(200 * 2**17)
print(before, scaling._peak_mib())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CLONE, capture_output=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before + 190 < after < before + 250
