"""A split on disk, opened by another process than the one that prepared it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from dpfinjax import data
from dpfinjax.errors import InputError


def folder_of(cache, seed=0):
    """Where a small data set is prepared, and its config."""
    config = ConfigDict({"data": data.default_config()})
    config.data.update(sim_bars=120_000, cache_dir=cache, seed=seed)
    return Path(data.describe(config).folder), config


@pytest.fixture
def place(tmp_path, cache):
    """A training split in a copy of a data set, which a test may damage."""
    folder, config = folder_of(cache)
    shutil.copytree(folder, tmp_path / folder.relative_to(cache))
    config.data.cache_dir = str(tmp_path)
    return data.stored(config).train.place


def test_another_process_opens_the_same_examples(place, cache):
    again, first = data.opened(place), data.stored(folder_of(cache)[1]).train
    assert again.place == place
    assert again.place.digest == first.place.digest
    for one, two in zip(again.images([3, 1]), first.images([3, 1]), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("change", ["no folder", "no description", "empty", "a file", "cut"])
def test_what_is_no_prepared_data_set_is_refused_in_one_sentence(place, change):
    folder = Path(place.folder)
    if change == "cut":
        file = next(folder.glob("*-train.array_record-*"))
        file.write_bytes(file.read_bytes()[:1000])
    elif change in ("no description", "empty"):
        (folder / "dataset_info.json").write_text("")
        if change == "no description":
            (folder / "dataset_info.json").unlink()
    else:
        shutil.rmtree(folder)
        if change == "a file":
            folder.write_text("")
    with pytest.raises(
        InputError, match=r"prepared data.*needs the data of process 0 there"
    ) as told:
        data.opened(place)
    assert place.folder in str(told.value)


@pytest.mark.parametrize("where", ["another market", "another split of it"])
def test_another_data_set_is_refused(place, cache, where):
    if where == "another market":
        shutil.rmtree(place.folder)
        shutil.copytree(folder_of(cache, seed=1)[0], place.folder)
    else:
        info = Path(place.folder) / "dataset_info.json"
        text = info.read_text()
        assert '"numBytes"' in text
        info.write_text(text.replace('"numBytes": "', '"numBytes": "1', 1))
    with pytest.raises(InputError, match="are others; each process"):
        data.opened(place)
