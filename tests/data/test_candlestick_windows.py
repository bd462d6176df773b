"""Datasets of windows hold what datasets of images hold."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from dpfinjax import data
from dpfinjax.data import candlestick_windows, loading, patterns, simulate
from dpfinjax.errors import InputError
from tests.data.test_loading import write_csv

BARS = 120_000


def configured(cache, **changes) -> ConfigDict:
    config = ConfigDict({"data": data.default_config(), "privacy": {"unit": "window"}})
    config.privacy.unit = changes.pop("unit", "window")
    config.data.update(sim_bars=BARS, cache_dir=str(cache), **changes)
    return config


@pytest.fixture
def large(monkeypatch):
    """Makes every source one that is kept as windows, in several files a split."""
    monkeypatch.setattr(candlestick_windows, "_SHARD_EXAMPLES", 64)

    def switch():
        monkeypatch.setattr(loading, "_LARGE_SPLIT_BYTES", 0)
        monkeypatch.setattr(loading, "_LARGE_FILES_BYTES", 0)

    return switch


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        for values, others in zip(one, other, strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)


def both(config, large):
    """Splits and facts from the images, then from the windows."""
    name, images = data.name(config), (data.load(config), data.describe(config))
    large()
    assert data.name(config) == name
    return images, (data.load(config), data.describe(config))


@pytest.mark.parametrize(
    ("split", "unit"), [("random", "window"), ("chronological", "day"), ("random", "week")]
)
def test_windows_kept_without_images_give_the_same_examples(tmp_path, large, split, unit):
    fractions = (0.4, 0.1, 0.2, 0.1, 0.1)
    config = configured(tmp_path, split=split, unit=unit, fractions=fractions)
    (images, facts), (windows, same_facts) = both(config, large)
    assert_same(images, windows)
    assert same_facts._replace(folder=facts.folder) == facts
    assert "candlestick_windows" in same_facts.folder
    # Several files of the training split, the last of which is not full.
    assert len(windows.train.label) > 64
    assert len(windows.train.label) % 64


def test_files_of_bars_give_the_same_examples(tmp_path, large):
    source = tmp_path / "bars.csv"
    write_csv(source, simulate.bars(BARS // 2, 3))
    config = configured(tmp_path, source=str(source), fractions=(0.4, 0.1, 0.2, 0.1, 0.1))
    (images, _), (windows, _) = both(config, large)
    assert_same(images, windows)


def test_rows_on_disk_are_the_rows_in_memory(tmp_path, large):
    config = configured(tmp_path)
    whole, stored = data.load(config), data.stored(config)
    large()
    rows = np.random.default_rng(0).permutation(len(whole.train.label))[:50]
    for split in (stored.train, data.stored(config).train):
        assert len(split) == len(whole.train.label)
        image, label = split.images(rows)
        np.testing.assert_array_equal(image, whole.train.image[rows])
        np.testing.assert_array_equal(label, whole.train.label[rows])
        assert split.images([])[0].shape == (0, 10, 10, 4)


def test_anybody_can_open_the_dataset_with_tfds_alone(tmp_path, large):
    large()
    config = configured(tmp_path)
    train = data.load(config).train
    opened = tfds.builder_from_directory(data.describe(config).folder)
    assert opened.info.features["label"].names == list(patterns.PATTERNS)
    source = opened.as_data_source("train")
    assert len(source) == len(train.label)
    np.testing.assert_array_equal(source[len(source) - 1]["ohlc"], train.ohlc[-1])


def files(folder, split):
    return sorted(folder.glob(f"*-{split}.array_record-*"))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_files_that_are_damaged_are_made_again(tmp_path, large, damage):
    large()
    config = configured(tmp_path)
    whole = data.load(config)
    folder = data.describe(config).folder
    *_, last = files(tmp_path / folder, "train")
    content = last.read_bytes()
    last.unlink()
    if damage == "cut":
        last.write_bytes(content[: len(content) // 2])
    np.testing.assert_array_equal(
        data.stored(config).train.images(range(len(whole.train.label)))[1], whole.train.label
    )


def test_a_record_that_turns_out_damaged_is_told_in_one_sentence(tmp_path, large):
    large()
    config = configured(tmp_path)
    stored = data.stored(config)
    first, *_ = files(tmp_path / data.describe(config).folder, "train")
    content = bytearray(first.read_bytes())
    content[200:600] = bytes(400)
    first.write_bytes(content)
    with pytest.raises(InputError, match="damaged; delete that folder"):
        stored.train.images(range(len(stored.train)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sim_bars": 100}, "has no window of 10 bars"),
        ({"sim_bars": 3000}, "has too few bars"),
        ({"sim_bars": 12_000, "fractions": (0.2, 0.2, 0.2, 0.2, 0.2)}, "of the pattern"),
    ],
)
def test_too_few_bars_are_refused(tmp_path, large, changes, sentence):
    large()
    config = configured(tmp_path)
    config.data.update(changes)
    with pytest.raises(InputError, match=sentence):
        data.load(config)


def test_files_divided_by_a_column_are_refused_where_they_are_too_large(tmp_path, large):
    large()
    source = tmp_path / "bars.csv"
    write_csv(source, simulate.bars(2000, 3))
    lines = source.read_text().splitlines()
    named = [f"{line},{'client' if row == 0 else row % 2}" for row, line in enumerate(lines)]
    source.write_text("\n".join(named))
    with pytest.raises(InputError, match="not divided by a column"):
        data.load(configured(tmp_path, source=str(source), unit="client"))
