"""New bars labelled from the command line: every row right, or one sentence."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from configs import predict as predict_config
from dpfinjax import inference, models, privacy, release
from dpfinjax.data import bars, simulate
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from launch import predict
from tests.launch.test_app import assert_refused, launch

CLAIM = privacy.Statement(1.0, 1e-5, 1.0, 1.0, 0.1, 9, 9, 90, 0.0, "one window", "", "pld", ())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a released model and bars."""
    folder = tmp_path_factory.mktemp("predict")
    module = models.build("gaf_series", hidden=(4,))
    params = module.init(jax.random.key(0), jnp.zeros((1, 10, 10, 4)))["params"]
    release.write(folder, "m", release.Model(module, params, PATTERNS, 10), CLAIM, "")
    pyarrow.csv.write_csv(pa.table(simulate.bars(3_000, 1)._asdict()), folder / "bars.csv")
    return folder


def make_config(place, **changes):
    config = predict_config.get_config()
    config.update(model=str(place / "release"), bars=str(place / "bars.csv"), **changes)
    return config


def test_each_window_has_a_row_with_its_time_pattern_and_probabilities(place, tmp_path):
    windows = predict.predict(make_config(place), tmp_path / "new")
    with open(tmp_path / "new" / "predictions.csv") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["time", "pattern", *PATTERNS]
    chunks = list(inference.answer(release.read(place / "release"), bars.read(place / "bars.csv")))
    time, expected = (np.concatenate(column) for column in zip(*chunks, strict=True))
    assert len(rows) == windows == len(time) > 1_000
    np.testing.assert_array_equal(np.array([row[0] for row in rows], "datetime64[us]"), time)
    np.testing.assert_array_equal(np.array([row[2:] for row in rows], np.float32), expected)
    assert [row[1] for row in rows] == [PATTERNS[best] for best in expected.argmax(-1)]


def test_parquet_says_the_same_and_a_stride_takes_fewer(place, tmp_path, monkeypatch):
    predict.predict(make_config(place, stride=10), tmp_path)
    monkeypatch.setattr(inference, "_PIXELS", 100 * 50)  # several tables, one after another
    name = str(tmp_path / "labels.parquet")
    windows = predict.predict(make_config(place, stride=10, output=name), tmp_path)
    text = pyarrow.csv.read_csv(tmp_path / "predictions.csv")
    table = pyarrow.parquet.read_table(name)
    assert 100 < table.num_rows == text.num_rows == windows < 300
    assert table.column_names == text.column_names
    assert table["pattern"].to_pylist() == text["pattern"].to_pylist()
    for pattern in PATTERNS:
        np.testing.assert_allclose(table[pattern], text[pattern], atol=1e-6)


def test_a_file_is_whole_or_absent(place, tmp_path, monkeypatch):
    predict.predict(make_config(place), tmp_path)
    before = (tmp_path / "predictions.csv").read_bytes()
    answer = inference.answer

    def interrupted(*arguments):
        yield next(answer(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "_PIXELS", 100 * 50)  # so that the first chunk is not all
    monkeypatch.setattr(inference, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(make_config(place), tmp_path)
    assert (tmp_path / "predictions.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, "--model is missing"),
        ({"bars": ""}, "--bars is missing"),
        ({"stride": 0}, "--stride is 0"),
        ({"output": "labels.xlsx"}, "must end in .csv or .parquet"),
        ({"model": "nowhere"}, "parameters.npz is missing"),
        ({"bars": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(place, tmp_path, changes, words):
    config = make_config(place)
    config.update(changes)
    with pytest.raises(InputError, match=words):
        predict.predict(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_bars_and_an_output_over_the_bars_are_refused(place, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("".join((place / "bars.csv").read_text().splitlines(keepends=True)[:9]))
    config = make_config(place, output=str(tmp_path / "few.csv"))
    config.bars = str(few)
    with pytest.raises(InputError, match="is the file of --bars"):
        predict.predict(config, tmp_path)
    config.output = ""
    with pytest.raises(InputError, match="no 10 bars"):
        predict.predict(config, tmp_path)
    config = make_config(place, output=str(few / "out.csv"))
    with pytest.raises(InputError, match="cannot be written"):
        predict.predict(config, tmp_path)
    assert list(tmp_path.iterdir()) == [few]


def test_the_command_has_flags_of_its_own(place, tmp_path):
    flags = [f"--model={place}/release", f"--bars={place}/bars.csv", "--stride=10"]
    done = launch(*flags, f"--output={tmp_path}/labels.csv", job="predict")
    assert done.returncode == 0, done.stderr
    assert "windows labelled at" in done.stdout
    assert (tmp_path / "labels.csv").exists()
    assert_refused(launch(f"--bars={place}/bars.csv", job="predict"), "--model is missing")
