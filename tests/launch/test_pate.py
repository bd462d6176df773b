"""The PATE job from bars to students, small."""

import json

import jax
import numpy as np
import pytest

from configs import pate as pate_config
from dpfinjax import data, resumable, workdir
from dpfinjax.data import Examples
from dpfinjax.errors import InputError
from dpfinjax.pate import students
from launch import pate as job
from tests.test_training import assert_trees_equal

CELLS = (
    {"mechanism": "gaussian", "target_epsilon": None, "scale": 1.0},
    {"mechanism": "laplace", "target_epsilon": None, "scale": 1.0},
    {"teachers": 2, "threshold": 1.0},
)


def make_config(cache, **changes):
    config = pate_config.get_config("quick")
    config.data.update(sim_bars=120_000, cache_dir=cache)
    config.update(teachers=4, threshold=2.0, answers=20, cells=CELLS)
    for part in ("teacher", "student"):
        config[part].model.hidden = (8,)
        config[part].epochs = 3.0
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pate")
    return folder, job.train_and_vote(make_config(cache), folder)


def test_a_run_leaves_what_it_promises(run):
    folder, rows = run
    names = [row["model"] for row in rows]
    assert len(names) == 3
    claims = json.loads((folder / "privacy.json").read_text())
    assert list(claims) == names
    for row in rows:
        claim = claims[row["model"]]
        assert claim["epsilon"] == row["epsilon"] >= row["private_epsilon"]
        assert claim["unit"].startswith("one window")
        assert row["answered"] <= 20
        assert row["seconds"] > 0
        assert (folder / row["model"] / "checkpoints").is_dir()
        assert sorted(p.name for p in (folder / row["model"]).iterdir()) == ["checkpoints"]
        place = folder / job.PRIVATE / row["model"]
        for picture in ("agreement", "epsilon"):
            assert (place / "plots" / f"{picture}.png").stat().st_size > 10_000
    assert (folder / "plots" / "accuracy_by_epsilon.png").exists()
    assert (folder / "results.csv").read_text().count("\n") == 4


def test_teachers_are_trained_once_for_all_cells(run):
    folder, _ = run
    answers = {path.parent.name: np.load(path) for path in folder.rglob("answers.npy")}
    assert {name: len(a) for name, a in answers.items()} == {
        "teachers=4,seed=0": 4,
        "teachers=2,seed=0": 2,
    }


def test_nothing_of_train_reaches_a_student_but_votes(run, cache, tmp_path, monkeypatch):
    """With the votes kept and every private image replaced, students are the same bits."""
    folder, rows = run
    for answers in {path.parent for path in folder.rglob("answers.npy")}:
        place = tmp_path / job.PRIVATE / answers.name
        place.mkdir(parents=True)
        for name in ("answers", "accuracy"):
            workdir.write_npy(place / f"{name}.npy", np.load(answers / f"{name}.npy"))
    workdir.write_json(tmp_path / "config.json", json.loads((folder / "config.json").read_text()))
    load = data.load

    def poisoned(config):
        splits = load(config)
        train = splits.train
        return splits._replace(train=Examples(-train.image, *train[1:]))

    monkeypatch.setattr(data, "load", poisoned)
    again = job.train_and_vote(make_config(cache), tmp_path)
    assert [row["test_accuracy"] for row in again] == [row["test_accuracy"] for row in rows]
    public = data.load(make_config(cache)).public
    _, spec = students.student_settings(make_config(cache), len(public.label))
    like = resumable.init(jax.random.key(1), students.on_device(public), spec)
    for row in rows:
        first, second = (resumable.restore(p / row["model"], like) for p in (folder, tmp_path))
        assert_trees_equal(first, second)


def test_a_finished_run_says_the_same_again(run, cache):
    folder, rows = run
    before = (folder / "results.csv").read_text()
    again = job.train_and_vote(make_config(cache), folder)
    assert [row["test_accuracy"] for row in again] == [row["test_accuracy"] for row in rows]
    assert (folder / "results.csv").read_text() == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cells": (), "teachers": 10**6, "threshold": 1.0}, "config.teachers is 1000000"),
        ({"cells": (), "threshold": 5.0}, "threshold is 5.0; .* number of teachers, 4"),
        ({"cells": ({"semi_supervised": False}, {"scale": 1.0})}, "config.cells changes semi_sup"),
        ({"cells": ({"scale": -1.0},)}, "scale is -1.0; it must be positive"),
    ],
)
def test_mistakes_are_told_in_one_sentence_and_nothing_is_trained(
    changes, sentence, cache, tmp_path
):
    with pytest.raises(InputError, match=sentence):
        job.train_and_vote(make_config(cache, **changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_public_split_without_a_class_is_refused(cache):
    facts = data.describe(make_config(cache))
    lacking = facts.examples | {"public": facts.examples["public"] | {"evening star": 0}}
    with pytest.raises(InputError, match="public split has no example of evening star"):
        job._check_public(facts._replace(examples=lacking))
