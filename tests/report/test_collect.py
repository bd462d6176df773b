"""What is read from files is what was written, and no more of it than may be shown."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from ml_collections import ConfigDict

from dpfinjax import data, privacy, workdir
from dpfinjax.attacks import metrics
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.report import collect

STATEMENT = privacy.Statement(
    epsilon=3.99,
    delta=1e-5,
    noise_multiplier=6.5,
    clip_norm=0.3,
    sample_rate=0.35,
    steps=286,
    batch_size=2019,
    examples=5769,
    overflow_probability=1e-13,
    unit="one window of 10 bars",
    sampler="Poisson",
    accountant="pld",
    assumptions=("The seed is secret.",),
)


def curve_of(seed, size):
    rng = np.random.default_rng(seed)
    member = np.arange(size) < size // 2
    return metrics.roc(rng.normal(size=size) + 0.5 * member, member)


@hypothesis.given(st.integers(0, 10**6), st.sampled_from([4, 50, 700, 20_000]))
@hypothesis.settings(max_examples=30)
def test_a_thinned_curve_keeps_its_ends_its_order_and_what_small_rates_find(seed, size):
    curve = curve_of(seed, size)
    chosen = collect._thinned(curve.fpr)
    fpr, tpr = curve.fpr[chosen], curve.tpr[chosen]
    assert len(fpr) <= 300
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    for rate in np.geomspace(1e-4, 1, 50):
        # As much as the whole curve finds at a rate that is hardly smaller.
        whole = curve.tpr_at(rate / 1.05)[0]
        assert tpr[np.searchsorted(fpr, rate, side="right") - 1] >= whole - 1e-12


def test_a_short_curve_is_kept_whole():
    fpr = np.linspace(0, 1, 300)
    np.testing.assert_array_equal(collect._thinned(fpr), np.arange(300))


def test_a_sample_has_the_distribution_of_the_whole(tmp_path):
    values = np.random.default_rng(0).beta(2, 5, 50_000)
    np.save(tmp_path / "member_probs.npy", values)
    sample = np.array(collect._sample(tmp_path, "member_probs"))
    assert len(sample) == collect._SAMPLE
    quantiles = np.linspace(0, 1, 101)
    np.testing.assert_allclose(
        np.quantile(sample, quantiles), np.quantile(values, quantiles), atol=1e-3
    )
    assert (sample.min(), sample.max()) == (values.min(), values.max())
    np.save(tmp_path / "few.npy", values[:10])
    assert collect._sample(tmp_path, "few") == tuple(np.sort(values[:10]).tolist())


@pytest.mark.parametrize(
    "statement",
    [
        STATEMENT,
        STATEMENT._replace(epsilon=np.inf, clip_norm=np.inf),
        STATEMENT._replace(windows_per_unit=16, windows_used=900, windows_left_out=7),
        STATEMENT._replace(published_epsilon=5.41),
    ],
)
def test_a_statement_read_from_its_file_is_the_statement(statement):
    written = json.loads(json.dumps(statement.to_json()))
    found = collect._statement(written)
    assert found._replace(assumptions=statement.assumptions) == statement
    assert set(statement.assumptions) <= set(found.assumptions)


def test_of_several_seeds_the_largest_epsilon_is_told():
    cell = collect._Cell("pate", "pate", ("one", "two", "three"), ConfigDict(), {}, False)
    content = {"one": {"epsilon": 1.5}, "two": {"epsilon": 1.9}, "three": {"epsilon": 1.7}}
    assert collect._stated(content, cell) == {"epsilon": 1.9}
    content["three"]["epsilon"] = "inf"
    assert collect._stated(content, cell) == {"epsilon": "inf"}
    assert collect._stated(content["one"], cell._replace(alone=True)) == {"epsilon": 1.5}


def config_of(source, **changes):
    config = ConfigDict({"data": data.default_config()})
    config.data.source = source
    config.data.update(changes)
    return config


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("sim", "a simulated market of 3,000,000 bars"),
        ("/home/someone/secret/bars.csv.gz", "bars.csv.gz"),
        ("a/one.csv,b/two.csv", "one.csv,two.csv"),
        (["/a/one.csv", "/b/two.csv"], "one.csv,two.csv"),
        ("binance:ETHUSDT:1m:2020-01:2020-12", "binance:ETHUSDT:1m:2020-01:2020-12"),
    ],
)
def test_a_source_is_told_without_its_folder(given, told):
    assert collect.source(config_of(given).data) == told


def test_a_config_to_show_names_no_folder_and_the_given_one_stays():
    config = config_of("/home/someone/bars.csv", cache_dir="/home/someone/cache")
    shown = json.dumps(workdir.as_json(collect.shareable(config)))
    assert "someone" not in shown
    assert "bars.csv" in shown
    assert config.data.cache_dir == "/home/someone/cache"


def test_pate_needs_every_pattern_in_public():
    public = dict.fromkeys(PATTERNS, 3)
    assert collect.obstacle_to_pate({"public": public}) is None
    sentence = collect.obstacle_to_pate({"public": public | {PATTERNS[0]: 0, PATTERNS[5]: 0}})
    assert f"no window of {PATTERNS[0]} and {PATTERNS[5]}" in sentence


def test_parts_may_be_given_with_commas():
    assert collect.wanted(ConfigDict({"parts": ("dpsgd,attack", "audit")})) == [
        "dpsgd",
        "attack",
        "audit",
    ]


def test_the_fewer_windows_the_wider_what_is_said_of_accuracies():
    def sentence(windows):
        counts = {"test": {"a": windows}, "validation": {"a": windows}}
        return collect._about_accuracy(counts, [])

    # 1.96 sqrt(0.25 / n), in points
    assert "9.8\u00a0points from 100 test windows" in sentence(100)
    assert "1.0\u00a0points from 10,000 test windows" in sentence(10_000)
