import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from dpfinjax import data
from dpfinjax.data import candlestick_gaf, patterns, simulate
from dpfinjax.data.bars import Bars
from dpfinjax.data.candlestick_gaf import CandlestickGaf
from dpfinjax.errors import InputError
from tests.data.test_loading import write_csv

SETTINGS = {
    "kind": "sim",
    "paths": (),
    "sim_bars": 100_000,
    "seed": 0,
    "split": "random",
    "fractions": (0.5, 0.1, 0.2, 0.1, 0.1),
    "purge_bars": 0,
    "length": 10,
    "unit": "window",
}
CHANGES = {
    "sim_bars": 100_001,
    "seed": 1,
    "split": "chronological",
    "fractions": (0.5, 0.2, 0.1, 0.1, 0.1),
    "purge_bars": 1450,
    "length": 11,
    "unit": "day",
}


def configured(cache) -> ConfigDict:
    config = ConfigDict({"data": data.default_config()})
    config.data.sim_bars = SETTINGS["sim_bars"]
    config.data.fractions = SETTINGS["fractions"]
    config.data.cache_dir = str(cache)
    return config


def assert_same(first: data.Splits, second: data.Splits):
    for one, other in zip(first, second, strict=True):
        for values, others in zip(one, other, strict=True):
            np.testing.assert_array_equal(values, others)


def test_anybody_can_open_the_dataset_with_tfds_alone(tmp_path):
    splits = data.load(configured(tmp_path))
    folder = data.describe(configured(tmp_path)).folder
    opened = tfds.builder_from_directory(folder)
    assert opened.name == "candlestick_gaf"
    assert str(opened.version) == "1.1.0"
    assert opened.info.features["label"].names == list(patterns.PATTERNS)
    sources = opened.as_data_source()
    assert set(sources) == set(data.Splits._fields)
    for name, split in zip(splits._fields, splits, strict=True):
        rows = list(sources[name])
        for field, values in zip(split._fields, split, strict=True):
            stored = np.array([row[field] for row in rows])
            if field == "time":
                stored = stored.astype("datetime64[us]")
            np.testing.assert_array_equal(stored, values)
    assert "tensorflow" not in sys.modules


def test_building_shows_the_progress_of_every_split(tmp_path, capsys):
    data.load(configured(tmp_path))
    shown = capsys.readouterr().err
    for name in data.Splits._fields:
        assert f"Generating {name} examples" in shown


@pytest.mark.parametrize("setting", CHANGES)
def test_every_setting_changes_the_fingerprint(setting):
    before = candlestick_gaf.configure(**SETTINGS)
    assert before.name == candlestick_gaf.configure(**SETTINGS).name
    after = candlestick_gaf.configure(**SETTINGS | {setting: CHANGES[setting]})
    assert before.name != after.name


def test_every_setting_of_the_builder_is_in_the_test_above():
    own = candlestick_gaf.CandlestickGafConfig.__dataclass_fields__.keys()
    own -= tfds.core.BuilderConfig.__dataclass_fields__.keys()
    assert own - {"sha256", "kind", "paths"} == CHANGES.keys()


def test_content_changes_the_fingerprint_and_place_does_not(tmp_path):
    def name(folder: str, content: str) -> str:
        path = tmp_path / folder / "minutes.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return candlestick_gaf.configure(**SETTINGS | {"kind": "bars", "paths": (str(path),)}).name

    assert name("a", "1") == name("b", "1")
    assert name("a", "1") != name("a", "2")
    assert name("a", "1").startswith("minutes-")


def test_the_order_of_files_changes_the_fingerprint(tmp_path):
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path in paths:
        path.write_text(path.name)
    names = [
        candlestick_gaf.configure(**SETTINGS | {"kind": "bars", "paths": tuple(order)}).name
        for order in (map(str, paths), map(str, reversed(paths)))
    ]
    assert names[0].split("-")[1] != names[1].split("-")[1]


def test_changed_code_changes_the_fingerprint(tmp_path, monkeypatch):
    before = candlestick_gaf.configure(**SETTINGS).name
    edited = tmp_path / "patterns.py"
    edited.write_bytes(Path(patterns.__file__).read_bytes() + b"# edited\n")
    monkeypatch.setattr(patterns, "__file__", str(edited))
    assert candlestick_gaf.configure(**SETTINGS).name != before


def test_a_changed_file_is_read_anew_under_the_same_name(tmp_path):
    table, path = simulate.bars(100_000, 0), tmp_path / "bars.csv"
    config = configured(tmp_path)
    config.data.source = str(path)
    write_csv(path, table)
    first = data.load(config)
    write_csv(path, Bars(*(column[:90_000] for column in table)))
    second = data.load(config)
    assert sum(split.label.size for split in second) < sum(split.label.size for split in first)


def test_a_split_too_large_for_tfds_without_tensorflow_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(candlestick_gaf, "_SPLIT_BYTES", 2**17)
    with pytest.raises(InputError, match="has too many bars: the "):
        data.load(configured(tmp_path))


def test_a_build_that_ends_after_another_one_uses_its_result(tmp_path, monkeypatch):
    config = configured(tmp_path)
    make, results = candlestick_gaf._from_bars, []

    def overtaken(settings):
        monkeypatch.setattr(candlestick_gaf, "_from_bars", make)
        results.append(data.load(config))  # the other one begins later and ends first
        return make(settings)

    monkeypatch.setattr(candlestick_gaf, "_from_bars", overtaken)
    results.append(data.load(config))
    assert_same(*results)
    folders = list((tmp_path / CandlestickGaf.name).glob("*/*"))
    assert [folder.name for folder in folders] == ["1.1.0"]


SCRIPT = """
    import os, signal, sys
    from ml_collections import ConfigDict
    from dpfinjax import data
    from dpfinjax.data.candlestick_gaf import CandlestickGaf

    config = ConfigDict({"data": data.default_config()})
    config.data.sim_bars, config.data.fractions, config.data.cache_dir = %r, %r, %r
    generate = CandlestickGaf._generate_examples

    def cut_off(self, examples):
        for key, values in generate(self, examples):
            if key == 2 and examples.label.size < 100:  # not in the first split
                os.kill(os.getpid(), signal.SIGKILL)
            yield key, values

    if sys.argv[1:] == ["cut off"]:
        CandlestickGaf._generate_examples = cut_off
    data.load(config)
"""


def start(cache, *arguments) -> subprocess.Popen:
    script = textwrap.dedent(SCRIPT) % (SETTINGS["sim_bars"], SETTINGS["fractions"], str(cache))
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_a_killed_build_leaves_nothing_under_the_final_name(tmp_path):
    assert start(tmp_path, "cut off").wait(300) == -signal.SIGKILL
    left = list(tmp_path.glob("candlestick_gaf/*/*"))
    assert left, "the build was killed before it began to write"
    assert all(folder.name.startswith("incomplete.") for folder in left)
    assert data.load(configured(tmp_path)).train.label.size > 0


def test_two_processes_may_build_the_same_dataset_at_once(tmp_path):
    assert [process.wait(300) for process in [start(tmp_path), start(tmp_path)]] == [0, 0]
    [folder] = tmp_path.glob("candlestick_gaf/*/*")
    assert folder.name == "1.1.0"
    elsewhere = data.load(configured(tmp_path / "alone"))
    assert_same(data.load(configured(tmp_path)), elsewhere)
