"""Sampling: batches really are Poisson samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpfinjax import noise, sampling

poisson = jax.jit(sampling.poisson, static_argnums=(1, 3))


def slow_poisson(key, n, rate, capacity):
    """One coin after another: example i has half of block 16 (i // 32) + i % 16."""
    counters = jnp.arange(16 * (n // 32 + 1), dtype=jnp.uint32)
    halves = np.asarray(noise.words(key, counters, "coins"), np.uint64)
    threshold = int(np.floor(np.float64(np.nextafter(np.float32(rate), np.float32(0))) * 2**32))
    drawn = [
        i
        for i in range(n)
        if rate >= 1 or halves[i % 32 // 16, 16 * (i // 32) + i % 16] < threshold
    ]
    indices, mask = np.zeros(capacity, np.int32), np.arange(capacity) < len(drawn)
    indices[: len(drawn[:capacity])] = drawn[:capacity]
    return indices, mask


def draw_many(n, rate, capacity, draws, seed=0):
    """Membership bool [draws, n] of many samples."""
    keys = jax.random.split(jax.random.key(seed), draws)
    sample = jax.jit(jax.vmap(lambda key: sampling.poisson(key, n, rate, capacity)))
    indices, mask = map(np.asarray, sample(keys))
    drawn = np.zeros((draws, n + 1), bool)
    drawn[np.arange(draws)[:, None], np.where(mask, indices, n)] = True
    return drawn[:, :n]


def test_batch_sizes_are_binomial():
    n, rate, draws = 40, 0.2, 20_000
    sizes = draw_many(n, rate, n, draws).sum(axis=1)
    expected = draws * stats.binom.pmf(np.arange(n + 1), n, rate)
    bins = [np.flatnonzero(expected > 5)[0], np.flatnonzero(expected > 5)[-1]]
    inner = slice(bins[0], bins[1] + 1)
    observed = np.bincount(np.clip(sizes, *bins), minlength=n + 1)[inner]
    merged = expected[inner].copy()
    merged[0] += expected[: bins[0]].sum()
    merged[-1] += expected[bins[1] + 1 :].sum()
    assert stats.chisquare(observed, merged).pvalue > 1e-3


def test_examples_are_drawn_with_the_same_rate_and_independently():
    n, rate, draws = 12, 0.3, 40_000
    drawn = draw_many(n, rate, n, draws)
    error = 5 * np.sqrt(rate * (1 - rate) / draws)
    np.testing.assert_allclose(drawn.mean(axis=0), rate, atol=error)
    correlation = np.corrcoef(drawn.T) - np.eye(n)
    # Sampling without replacement, or shuffled batches, would give -1 / (n - 1) = -0.09.
    assert np.abs(correlation).max() < 5 / np.sqrt(draws)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    n=st.sampled_from([1, 7, 60]),
    rate=st.floats(0, 1),
    capacity=st.sampled_from([1, 5, 60, 70]),
)
def test_samples_are_ascending_distinct_and_padded_at_the_end(seed, n, rate, capacity):
    indices, mask = map(np.asarray, sampling.poisson(jax.random.key(seed), n, rate, capacity))
    assert indices.shape == mask.shape == (capacity,)
    count = int(mask.sum())
    assert mask[:count].all()
    assert (np.diff(indices[:count]) > 0).all()
    assert ((indices >= 0) & (indices < n)).all()
    everyone, full_mask = poisson(jax.random.key(seed), n, rate, n)
    expected = np.asarray(everyone)[np.asarray(full_mask)][:capacity]
    np.testing.assert_array_equal(indices[:count], expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    n=st.sampled_from([1, 31, 32, 33, 200]),
    rate=st.floats(0, 1, width=32),
    capacity=st.sampled_from([1, 9, 200]),
)
def test_samples_are_those_of_one_coin_after_another(seed, n, rate, capacity):
    key = jax.random.key(seed)
    sample, expected = poisson(key, n, rate, capacity), slow_poisson(key, n, rate, capacity)
    jax.tree.map(np.testing.assert_array_equal, sample, expected)


@settings(max_examples=500, deadline=None)
@given(rate=st.floats(0, 1 - 2**-24) | st.floats(0, 1e-3) | st.floats(0, 1e-8))
def test_the_rate_is_met_from_below_also_after_rounding_to_float32(rate):
    chance = int(sampling.threshold(jnp.float32(rate))) / 2**32
    assert rate - 2**-22 * rate - 2**-32 <= chance <= rate


def test_every_place_of_a_real_size_is_drawn_equally_often():
    n, rate, draws = 13_170, 30 / 13_170, 4000
    times = draw_many(n, rate, 88, draws).sum(axis=0)
    assert abs(times.sum() / draws - 30) < 5 * np.sqrt(30 / draws)
    # By lane and by row of the packed coins, and first half against second half of every row.
    for groups in (np.arange(n) % 32, np.arange(n) // 32, np.arange(n) % 32 // 16):
        size = np.bincount(groups)
        expected = times.sum() * size / n
        assert stats.chisquare(np.bincount(groups, times), expected).pvalue > 1e-3


def test_examples_of_a_row_and_of_neighbouring_rows_are_independent():
    n, rate, draws = 96, 0.2, 30_000
    drawn = draw_many(n, rate, n, draws)
    correlation = np.corrcoef(drawn.T) - np.eye(n)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(draws)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_every_model_has_its_own_sample(implementation):
    keys = jax.random.split(jax.random.key(4, impl=implementation), 5)
    mapped = jax.vmap(lambda key: sampling.poisson(key, 300, 0.3, 120))(keys)
    for row, key in enumerate(keys):
        single = sampling.poisson(key, 300, 0.3, 120)
        np.testing.assert_array_equal(mapped[0][row], single[0])
        np.testing.assert_array_equal(mapped[1][row], single[1])
    assert len({tuple(row) for row in np.asarray(mapped[0])}) == 5


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (1.0, 1024)])
def test_the_ends_of_the_rate_are_exact(rate, expected):
    # One of the first 1,024 words of this key is so large that the largest threshold lacks it.
    _, mask = sampling.poisson(jax.random.key(11384), 1024, rate, 1024)
    assert mask.sum() == expected


@pytest.mark.parametrize(
    ("n", "rate", "draws"), [(100_000, 2e-4, 200), (100_000, 2.0**-17, 400), (2**24, 2.0**-25, 40)]
)
def test_small_rates_are_met(n, rate, draws):
    keys = jax.random.split(jax.random.key(1), draws)
    sizes = jax.lax.map(lambda key: sampling.poisson(key, n, rate, 100)[1].sum(), keys)
    total, expected = int(sizes.sum()), n * rate * draws
    assert abs(total - expected) < min(5 * np.sqrt(expected), expected)


def test_rates_can_be_mapped_over():
    rates = jnp.array([0.1, 0.9])
    key = jax.random.key(3)
    indices, mask = jax.vmap(lambda q: sampling.poisson(key, 30, q, 30))(rates)
    for row, rate in enumerate(rates):
        single = sampling.poisson(key, 30, rate, 30)
        np.testing.assert_array_equal(indices[row], single[0])
        np.testing.assert_array_equal(mask[row], single[1])
