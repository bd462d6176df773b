"""The comparison of a simulated with a real market, end to end."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from configs import simulate as simulate_config
from dpfinjax.data import simulate, stylised_facts
from dpfinjax.errors import InputError
from launch.simulate import compare

DATA = Path(os.environ.get("DPFINJAX_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = DATA / "ethusd_1m.csv.gz"


def _write(path: Path, rows: int) -> None:
    """Writes a small market that was made, not observed."""
    made = simulate.bars(rows, seed=9)
    lines = ["timestamp,open,high,low,close,volume"]
    for time, *values in zip(*made, strict=True):
        lines.append(
            f"{np.datetime_as_string(time, 's')}Z," + ",".join(map(repr, map(float, values)))
        )
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def make_config(real, bars):
    config = simulate_config.get_config()
    config.update(real=str(real), bars=bars)
    return config


def test_a_file_is_compared_and_drawn(tmp_path):
    _write(tmp_path / "made.csv.gz", 5000)
    config = make_config(tmp_path / "made.csv.gz", 8000)
    real, simulated = compare(config, tmp_path / "run")
    assert (real.bars, simulated.bars) == (5000, 8000)
    assert real.kurtosis == stylised_facts.compute(simulate.bars(5000, seed=9)).kurtosis
    picture = tmp_path / "run" / "plots" / "simulator.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("real", "words"), [("absent.csv", r"absent\.csv"), ("", "config.real")])
def test_a_file_that_is_not_there_is_named_and_nothing_is_written(tmp_path, real, words):
    with pytest.raises(InputError, match=words):
        compare(make_config(real, 100), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_simulated_minutes_are_close_to_real_ones(tmp_path):
    real, simulated = compare(make_config(REAL, 1_000_000), tmp_path / "run")
    patterns = simulated.patterns_per_million / real.patterns_per_million
    assert np.all((patterns > 1 / 1.5) & (patterns < 1.5))
    assert simulated.tail_index == pytest.approx(real.tail_index, rel=0.2)
    assert 0.5 < simulated.kurtosis / real.kurtosis < 2
    np.testing.assert_allclose(simulated.autocorrelation, real.autocorrelation, atol=0.07)
    np.testing.assert_allclose(simulated.upper_tail, real.upper_tail, atol=0.1)
    np.testing.assert_allclose(simulated.lower_tail, real.lower_tail, atol=0.1)
    assert simulated.zero_body_share == pytest.approx(real.zero_body_share, rel=0.3)
    assert simulated.open_gap_share == pytest.approx(real.open_gap_share, rel=0.15)
