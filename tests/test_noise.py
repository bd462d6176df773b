"""Noise: its words are random, its distribution is the one that is claimed, to the tails."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import random as jax_random
from scipy import stats

from dpfinjax import noise
from dpfinjax.errors import InputError

TREE = {"w": jnp.zeros((200, 300)), "b": jnp.zeros(40_000), "scalar": jnp.zeros(())}
IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
BINS = 2**16  # of the counts below, over [-8, 8): their edges are exact in float32


words = jax.jit(noise.words, static_argnames="stream")
box_muller = jax.jit(noise.box_muller)


def draw(key, stddev, tree=TREE):
    return jax.jit(noise.add_gaussian)(key, tree, stddev)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def uint32(values):
    return jnp.asarray(np.asarray(values), jnp.uint32)


def counts_of(draws, chunk=2**20):
    """Counts [BINS] of at least `draws` normals over [-8, 8)."""
    counts = np.zeros(BINS, np.int64)
    for number in range(-(-draws // chunk)):
        values = np.asarray(noise.normals(jax.random.key(number), chunk), np.float64)
        assert np.abs(values).max() < 8
        counts += np.bincount(((values + 8) * (BINS / 16)).astype(np.int64), minlength=BINS)
    return counts


@pytest.fixture(scope="module")
def counts():
    return counts_of(30_000_000)


def ks_p_value(counts, stddev):
    """The Kolmogorov-Smirnov p-value at the edges of the bins, which is not below the exact one."""
    edges = np.linspace(-8, 8, BINS + 1)[1:]
    distance = np.abs(np.cumsum(counts) / counts.sum() - stats.norm.cdf(edges, scale=stddev)).max()
    return stats.kstwobign.sf(distance * np.sqrt(counts.sum()))


def beyond(counts, level):
    """How many numbers lie outside [-level, level)."""
    edges = np.linspace(-8, 8, BINS + 1)
    return counts[edges[:-1] >= level].sum() + counts[edges[1:] <= -level].sum()


def largest_correlation(values):
    """The largest |correlation| of a sequence with itself at any lag, in standard errors."""
    centred = values - values.mean()
    spectrum = np.abs(np.fft.rfft(centred)) ** 2
    circular = np.fft.irfft(spectrum, centred.size)[1 : centred.size // 2 + 1]
    return np.abs(circular).max() / (centred.var() * np.sqrt(centred.size))


# The largest of half a million standard normals is below 6.5 but for a chance of 4e-5.
NOISE_LEVEL = 6.5


def reference(radius_word, angle_word):
    """The transform of `normals` in float64, and the error that rounding u to float32 allows."""
    radius_word, angle_word = (np.asarray(w, np.uint32) for w in (radius_word, angle_word))
    u = (radius_word * 2.0**8 + (angle_word & 0xFF) + 0.5) / 2.0**40
    angle = ((angle_word.view(np.int32) >> 8) + 0.5) / 2.0**23
    radius, sine = np.sqrt(-2 * np.log(u)), np.sin(np.pi / 2 * angle)
    rounding = 2.0**-23 / np.minimum(np.maximum(radius, 2.0**-12), 1.0)
    return radius * sine, 1e-6 * np.abs(radius * sine) + rounding * np.abs(sine)


# Words.


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counters=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
    stream=st.sampled_from(sorted(noise.STREAMS)),
)
def test_words_are_those_of_the_threefry_that_jax_has(seed, counters, stream):
    key = jax.random.key(seed, impl="threefry2x32")
    blocks = uint32([noise.STREAMS[stream]] * len(counters) + counters)
    expected = jax_random.threefry_2x32(jax.random.key_data(key), blocks)
    drawn = np.concatenate(words(key, uint32(counters), stream))
    np.testing.assert_array_equal(drawn, expected)


def test_streams_share_no_words_with_each_other_nor_with_what_jax_derives():
    key, counters = jax.random.key(1, impl="threefry2x32"), jnp.arange(4096, dtype=jnp.uint32)
    blocks = [np.stack(words(key, counters, stream), 1) for stream in noise.STREAMS]
    blocks.append(np.asarray(jax.random.key_data(jax.random.split(key, 4096))))
    assert len({tuple(block) for block in np.concatenate(blocks)}) == len(blocks) * 4096


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_bit_of_a_key_changes_half_of_the_bits(implementation):
    data = np.asarray(jax.random.key_data(jax.random.key(5, impl=implementation)))
    flips = [data.copy() for _ in range(32 * data.size)]
    for bit, flipped in enumerate(flips):
        flipped[bit // 32] ^= np.uint32(1 << bit % 32)
    keys = jax.random.wrap_key_data(jnp.stack([data, *flips]), impl=implementation)
    counters = jnp.arange(64, dtype=jnp.uint32)
    drawn = np.asarray(jax.vmap(lambda key: jnp.stack(words(key, counters, "noise")))(keys))
    changed = np.bitwise_count(drawn[1:] ^ drawn[0]).reshape(len(flips), -1).sum(1)
    assert np.abs(changed.astype(float) - 2048).max() < 5 * np.sqrt(1024)


def test_bits_are_fair_and_independent_within_a_block_and_between_neighbours():
    n = 2**15
    drawn = np.stack(words(jax.random.key(2), jnp.arange(n, dtype=jnp.uint32), "noise"), 1)
    bits = np.unpackbits(drawn.view(np.uint8), axis=1).astype(np.float32) - 0.5
    limit = 6 * 0.25 / np.sqrt(n)
    assert np.abs(bits.mean(0)).max() < 6 * 0.5 / np.sqrt(n)
    within = bits.T @ bits / n
    assert np.abs(within - np.diag(np.diag(within))).max() < limit
    for lag in (1, 2, 8, 16, 1024):
        assert np.abs(bits[lag:].T @ bits[:-lag] / n).max() < limit


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_draws_do_not_depend_on_vmap_scan_or_jit(implementation):
    # `jax.random.bits` with an "rbg" key fails this: under vmap it looks at the first key alone.
    keys = jax.random.split(jax.random.key(9, impl=implementation), 10)
    single = np.stack([noise.normals(key, 1003) for key in keys])
    mapped = jax.vmap(lambda key: noise.normals(key, 1003))(keys)
    _, scanned = jax.lax.scan(lambda _, key: (None, noise.normals(key, 1003)), None, keys)
    np.testing.assert_array_equal(mapped, single)
    np.testing.assert_array_equal(scanned, single)


def test_draws_do_not_depend_on_the_number_of_devices():
    program = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from dpfinjax import noise
draw = jax.vmap(lambda key: noise.normals(key, 999))
keys = jax.random.split(jax.random.key(0), 4)
shards = NamedSharding(jax.make_mesh((4,), ("model",)), P("model"))
assert len(jax.devices()) == 4
np.testing.assert_array_equal(jax.jit(draw)(jax.device_put(keys, shards)), draw(keys))
"""
    flags = "--xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


