"""The yardstick: a model without privacy, which says so."""

import json

import pytest

from configs import baseline as baseline_config
from launch import dpsgd


@pytest.mark.parametrize("variant", ["", pytest.param("paper", marks=pytest.mark.long)])
def test_the_baseline_learns_and_promises_nothing(tmp_path, cache, variant):
    config = baseline_config.get_config(variant)
    config.data.update(sim_bars=120_000, cache_dir=cache)
    config.epochs, config.augment.copies = 20.0, 0
    outcome = dpsgd.train_and_evaluate(config, tmp_path / "run")[0]
    stated = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert stated["epsilon"] == "inf"
    assert outcome.row.model == "baseline"
    if not variant:  # the paper's rate of 0.0006 learns little in so few steps
        assert outcome.row.test_accuracy > 0.4
