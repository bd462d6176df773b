"""Windows and answers of inference beside those that training sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpfinjax import inference, models, release, training
from dpfinjax.data import bars, gaf, patterns, simulate, windows
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.training import Data

NETWORKS = {
    "series": models.build("gaf_series", hidden=(16,)),
    "images": models.build("gaf_cnn", widths=(4,), strides=(2,), hidden=(8,)),
}


@pytest.fixture(scope="module")
def market():
    """Simulated minutes with gaps, bars that did not move, and a flat stretch."""
    made = simulate.bars(4_000, 3)
    kept = np.delete(np.arange(4_000), [700, 1_500, 1_501, 1_509, 2_000])
    made = bars.Bars(*(column[kept] for column in made))
    flat = slice(2_500, 2_530)  # each candle the same: three channels have no scale
    for name, price in (("open", 100.0), ("low", 99.0), ("high", 103.0), ("close", 101.0)):
        getattr(made, name)[flat] = price
    return made


def model_of(network, seed=0):
    module = NETWORKS[network]
    params = module.init(jax.random.key(seed), jnp.zeros((1, 10, 10, 4)))["params"]
    # Far from even, so that an image that is a little off shows.
    return release.Model(module, jax.tree.map(lambda x: 3 * x, params), PATTERNS, 10)


def answered(model, given, stride=1):
    chunks = list(inference.answer(model, given, stride))
    return inference.Answers(*(np.concatenate(column) for column in zip(*chunks, strict=True)))


def all_windows(given, length, stride=1):
    """Every window, one after another: slow and obviously right."""
    usual = np.timedelta64(60, "s")
    found, run, number = [], [], 0
    for row in range(len(given.time)):
        if row and given.time[row] - given.time[row - 1] != usual:
            run, number = [], 0
        if given.close[row] == given.open[row]:
            continue
        run.append(row)
        if len(run) >= length:
            if number % stride == 0:
                found.append(run[-length:])
            number += 1
    return np.array(found).reshape(-1, length)


@pytest.mark.parametrize("length", [3, 10])
@pytest.mark.parametrize("stride", [1, 4, 10])
def test_windows_slide_and_never_reach_over_a_gap(market, length, stride):
    moved, last = windows.ends(market, length, stride)
    rows = moved[last[:, None] + np.arange(1 - length, 1)]
    np.testing.assert_array_equal(rows, all_windows(market, length, stride))


def test_each_training_window_is_among_them(market):
    labels = patterns.detect(market.open, market.high, market.low, market.close)
    cut = windows.cut(market, labels)
    assert len(cut.label) > 5
    moved, last = windows.ends(market)
    assert set(cut.place) <= set(last)
    assert set(cut.time) <= set(market.time[moved[last]])


@pytest.mark.parametrize("network", NETWORKS)
def test_answers_are_those_to_the_images_that_training_sees(market, network, monkeypatch):
    monkeypatch.setattr(inference, "_PIXELS", 100 * 257)  # several chunks, the last one padded
    model, rows = model_of(network), all_windows(market, 10)
    prices = (market.open, market.high, market.low, market.close)
    images = gaf.encode(np.stack([price[rows] for price in prices], -1))
    labels = jnp.zeros(len(images), jnp.int32)
    asked = training.evaluate(model.params, Data(jnp.asarray(images), labels), model.module)
    expected = np.asarray(jax.nn.softmax(asked.logits))
    assert len({expected[row].argmax() for row in range(len(rows))}) > 3
    found = answered(model, market)
    np.testing.assert_array_equal(found.time, market.time[rows[:, -1]])
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
    sure = np.diff(np.sort(expected, axis=-1)[:, -2:])[:, 0] > 1e-4
    assert sure.mean() > 0.99
    found, expected = found.probabilities[sure], expected[sure]
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def test_a_chunk_holds_no_more_images_than_it_may(market, monkeypatch):
    seen = []
    original = inference._probabilities

    def watched(params, cosine, sine, module):
        seen.append(cosine.shape)
        return original(params, cosine, sine, module)

    monkeypatch.setattr(inference, "_probabilities", watched)
    monkeypatch.setattr(inference, "_PIXELS", 100 * 100)
    answered(model_of("series"), market)
    devices = len(jax.devices())
    assert set(seen) == {(100 * devices, 10, 4)}
    assert len(seen) > 5 // devices


def test_too_few_bars_have_no_answer(market):
    few = bars.Bars(*(column[:9] for column in market))
    assert list(inference.answer(model_of("series"), few)) == []
