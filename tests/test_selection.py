"""A private choice: runs drawn alike, each with its own noise, the whole within the target."""

import math

import jax
import numpy as np
import pytest

from configs import dpsgd
from dpfinjax import accounting, experiment, selection, settings, tuning
from dpfinjax.errors import InputError
from tests.test_results import ROW
from tests.test_settings import make_facts

CELLS = ({"learning_rate": 0.3}, {"batch_size": 256}, {"steps": 50})


def make_config(**changes):
    config = dpsgd.get_config()
    config.update(seed=0, cells=CELLS, batch_size=1024, epochs=20.0, target_epsilon=2.0)
    config.sweep.update(select="private", mean_runs=6.0)
    config.update(changes)
    return config


def numbers(selected):
    """Rates, noises and steps of the candidates."""
    statements = [run.plan.statement for run in selected.candidates]
    names = ("sample_rate", "noise_multiplier", "steps")
    return [[getattr(statement, name) for statement in statements] for name in names]


@pytest.mark.parametrize("shape", [1.0, math.inf])
def test_the_target_is_what_the_whole_choice_spends(shape):
    config = make_config()
    config.sweep.shape = shape
    selected = selection.plan(config, make_facts())
    statements = [run.plan.statement for run in selected.candidates]
    left = 1e-5 - statements[0].overflow_probability
    for run in selected.candidates:
        statement = run.plan.statement
        assert 0.9995 * 2 < statement.epsilon <= 2
        np.testing.assert_allclose(
            statement.epsilon, tuning.epsilon(*numbers(selected), left, 6.0, shape), rtol=1e-9
        )
        assert statement.tuning[1:] == (6.0, shape, 3)
        assert statement.accountant == "rdp"
        assert float(run.plan.hparams.noise_multiplier) == statement.noise_multiplier
        alone = accounting.epsilon(
            statement.sample_rate, statement.noise_multiplier, statement.steps, 1e-5
        )
        np.testing.assert_allclose(statement.tuning.epsilon_without_tuning, alone, rtol=1e-5)
        assert alone < 1.7
    assert {statement.batch_size for statement in statements} == {1024, 256}
    assert {statement.steps for statement in statements} == {117, 469, 50}


def test_overflow_is_stated_for_all_runs():
    selected = selection.plan(make_config(), make_facts())
    alone = [
        accounting.overflow_probability(6000, s.sample_rate, s.steps, run.plan.spec.capacity)
        for run in selected.candidates
        for s in [run.plan.statement]
    ]
    for run in selected.candidates:
        np.testing.assert_allclose(run.plan.statement.overflow_probability, 6 * max(alone))


def test_a_named_noise_is_kept_and_every_candidate_claims_what_all_need():
    cells = ({"noise_multiplier": 1.0}, {"noise_multiplier": 4.0})
    selected = selection.plan(make_config(cells=cells), make_facts())
    assert numbers(selected)[1] == [1.0, 4.0]
    first, second = (run.plan.statement for run in selected.candidates)
    assert first.epsilon == second.epsilon > first.tuning.epsilon_without_tuning
    assert first.tuning.epsilon_without_tuning > second.tuning.epsilon_without_tuning


def test_the_statement_says_what_a_choice_takes_for_granted():
    selected = selection.plan(make_config(), make_facts())
    for run in selected.candidates:
        sentences = run.plan.statement.assumptions
        assert settings.CHOSEN_UNSEEN not in sentences
        assert any("not how many there were" in sentence for sentence in sentences)
        assert any("validation split" in sentence for sentence in sentences)
    alone = settings.plan(dpsgd.get_config(), make_facts()).statement
    assert settings.CHOSEN_UNSEEN in alone.assumptions


def test_runs_of_one_candidate_have_keys_of_their_own():
    """Were two equal runs to share their noise, choosing one would not be what is paid for."""
    config = make_config()
    config.sweep.mean_runs = 30.0
    selected = selection.plan(config, make_facts())
    assert len(selected.picks) > len(set(selected.picks)) == len(CELLS)
    keys = [np.asarray(jax.random.key_data(experiment.key_of(run))) for run in selected.runs]
    assert len({key.tobytes() for key in keys}) == len(keys) == len(selected.picks)
    for run, pick in zip(selected.runs, selected.picks, strict=True):
        assert run.plan == selected.candidates[pick].plan


def test_draws_depend_on_the_seed_and_on_nothing_else():
    def drawn(seed):
        return selection.draw(make_config(seed=seed), make_facts(), 3)

    assert drawn(0) == drawn(0) == selection.plan(make_config(), make_facts()).picks
    draws = [drawn(seed) for seed in range(100)]
    # Poisson's mean and variance are 6, so the mean of 100 is within 4 x 0.245 of it.
    assert abs(np.mean([len(picks) for picks in draws]) - 6) < 0.98
    counts = np.bincount(np.concatenate(draws).astype(int), minlength=3)
    expected = counts.sum() / 3
    assert (abs(counts - expected) < 4 * math.sqrt(expected * 2 / 3)).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sweep": {"select": "best"}}, "sweep.select is 'best'; it must be none or private"),
        ({"sweep": {"mean_runs": 0.5}}, "sweep.mean_runs is 0.5; it must be 1 to 10000"),
        ({"sweep": {"mean_runs": math.nan}}, "sweep.mean_runs is nan"),
        ({"sweep": {"shape": -1.0}}, "sweep.shape is -1.0; it must be 0 to 10, or inf"),
        ({"sweep": {"score": "loss"}}, "sweep.score is 'loss'; it must be 'validation_accuracy'"),
        ({"cells": ()}, "config.cells has 0 candidates"),
        ({"cells": CELLS[:1]}, "config.cells has 1 candidates"),
        ({"seeds": 2}, "config.seeds is 2"),
        ({"with_baseline": True}, "config.with_baseline is True"),
        ({"clip_method": "none", "target_epsilon": None}, "clip_method is 'none'"),
        ({"cells": ({"delta": 1e-6}, {"delta": 1e-5})}, "config.delta 1e-06 in one candidate"),
        ({"cells": ({"steps": 9}, {"noise_multiplier": 1.0})}, "config.target_epsilon 2.0 in one"),
        ({"cells": ({"steps": 9}, {"batch_size": 0})}, "batch_size is 0"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        selection.wanted(make_config(**changes))


def test_a_choice_is_made_only_where_it_is_asked_for():
    assert selection.wanted(make_config())
    assert not selection.wanted(dpsgd.get_config())
    assert not selection.wanted(dpsgd.get_config("paper"))


def test_the_first_of_the_best_is_chosen_and_a_lost_run_is_the_worst():
    assert selection.best_of([0.2, 0.9, math.nan, 0.9]) == 1
    assert selection.best_of([math.nan, 0.0]) == 1
    assert selection.best_of([math.nan, math.nan]) == 0


def test_a_choice_among_lost_runs_says_so(tmp_path, monkeypatch):
    def lost(runs, *arguments, **rest):
        row = ROW._replace(validation_accuracy=math.nan)
        yield [experiment.Outcome(run.name, row, run.plan.statement, None) for run in runs]

    monkeypatch.setattr(experiment, "train_all", lost)
    chosen = selection.plan(make_config(), make_facts())._replace(picks=[0, 1])
    with pytest.raises(InputError, match="smaller learning rates"):
        selection.train(chosen, None, tmp_path, 16)
    assert not any(tmp_path.iterdir())
