"""Settings: epsilon is that of the run that is run, and it is never more than the target."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from configs import attack, audit, baseline, dpsgd, pate, study
from dpfinjax import recipes, settings, sweeps
from dpfinjax.augmentation import Augmentation
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
        windows_crossing=0,
        windows_unused=0,
        examples={"train": train},
        units={"train": [0, examples]},
        disjoint=True,
        unit_name="window",
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
    cell = sweeps.models_of(config)["clip_norm=1.0,noise_multiplier=1.0"].config
    cell.accountant = "rdp"
    statement = settings.plan(cell, make_facts(13_170)).statement
    np.testing.assert_allclose(statement.published_epsilon, 6.3, atol=0.05)
    np.testing.assert_allclose(statement.epsilon, 3.1, atol=0.06)
    assert settings.plan(make_config(), make_facts()).statement.published_epsilon is None


def test_the_paper_has_ten_cells():
    cells = [m.config for m in sweeps.models_of(dpsgd.get_config("paper")).values()]
    grid = {(c.clip_norm, c.noise_multiplier) for c in cells}
    assert len(cells) == 10
    assert grid == {(c, n) for c in (1.0, 1.5) for n in (0.1, 0.3, 0.5, 0.7, 1.0)}
    for config in cells:
        assert (config.batch_size, config.epochs, config.learning_rate) == (30, 120, 0.0006)
        settings.check(config)


def test_the_quick_run_has_the_model_without_privacy_first():
    models = sweeps.models_of(dpsgd.get_config("quick"))
    assert list(models) == ["baseline", "dpsgd"]
    assert models["baseline"].config.clip_method == "none"
    for model in models.values():
        settings.check(model.config)


def test_seeds_repeat_every_cell():
    models = sweeps.models_of(make_config(cells=({"clip_norm": 0.5},), seeds=3, seed=4))
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
        ({"optimizer": "lion", "learning_rate": 1.0}, "optimizer is 'lion'"),
        ({"clip_method": "none"}, "there is no noise to set"),
        ({"epochs": None}, "epochs and config.steps"),
        ({"steps": 7}, "epochs and config.steps"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"clip_method": "fast"}, "clip_method is 'fast'"),
        ({"clip_rule": "fast"}, "clip_rule is 'fast'"),
        ({"accountant": "gdp"}, "accountant is 'gdp'"),
        ({"privacy": {"unit": "day", "windows_per_unit": 0}}, "windows_per_unit is 0"),
        ({"model": {"variant": "vgg"}}, "model.variant is 'vgg'"),
        ({"microbatch": -1}, "microbatch is -1"),
        ({"checkpoint_epochs": 0}, "checkpoint_epochs is 0"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"weight_decay": -0.5}, "weight_decay is -0.5"),
        ({"optimizer": "adam"}, "learning_rate is None, .* SGD without momentum"),
        ({"momentum": 0.9}, "learning_rate is None"),
        ({"clip_method": "none", "target_epsilon": None}, "learning_rate is None"),
        ({"augment": {"copies": -1}}, "augment.copies is -1"),
        ({"augment": {"price_noise": float("nan")}}, "augment.price_noise is nan"),
        ({"augment": {"price_noise": -0.1}}, "augment.price_noise is -0.1"),
        ({"augment": {"scale_jitter": 0.5}}, "augment.scale_jitter is 0.5"),
        ({"pretrain": {"sim_bars": -1}}, "pretrain.sim_bars is -1"),
        ({"pretrain": {"epochs": 0.0}}, "pretrain.epochs is 0.0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_field(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        settings.check(make_config(**changes))


@pytest.mark.parametrize("examples", [1, 700, 6000])
@pytest.mark.parametrize("noise", [{}, {"noise_multiplier": 0.9}])
def test_what_is_left_open_is_filled_in_by_the_rules(examples, noise):
    plan = settings.plan(make_config(accountant="rdp", **noise), make_facts(examples))
    statement, batch = plan.statement, recipes.batch_size(examples)
    assert statement.batch_size == batch == plan.hparams.batch_size
    assert statement.sample_rate == np.float32(batch / examples)
    assert statement.steps == round(100 * examples / batch)
    rate = recipes.learning_rate(statement.noise_multiplier, 0.3, batch, statement.steps, False)
    assert plan.hparams.learning_rate == np.float32(rate)
    same = make_config(accountant="rdp", batch_size=batch, learning_rate=rate, **noise)
    assert settings.plan(same, make_facts(examples)) == plan


def test_the_rule_for_the_batch_counts_units_where_they_are_protected():
    config = make_config(accountant="rdp", privacy={"unit": "day", "windows_per_unit": 4})
    plan = settings.plan(config, make_days(DAYS))
    assert plan.statement.batch_size == recipes.batch_size(len(DAYS)) == 210


def test_learning_rate_weight_decay_copies_and_average_change_no_promise():
    """They are what happens to a gradient before it is clipped, or after the noise."""
    expected = settings.plan(make_config(accountant="rdp"), make_facts())
    for changes in (
        {"learning_rate": 0.01},
        {"weight_decay": 0.2},
        {"ema_decay": 0.0},
        {"augment": {"copies": 7}},
        {"pretrain": {"sim_bars": 1000}},
    ):
        plan = settings.plan(make_config(accountant="rdp", **changes), make_facts())
        assert plan.statement == expected.statement
        assert plan.hparams.noise_multiplier == expected.hparams.noise_multiplier
        assert plan.hparams.sample_rate == expected.hparams.sample_rate
    copied = settings.plan(make_config(augment={"copies": 7}), make_facts()).spec
    assert copied.augmentation == Augmentation(7, 0.01, 0.2)
    assert copied.microbatch * 8 <= 512 < expected.spec.microbatch * 8


@pytest.mark.parametrize("variant", ["", "quick", "paper"])
@pytest.mark.parametrize("config_file", [baseline, dpsgd, attack, audit, pate, study])
def test_every_variant_of_every_config_makes_models_that_can_be(config_file, variant):
    if config_file is audit and variant == "paper":
        variant = "mutants"
    config = config_file.get_config(variant)
    assert config.seed is None
    assert config.get_type("seed") is int  # --config.seed=0 can fix it
    if config_file is pate:
        parts = [config.teacher, config.student]
    elif config_file is study:
        shared = {field: config[field] for field in study.SHARED}
        parts = []
        for part in ("dpsgd", "published", "pretrained"):
            whole = config[part].copy_and_resolve_references()
            with whole.unlocked():
                whole.update(shared)
            parts += [model.config for model in sweeps.models_of(whole).values()]
    else:
        parts = [model.config for model in sweeps.models_of(config).values()]
    assert parts
    for part in parts:
        with part.unlocked():
            part.seed = 0
        settings.check(part)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"batch_size is 1024.*only 1000 examples"):
        settings.plan(make_config(batch_size=1024), make_facts(1000))


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
        ({"cells": ({"sweep": {"mean_runs": 2.0}},)}, "'sweep', which is no field of one model"),
        ({"sweep": {"select": "private"}}, "launch.dpsgd alone can select"),
    ],
)
def test_cells_that_make_no_model_are_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        sweeps.models_of(make_config(**changes))


def test_cells_that_differ_little_are_two_models():
    cells = ({"learning_rate": 0.12345671}, {"learning_rate": 0.12345672})
    assert len(sweeps.models_of(make_config(cells=cells))) == 2


def test_a_cell_s_noise_takes_the_place_of_the_target():
    (model,) = sweeps.models_of(make_config(cells=({"noise_multiplier": 2.0},))).values()
    assert model.config.target_epsilon is None
    settings.check(model.config)


def test_a_delta_that_gives_an_example_away_is_named():
    statement = settings.plan(make_config(delta=1e-3), make_facts(2000)).statement
    assert any("one in 2000" in sentence for sentence in statement.assumptions)
    statement = settings.plan(make_config(delta=1e-5), make_facts(2000)).statement
    assert not any("one in 2000" in sentence for sentence in statement.assumptions)


def make_days(sizes):
    """Facts of a training split whose days have so many windows."""
    counts = [0, *(sizes.count(size) for size in range(1, max(sizes) + 1))]
    facts = make_facts(sum(sizes))
    return facts._replace(units={"train": counts}, unit_name="day", unit="one day")


DAYS = [1, 3, 4, 5, 20, 20] * 100  # 600 days, 5,300 windows


@pytest.mark.parametrize("most", [1, 4, 16, 50])
def test_the_statement_of_a_larger_unit_is_about_units(most):
    config = make_config(batch_size=60, privacy={"unit": "day", "windows_per_unit": most})
    plan = settings.plan(config, make_days(DAYS))
    statement, used = plan.statement, sum(min(most, size) for size in DAYS)
    assert (statement.examples, statement.unit) == (600, "one day")
    assert statement.sample_rate == pytest.approx(0.1) == pytest.approx(plan.hparams.sample_rate)
    assert statement.steps == 10 * config.epochs
    assert (statement.windows_used, statement.windows_left_out) == (used, 5300 - used)
    assert plan.windows_per_unit == min(most, 20)
    expected = dp_accounting_epsilon(statement, PLDAccountant())
    assert statement.epsilon == pytest.approx(expected, rel=1e-3)
    told = " ".join(statement.to_json()["assumptions"])
    assert f"Of 5300 training windows {used} are used" in told
    shared = statement.shareable().to_json()
    assert "windows_used" not in shared
    assert "5300" not in str(shared)
    assert "number of training units" in told
    assert statement.to_json()["windows_per_unit"] == most


def test_a_model_without_privacy_trains_on_all_windows_whatever_the_unit():
    config = make_config(batch_size=60, privacy={"unit": "day", "windows_per_unit": 4})
    config.update(clip_method="none", target_epsilon=None)
    plan = settings.plan(config, make_days(DAYS))
    assert (plan.statement.examples, plan.windows_per_unit) == (5300, None)
    assert plan.statement.epsilon == float("inf")
    assert "windows_used" not in plan.statement.to_json()


@pytest.mark.parametrize(("method", "windows"), [("ghost", 512), ("vmap", 64)])
def test_a_piece_of_units_has_as_many_windows_as_the_largest_piece_of_windows(method, windows):
    config = make_config(batch_size=590, clip_method=method, augment={"copies": 0})
    config.privacy.update(unit="day", windows_per_unit=16)
    piece = settings.plan(config, make_days(DAYS)).spec.microbatch
    assert windows / 2 < 16 * piece <= windows
    config.microbatch = 3
    assert settings.plan(config, make_days(DAYS)).spec.microbatch == 3


def test_a_batch_of_more_units_than_there_are_is_refused():
    config = make_config(batch_size=601, privacy={"unit": "day", "windows_per_unit": 4})
    with pytest.raises(InputError, match="only 600 units"):
        settings.plan(config, make_days(DAYS))


def test_a_cell_cannot_have_another_unit_than_its_run():
    with pytest.raises(InputError, match=r"config\.cells changes 'privacy'"):
        sweeps.models_of(make_config(cells=({"privacy": {"unit": "day"}},)))


def test_a_job_that_knows_windows_alone_refuses_another_unit():
    settings.check_window(make_config(), "launch.attack")
    with pytest.raises(InputError, match=r"unit is 'day', but launch\.attack works window by"):
        settings.check_window(make_config(privacy={"unit": "day"}), "launch.attack")
