"""Settings: epsilon is that of the run that is run, and it is never more than the target."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from configs import baseline, dpsgd
from dpfinjax import settings
from dpfinjax.data import Facts
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError


def make_facts(examples=6000):
    train = dict.fromkeys(PATTERNS, 0) | {PATTERNS[0]: examples}
    return Facts(
        source="sim",
        source_sha256=(),
        folder="",
        bars=0,
        moved_bars=0,
        patterns=0,
        windows=examples,
        windows_with_gap=0,
        windows_overlapping=0,
        windows_unused=0,
        examples={"train": train},
        disjoint=True,
        unit="one window",
        assumptions=("The data are as they are.",),
    )


def make_config(**changes):
    config = dpsgd.get_config()
    config.target_epsilon = None if "noise_multiplier" in changes else config.target_epsilon
    config.update(changes)
    return config


def dp_accounting_epsilon(statement, accountant):
    """What the library says for the numbers that the statement names."""
    event = dp_accounting.PoissonSampledDpEvent(
        statement.sample_rate, dp_accounting.GaussianDpEvent(statement.noise_multiplier)
    )
    accountant = accountant.compose(event, statement.steps)
    return accountant.get_epsilon(statement.delta - statement.overflow_probability)


@pytest.mark.parametrize("target", [0.5, 4.0])
@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_epsilon_is_dp_accounting_s_for_the_run_and_within_the_target(accountant, target):
    config = make_config(target_epsilon=target, accountant=accountant, steps=50, epochs=None)
    statement = settings.plan(config, make_facts()).statement
    library = {"rdp": RdpAccountant(), "pld": PLDAccountant()}[accountant]
    expected = dp_accounting_epsilon(statement, library)
    assert statement.epsilon <= target
    assert statement.epsilon > target * 0.99
    np.testing.assert_allclose(statement.epsilon, expected, rtol=1e-6)


def test_the_statement_is_about_the_numbers_on_the_device():
    plan = settings.plan(make_config(noise_multiplier=0.7, accountant="rdp"), make_facts(5769))
    assert plan.statement.noise_multiplier == float(plan.hparams.noise_multiplier) >= 0.7
    assert plan.statement.sample_rate == float(plan.hparams.sample_rate)
    assert plan.statement.steps == plan.spec.steps
    assert plan.statement.batch_size == plan.hparams.batch_size
    assert 0 <= plan.statement.overflow_probability <= 1e-6 * plan.statement.delta


def test_epochs_become_steps_of_the_expected_batch_size():
    plan = settings.plan(
        make_config(batch_size=100, epochs=2.5, noise_multiplier=1.0), make_facts()
    )
    assert plan.spec.steps == 150
    assert plan.spec.epoch_steps == 60
    assert plan.spec.epochs == 3


def test_a_model_without_noise_or_without_clipping_promises_nothing():
    for config in (make_config(noise_multiplier=0.0), baseline.get_config()):
        statement = settings.plan(config, make_facts()).statement
        assert statement.epsilon == np.inf
        assert "not differentially private" in statement.sentence()


def test_the_published_formula_is_only_ever_shown_beside_the_truth():
    config = dpsgd.get_config("paper")
    cell = settings.models_of(config)["clip_norm=1.0,noise_multiplier=1.0"].config
    cell.accountant = "rdp"
    statement = settings.plan(cell, make_facts(13_170)).statement
    np.testing.assert_allclose(statement.published_epsilon, 6.3, atol=0.05)
    np.testing.assert_allclose(statement.epsilon, 3.1, atol=0.06)
    assert settings.plan(make_config(), make_facts()).statement.published_epsilon is None


def test_the_paper_has_ten_cells():
    cells = [m.config for m in settings.models_of(dpsgd.get_config("paper")).values()]
    grid = {(c.clip_norm, c.noise_multiplier) for c in cells}
    assert len(cells) == 10
    assert grid == {(c, n) for c in (1.0, 1.5) for n in (0.1, 0.3, 0.5, 0.7, 1.0)}
    for config in cells:
        assert (config.batch_size, config.epochs, config.learning_rate) == (30, 120, 0.0006)
        settings.check(config)


def test_the_quick_run_has_the_model_without_privacy_first():
    models = settings.models_of(dpsgd.get_config("quick"))
    assert list(models) == ["baseline", "dpsgd"]
    assert models["baseline"].config.clip_method == "none"
    for model in models.values():
        settings.check(model.config)


def test_seeds_repeat_every_cell():
    models = settings.models_of(make_config(cells=({"clip_norm": 0.5},), seeds=3, seed=4))
    assert list(models) == [f"clip_norm=0.5,seed={seed}" for seed in (4, 5, 6)]
    assert {model.cell for model in models.values()} == {"clip_norm=0.5"}
    assert [model.config.seed for model in models.values()] == [4, 5, 6]
    assert all(model.config.clip_norm == 0.5 for model in models.values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"target_epsilon": 0.0}, "target_epsilon is 0.0; it must be positive"),
        ({"target_epsilon": -1.0}, "target_epsilon is -1.0; it must be positive"),
        ({"delta": 1.0}, "delta is 1.0; it must be above 0 and below 1"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"noise_multiplier": -0.1}, "noise_multiplier is -0.1"),
        ({"noise_multiplier": 1.0, "target_epsilon": 2.0}, "exactly one must be set"),
        ({"noise_multiplier": 1e39}, "noise_multiplier is 1e"),
        ({"learning_rate": 1e39}, "learning_rate is 1e"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"model": {"classes": 3}}, "model.classes is 3; there are 8 patterns"),
        ({"model": {"hidden": (8.5,)}}, "model.hidden is .8.5"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
        ({"clip_method": "none"}, "there is no noise to set"),
        ({"epochs": None}, "epochs and config.steps"),
        ({"steps": 7}, "epochs and config.steps"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"clip_method": "fast"}, "clip_method is 'fast'"),
        ({"clip_rule": "fast"}, "clip_rule is 'fast'"),
        ({"accountant": "gdp"}, "accountant is 'gdp'"),
        ({"privacy": {"unit": "client"}}, "privacy.unit is 'client'"),
        ({"model": {"variant": "vgg"}}, "model.variant is 'vgg'"),
        ({"microbatch": -1}, "microbatch is -1"),
        ({"checkpoint_epochs": 0}, "checkpoint_epochs is 0"),
        ({"warmup": 1.5}, "warmup is 1.5"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_field(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        settings.check(make_config(**changes))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"batch_size is 1024.*only 1000 examples"):
        settings.plan(make_config(), make_facts(1000))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 0}, "config.seeds is 0"),
        ({"models_at_once": 0}, "config.models_at_once is 0"),
        ({"cells": ("abc",)}, "config.cells has the entry 'abc'"),
        ({"cells": ({"colour": 1},)}, "config.cells changes 'colour'"),
        ({"cells": ({"data": {}},)}, "config.cells changes 'data'"),
        ({"cells": ({"clip_norm": "x"},)}, "does not fit"),
        ({"cells": ({"clip_norm": 0.5}, {"clip_norm": 0.5})}, "twice"),
    ],
)
def test_cells_that_make_no_model_are_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        settings.models_of(make_config(**changes))


def test_cells_that_differ_little_are_two_models():
    cells = ({"learning_rate": 0.12345671}, {"learning_rate": 0.12345672})
    assert len(settings.models_of(make_config(cells=cells))) == 2


def test_a_cell_s_noise_takes_the_place_of_the_target():
    (model,) = settings.models_of(make_config(cells=({"noise_multiplier": 2.0},))).values()
    assert model.config.target_epsilon is None
    settings.check(model.config)


def test_a_delta_that_gives_an_example_away_is_named():
    statement = settings.plan(make_config(delta=1e-3), make_facts(2000)).statement
    assert any("one in 2000" in sentence for sentence in statement.assumptions)
    statement = settings.plan(make_config(delta=1e-5), make_facts(2000)).statement
    assert not any("one in 2000" in sentence for sentence in statement.assumptions)
