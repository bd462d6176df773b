"""Pictures: each is written whole, from the numbers it is given."""

import numpy as np
import pytest
from matplotlib.image import imread

from dpfinjax import plots
from dpfinjax.data.patterns import PATTERNS

LINES = [
    {"step": 5, "split": "train", "values": {"loss": 2.0, "epsilon": 1.0}},
    {"step": 5, "split": "validation", "values": {"loss": 1.9, "accuracy": 0.3}},
    {"step": 10, "split": "train", "values": {"loss": 1.0, "epsilon": 1.5}},
    {"step": 10, "split": "validation", "values": {"loss": 1.1, "accuracy": 0.6}},
]


def drawn(path):
    """The picture's pixels; it must not be blank."""
    pixels = imread(path)
    assert pixels.std() > 0.01
    assert [f.name for f in path.parent.iterdir()] == [path.name]
    return pixels


def test_curves_have_a_panel_for_epsilon_only_where_there_is_one(tmp_path):
    plots.training_curves(tmp_path / "a.png", LINES, "dpsgd")
    private = drawn(tmp_path / "a.png")
    plain = [line | {"values": dict(line["values"])} for line in LINES]
    for line in plain:
        line["values"].pop("epsilon", None)
    plots.training_curves(tmp_path / "a.png", plain, "baseline")
    assert drawn(tmp_path / "a.png").shape[1] < private.shape[1]


@pytest.mark.parametrize("draw", [plots.confusion_matrix, plots.accuracy_per_pattern])
def test_matrices_are_drawn_also_with_a_class_that_has_no_example(tmp_path, draw):
    counts = np.diag(np.arange(8))
    draw(tmp_path / "a.png", counts, PATTERNS, "dpsgd")
    first = drawn(tmp_path / "a.png")
    draw(tmp_path / "a.png", counts[::-1], PATTERNS, "dpsgd")
    assert not np.array_equal(first, drawn(tmp_path / "a.png"))


def test_intervals_are_wilson_s():
    low, high = plots.wilson(np.array([8, 0, 0]), np.array([10, 5, 0]))
    np.testing.assert_allclose([low[0], high[0]], [0.4902, 0.9433], atol=1e-4)
    np.testing.assert_allclose([low[1], high[1]], [0, 0.4345], atol=1e-4)
    np.testing.assert_allclose([low[2], high[2]], [0, 1], atol=1e-6)


def test_the_sheet_has_every_pattern(tmp_path):
    rng = np.random.default_rng(0)
    ohlc = np.sort(rng.uniform(1, 2, (8, 10, 4)))[..., [1, 3, 0, 2]]
    images = rng.uniform(-1, 1, (8, 10, 10, 4))
    plots.pattern_sheet(tmp_path / "a.png", ohlc, images, np.arange(8), PATTERNS)
    pixels = drawn(tmp_path / "a.png")
    assert pixels.shape[0] > pixels.shape[1]


def test_counts_are_drawn(tmp_path):
    examples = {
        name: dict.fromkeys(PATTERNS, 10 * k + 1)
        for k, name in enumerate(("train", "validation", "test", "public", "population"))
    }
    plots.pattern_counts(tmp_path / "a.png", examples)
    drawn(tmp_path / "a.png")
