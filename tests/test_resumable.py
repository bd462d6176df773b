"""A training that is cut off and called again ends with the same bits."""

import dataclasses
import resource

import jax
import numpy as np
import pytest

from dpfinjax import resumable, training
from dpfinjax.errors import InputError
from tests.test_training import (
    SPEC,
    assert_trees_close,
    assert_trees_equal,
    make_data,
    make_hparams,
)

KEY = jax.random.key(11)


class Killed(Exception):
    """Stands for the process ending."""


def run(folder, spec=SPEC, kill_at=None, checkpoint_epochs=1, hparams=None, stop_when_lost=True):
    """Trains; returns the state and the epochs that were reported."""
    data, seen = make_data(), []

    def on_epoch(epoch, state, history):
        seen.append(epoch)
        if epoch == kill_at:
            raise Killed

    everyone = training.everything(data)
    arguments = (KEY, hparams or make_hparams(), everyone, data, spec, folder, on_epoch)
    return resumable.fit(*arguments, checkpoint_epochs, stop_when_lost), seen


@pytest.mark.parametrize("most", [64, 400])  # bytes of a file: refused to Orbax, to TensorStore
def test_a_disk_that_takes_no_more_is_told_by_the_error_alone(tmp_path, caplog, most):
    state, _ = run(tmp_path / "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises((OSError, ValueError), match="File too large"):
            resumable.save(tmp_path / "full", 3, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not caplog.text


def test_it_trains_as_fit_does(tmp_path):
    data = make_data()
    expected, _ = jax.jit(training.fit, static_argnames="spec")(
        KEY, make_hparams(), training.everything(data), data, SPEC
    )
    state, seen = run(tmp_path)
    assert_trees_close(state.result, expected, rtol=1e-5, atol=1e-6)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("checkpoint_epochs", [1, 2])
@pytest.mark.parametrize("kill_at", [1, 2, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"momentum": 0.9, "ema_decay": 0.9}, {"optimizer": "adam"}]
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, kill_at, checkpoint_epochs, changes):
    spec = dataclasses.replace(SPEC, **changes)
    undisturbed, _ = run(tmp_path / "a", spec)
    with pytest.raises(Killed):
        run(tmp_path / "b", spec, kill_at, checkpoint_epochs)
    saved = (kill_at - 1) // checkpoint_epochs * checkpoint_epochs
    assert resumable.finished_epochs(tmp_path / "b") == saved
    resumed, seen = run(tmp_path / "b", spec, checkpoint_epochs=checkpoint_epochs)
    assert seen == list(range(saved + 1, 4))
    assert_trees_equal(resumed, undisturbed)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, _ = run(tmp_path)
    again, seen = run(tmp_path)
    assert seen == []
    assert_trees_equal(again, first)


def test_a_whole_run_is_one_compilation(tmp_path):
    spec = dataclasses.replace(SPEC, steps=31, capacity=41)  # the last epoch is a short one
    before = resumable.train_epoch._cache_size()
    run(tmp_path / "a", spec)
    with pytest.raises(Killed):
        run(tmp_path / "b", spec, kill_at=2, hparams=make_hparams(0.1, 0.2, 3.0))
    run(tmp_path / "b", spec, hparams=make_hparams(0.1, 0.2, 3.0))
    assert resumable.train_epoch._cache_size() == before + 1


def test_a_loss_that_is_not_finite_stops_with_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"epoch \d of 3.*learning_rate"):
        run(tmp_path, dataclasses.replace(SPEC, clip_method="none"), hparams=make_hparams(np.inf))


def test_a_run_that_must_not_stop_goes_on_without_a_finite_loss(tmp_path):
    spec, hparams = dataclasses.replace(SPEC, clip_method="none"), make_hparams(np.inf)
    state, seen = run(tmp_path, spec, hparams=hparams, stop_when_lost=False)
    assert seen == [1, 2, 3]
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.result))


def test_the_state_is_donated(tmp_path):
    data = make_data()
    state = training.init(KEY, data, SPEC)
    everyone = training.everything(data)
    resumable.train_epoch(KEY, state, np.int32(0), make_hparams(), everyone, data, spec=SPEC)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