# Normals.


def test_normals_are_box_and_mullers_of_the_words():
    counters = jnp.arange(200_000, dtype=jnp.uint32)
    values = np.asarray(noise.normals(jax.random.key(4), counters.size))
    expected, allowed = reference(*words(jax.random.key(4), counters, "noise"))
    assert (np.abs(values - expected) <= allowed).all()


def test_extreme_words_give_the_ends_of_the_tails_and_never_zero():
    radii = [0, 1, 2, 255, 2**24, 2**31, 2**32 - 257, 2**32 - 2, 2**32 - 1]
    angles = [0, 255, 256, 2**31 - 256, 2**31 - 1, 2**31, 2**31 + 255, 2**32 - 256, 2**32 - 1]
    radius, angle = np.meshgrid(uint32(radii), uint32(angles))
    values = np.asarray(box_muller(radius, angle))
    expected, allowed = reference(radius, angle)
    assert (np.abs(values - expected) <= allowed).all()
    assert np.isfinite(values).all()
    assert (values != 0).all()
    assert 7.53 < values.max() <= np.sqrt(2 * np.log(2.0**41)) * (1 + 1e-6)


def test_the_tails_are_fine_grained():
    # 2^16 numbers beyond 6 sigma, one for each smallest u and some low bits: no two are the same.
    radius, low = np.meshgrid(np.arange(64, dtype=np.uint32), np.arange(256, dtype=np.uint32))
    values = np.asarray(box_muller(jnp.asarray(radius), jnp.asarray(low | 0x7FFFFF00)))
    assert values.min() > 6
    assert np.unique(values).size > 0.95 * values.size


def test_negating_the_angle_negates_the_number():
    radius, angle = words(jax.random.key(6), jnp.arange(10_000, dtype=jnp.uint32), "noise")
    np.testing.assert_array_equal(
        box_muller(radius, angle ^ uint32(0xFFFFFF00)), -box_muller(radius, angle)
    )


def test_normals_have_the_normal_distribution_and_no_other(counts):
    p_value = {f: ks_p_value(counts, f) for f in (2 / 3, 0.997, 1, 1.003, 3 / 2)}
    assert p_value.pop(1) > 1e-3
    assert max(p_value.values()) < 1e-9


@pytest.mark.parametrize("level", [1, 2, 3, 4, 4.5, 5])
def test_the_tails_are_as_heavy_as_they_should_be(counts, level):
    chance = 2 * stats.norm.sf(level)
    assert stats.binomtest(int(beyond(counts, level)), int(counts.sum()), chance).pvalue > 1e-4


