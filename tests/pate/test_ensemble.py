"""Teachers see disjoint parts, and students see nothing but public images and votes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpfinjax import training
from dpfinjax.errors import InputError
from dpfinjax.pate import ensemble
from dpfinjax.training import Membership
from tests.test_training import SMALL, SPEC, assert_trees_close, make_data, make_hparams

KEY = jax.random.key(3)
PLAIN = dataclasses.replace(SPEC, clip_method="none", steps=6, epoch_steps=2)


def examples(n, seed=0):
    data = make_data(n, seed)
    return np.asarray(data.inputs), np.asarray(data.targets)


@given(seed=st.integers(0, 2**32 - 1), removed=st.integers(0, 39), teachers=st.integers(1, 3))
def test_removing_an_example_moves_no_other_one(seed, removed, teachers):
    images, labels = examples(40)
    whole = ensemble.assign(images, labels, teachers, seed)
    without = ensemble.assign(
        np.delete(images, removed, 0), np.delete(labels, removed), teachers, seed
    )
    np.testing.assert_array_equal(without, np.delete(whole, removed))


def test_the_seed_and_the_label_have_a_say():
    images, labels = examples(200)
    chosen = ensemble.assign(images, labels, 2, 0)
    assert 60 < chosen.sum() < 140
    assert (chosen != ensemble.assign(images, labels, 2, 1)).any()
    assert (chosen != ensemble.assign(images, (labels + 1) % 8, 2, 0)).any()


@given(st.lists(st.integers(0, 4), min_size=5, max_size=60))
def test_parts_are_disjoint_and_leave_nobody_out(chosen):
    chosen = np.array([*range(5), *chosen])
    parts = ensemble.parts(chosen, 5)
    seen = [rows[:size] for rows, size in zip(*map(np.asarray, parts), strict=True)]
    assert sorted(np.concatenate(seen)) == list(range(len(chosen)))
    for teacher, rows in enumerate(seen):
        assert (chosen[rows] == teacher).all()


@pytest.mark.parametrize("teachers", [0, 41])
def test_more_teachers_than_examples_are_refused(teachers):
    with pytest.raises(InputError, match=rf"config.teachers is {teachers}.* 40"):
        ensemble.assign(*examples(40), teachers, 0)


def test_a_teacher_without_an_example_has_an_empty_part():
    sizes = np.asarray(ensemble.parts(ensemble.assign(*examples(40), 40, 0), 40).size)
    assert sizes.min() == 0
    assert sizes.sum() == 40


def test_batches_of_small_parts_are_the_whole_part():
    rates = ensemble.rates(make_hparams(batch_size=16.0), jnp.array([8, 16, 64, 0]))
    np.testing.assert_allclose(rates.sample_rate, [1, 1, 0.25, 1])
    np.testing.assert_allclose(rates.batch_size, [8, 16, 16, 1])
    np.testing.assert_array_equal(rates.learning_rate, np.ones(4))


def trained(folder, at_once, membership, data):
    hparams = make_hparams(0.3)
    return ensemble.train_many(KEY, hparams, membership, data, PLAIN, folder, at_once, "models")


def test_models_are_those_that_fit_trains_alone_whatever_the_chunks(tmp_path):
    data = make_data()
    membership = ensemble.parts(ensemble.assign(*examples(64), 3, 0), 3)
    together = trained(tmp_path / "a", 3, membership, data).state.result
    chunked = trained(tmp_path / "b", 2, membership, data).state.result
    assert_trees_close(chunked, together, rtol=1e-3)
    hparams = ensemble.rates(make_hparams(0.3), membership.size)
    for i in range(3):
        mine = jax.tree.map(lambda x: x[i], (hparams, membership))  # noqa: B023
        params, _ = training.fit(jax.random.fold_in(KEY, i), *mine, data, PLAIN)
        assert_trees_close(jax.tree.map(lambda x: x[i], together), params, rtol=1e-3)  # noqa: B023


def test_what_was_asked_is_read_and_not_asked_again(tmp_path):
    data, queries = make_data(), make_data(10, 1)
    membership = ensemble.parts(ensemble.assign(*examples(64), 3, 0), 3)
    arguments = (KEY, make_hparams(0.3), membership, data, queries, data, PLAIN, tmp_path, 3)
    first = ensemble.ask(*arguments)
    assert first.answers.shape == (3, 10)
    assert not (tmp_path / "unfinished").exists()
    assert first.seconds > 0
    poisoned = data._replace(inputs=-data.inputs)
    again = ensemble.ask(*arguments[:3], poisoned, *arguments[4:])
    np.testing.assert_array_equal(again.answers, first.answers)
    assert again.seconds == first.seconds


def test_one_more_example_changes_the_votes_of_one_teacher_alone(tmp_path):
    images, labels = examples(64)
    poison = np.full((1, 10, 10, 4), 30.0, np.float32)
    answers = []
    for name, more in (("without", 0), ("with", 1)):
        x = np.concatenate([images, poison[:more]])
        y = np.concatenate([labels, np.zeros(more, np.int32)])
        membership = ensemble.parts(ensemble.assign(x, y, 4, 0), 4)
        data = training.Data(jnp.asarray(x), jnp.asarray(y))
        found = ensemble.ask(
            KEY,
            make_hparams(0.3),
            membership,
            data,
            make_data(30, 1),
            data,
            PLAIN,
            tmp_path / name,
            4,
        )
        answers.append(found.answers)
    differs = (answers[0] != answers[1]).any(axis=1)
    assert differs.sum() == 1


def test_a_student_keeps_what_it_was_told_and_guesses_the_rest():
    data = make_data(20)
    told = Membership(jnp.array([[1, 3, 0], [11, 0, 0]]), jnp.array([2, 1]))
    asked = Membership(jnp.array([[1, 2, 3], [11, 12, 13]]), jnp.array([3, 3]))
    params = jax.vmap(lambda key: SMALL.init(key, data.inputs[:1])["params"])(
        jax.random.split(KEY, 2)
    )
    guessed, seen = ensemble.pseudo_labelled(params, data, told, asked, SMALL)
    assert seen is asked
    np.testing.assert_array_equal(guessed.inputs, data.inputs)
    before, after = np.asarray(data.targets), np.asarray(guessed.targets)
    for rows, which in (([2], 0), ([12, 13], 1)):
        mine = jax.tree.map(lambda x: x[which], params)  # noqa: B023
        own = training.evaluate(mine, data, SMALL).logits.argmax(axis=-1)
        np.testing.assert_array_equal(after[rows], np.asarray(own)[rows])
    untouched = np.setdiff1d(np.arange(20), [2, 12, 13])
    np.testing.assert_array_equal(after[untouched], before[untouched])
