"""The PATE job from bars to students, small."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import pate as pate_config
from dpfinjax import data, release, resumable, workdir
from dpfinjax.data import Examples
from dpfinjax.errors import InputError
from dpfinjax.pate import plan, students
from launch import pate as job
from tests.test_privacy import PROMISED
from tests.test_training import assert_trees_equal

STATED = PROMISED | {
    "released_by_smooth_sensitivity",
    "mechanism",
    "teachers",
    "queries",
    "answers",
    "scale",
    "threshold",
    "threshold_scale",
}
CELLS = (
    {"mechanism": "gaussian", "target_epsilon": None, "scale": 1.0},
    {"mechanism": "laplace", "target_epsilon": None, "scale": 1.0},
    {"teachers": 2, "threshold": 1.0},
)


def make_config(cache, **changes):
    config = pate_config.get_config("quick")
    config.data.update(sim_bars=120_000, cache_dir=cache)
    config.update(seed=0, teachers=4, threshold=2.0, answers=20, cells=CELLS)
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
        found = sorted(p.name for p in (folder / row["model"]).iterdir())
        assert found == ["checkpoints", "release"]
        place = folder / job.PRIVATE / row["model"]
        for picture in ("agreement", "epsilon"):
            assert (place / "plots" / f"{picture}.png").stat().st_size > 10_000
    assert (folder / "plots" / "accuracy_by_epsilon.png").exists()
    assert (folder / "results.csv").read_text().count("\n") == 4


def test_a_release_tells_nothing_of_the_votes(run):
    folder, rows = run
    assert len(list(folder.rglob("release"))) == len(rows)
    for row in rows:
        place = folder / row["model"] / "release"
        stated = json.loads((place / "privacy.json").read_text())
        assert set(stated) == STATED
        assert stated["epsilon"] == row["epsilon"]  # none of these was made from votes
        card = (place / "MODEL_CARD.md").read_text()
        assert "None is stated" in card
        private = [f"{row['label_accuracy']:.4g}", "recognised", "data-dependent"]
        private += [f"{100 * row[f'{split}_accuracy']:.1f} %" for split in ("train", "test")]
        for file in place.iterdir():
            content = file.read_bytes().decode("latin-1")
            assert [word for word in private if word in content] == []
        assert f" {row['answered']} answers" not in card
        model = release.read(place)
        assert model.module.hidden == (8,)


def test_an_epsilon_made_from_votes_is_in_no_release(cache):
    config = make_config(cache, cells=(CELLS[0] | {"release": True},))
    facts = data.describe(config)
    (cell,) = students.students_of(config, facts)
    votes = np.zeros((cell.plan.queries, 8), np.int32)
    votes[:, 3] = 4
    divided = votes.copy()
    divided[:, 3:5] = 2
    claim = plan.state(jax.random.key(0), cell.config, votes, cell.plan, facts)
    assert claim.released
    shared = claim.shareable()
    other = plan.state(jax.random.key(1), cell.config, divided, cell.plan, facts)
    assert claim != other
    assert json.dumps(shared.to_json()) == json.dumps(other.shareable().to_json())
    assert shared.epsilon == float(plan.curve(votes, cell.plan, False)[-1]) != claim.epsilon
    assert len(claim.assumptions) == len(shared.assumptions) + 1
    assert "data-dependent" in claim.sentence()
    assert "data-dependent" not in shared.sentence()


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
        shutil.copytree(answers, tmp_path / job.PRIVATE / answers.name)
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