def test_moments_are_those_of_a_normal(counts):
    middles = (np.arange(BINS) + 0.5) * (16 / BINS) - 8
    share, n = counts / counts.sum(), counts.sum()
    variances = {1: 1, 2: 2, 3: 15, 4: 96, 6: 10170}
    for power, variance in variances.items():
        expected = stats.norm.moment(power)
        assert abs(share @ middles**power - expected) < 5 * np.sqrt(variance / n) + 1e-7 * power**4


def test_numbers_are_uncorrelated_at_every_lag_and_so_are_their_sizes():
    values = np.asarray(noise.normals(jax.random.key(8), 2**20), np.float64)
    for seen in (values, values**2, np.sign(values), np.abs(values) > 2):
        assert largest_correlation(np.asarray(seen, np.float64)) < NOISE_LEVEL


def test_hardly_any_two_numbers_are_the_same():
    # A normal from a uniform of 24 bits repeats itself seven times as often, one of 16 bits always.
    values = np.asarray(noise.normals(jax.random.key(10), 10**6))
    assert np.unique(values).size > 0.985 * values.size


def test_keys_give_unrelated_numbers():
    keys = jnp.concatenate(
        [
            jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(100)),
            jax.vmap(jax.random.key)(jnp.arange(100)),
            jax.random.split(jax.random.key(1), 100),
        ]
    )
    values = np.asarray(jax.vmap(lambda key: noise.normals(key, 2**14))(keys))
    for seen in (values, values**2):
        correlation = np.corrcoef(seen) - np.eye(len(keys))
        assert np.abs(correlation).max() * 2**7 < NOISE_LEVEL


def test_more_numbers_than_counters_are_refused():
    with pytest.raises(InputError, match=r"count is 4294967297; .* at most 2\^32"):
        jax.eval_shape(lambda key: noise.normals(key, 2**32 + 1), jax.random.key(0))


# Noise for trees.


def test_the_noise_is_gaussian_of_the_claimed_size_and_of_no_other():
    values = flat(draw(jax.random.key(1), 0.7))
    p_value = {
        f: stats.kstest(values, stats.norm(0, 0.7 * f).cdf).pvalue for f in (2 / 3, 1, 3 / 2)
    }
    assert p_value[1] > 1e-3
    assert p_value[2 / 3] < 1e-9
    assert p_value[3 / 2] < 1e-9


def test_every_leaf_gets_its_own_noise_of_the_claimed_size():
    noisy = draw(jax.random.key(2), 2.0)
    for name in ("w", "b"):
        assert stats.kstest(np.ravel(noisy[name]), stats.norm(0, 2.0).cdf).pvalue > 1e-3
    head = np.ravel(noisy["w"])[:40_000]
    assert abs(np.corrcoef(head, noisy["b"])[0, 1]) < 5 / np.sqrt(40_000)
    assert noisy["scalar"] != 0


def test_no_number_of_a_tree_gets_the_noise_of_another():
    values = flat(draw(jax.random.key(11), 1.0)).astype(np.float64)
    assert largest_correlation(values) < NOISE_LEVEL
    assert largest_correlation(values**2) < NOISE_LEVEL


def test_keys_decide_the_noise():
    first, again, other = (flat(draw(jax.random.key(k), 1.0)) for k in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(first.size)


def test_noise_is_added_to_what_is_there():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.float32(7)}
    zero = jax.tree.map(jnp.zeros_like, tree)
    key = jax.random.key(0)
    difference = jax.tree.map(jnp.subtract, draw(key, 0.5, tree), draw(key, 0.5, zero))
    jax.tree.map(lambda d, t: np.testing.assert_allclose(d, t, rtol=1e-6), difference, tree)


def test_structure_shapes_and_types_are_kept():
    tree = {"a": [jnp.ones((2, 0)), jnp.ones((3, 1), jnp.bfloat16)], "b": (jnp.float32(1),)}
    noisy = draw(jax.random.key(0), 1.0, tree)
    assert jax.tree.map(jnp.shape, noisy) == jax.tree.map(jnp.shape, tree)
    assert jax.tree.map(jnp.result_type, noisy) == jax.tree.map(jnp.result_type, tree)


@pytest.mark.parametrize("stddev", [0.0, 1.5])
def test_stddevs_can_be_mapped_over(stddev):
    key, tree = jax.random.key(5), {"a": jnp.zeros(7), "b": jnp.ones((2, 2))}
    mapped = jax.vmap(lambda s: noise.add_gaussian(key, tree, s))(jnp.array([stddev, 9.0]))
    single = noise.add_gaussian(key, tree, stddev)
    jax.tree.map(lambda m, s: np.testing.assert_allclose(m[0], s, rtol=1e-6), mapped, single)


def test_no_noise_changes_nothing():
    tree = {"a": jnp.arange(7.0), "b": jnp.ones((2, 2))}
    jax.tree.map(np.testing.assert_array_equal, draw(jax.random.key(0), 0.0, tree), tree)
