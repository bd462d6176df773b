"""Noisy votes: their answers have the probabilities that quadrature gives, on every class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpfinjax import pate
from dpfinjax.errors import InputError
from dpfinjax.pate import aggregation
from tests.pate import exact

HISTOGRAMS = ([5, 4, 1], [1, 4, 5], [4, 4, 2], [0, 0, 10], [3, 3, 2, 2])
DRAWS = 200_000


def answers(seed, histogram, scale, mechanism, draws=DRAWS):
    votes = jnp.tile(jnp.array(histogram), (draws, 1))
    return np.asarray(pate.noisy_argmax(jax.random.key(seed), votes, scale, mechanism))


def p_value(drawn, probabilities):
    """Chi-square of drawn classes; classes that are hardly ever drawn are left to be 0."""
    counts = np.bincount(drawn, minlength=len(probabilities))
    expected = np.asarray(probabilities) * drawn.size
    kept = expected > 5
    expected = expected[kept] * counts[kept].sum() / expected[kept].sum()
    return stats.chisquare(counts[kept], expected).pvalue


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("histogram", HISTOGRAMS)
@pytest.mark.parametrize("scale", [2.0, 5.0])
def test_answers_have_the_probabilities_of_the_mechanism(histogram, scale, mechanism):
    expected = exact.answer_probabilities(histogram, scale, mechanism)
    assert expected.sum() == pytest.approx(1, abs=1e-9)
    assert p_value(answers(1, histogram, scale, mechanism), expected) > 1e-4


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("histogram", HISTOGRAMS)
def test_noise_on_one_class_only_or_of_another_scale_would_be_seen(histogram, mechanism):
    rng, scale = np.random.default_rng(2), 3.0
    expected = exact.answer_probabilities(histogram, scale, mechanism)
    law = exact.LAWS[mechanism]
    noise = np.zeros((DRAWS, len(histogram)))
    noise[:, 0] = law.rvs(scale=scale, size=DRAWS, random_state=rng)
    assert p_value((np.array(histogram) + noise).argmax(axis=1), expected) < 1e-12
    if len(set(histogram)) > 2:  # of even votes the scale says less
        assert p_value(answers(3, histogram, 0.9 * scale, mechanism), expected) < 1e-6


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_answers_of_two_queries_are_independent(mechanism):
    pairs = answers(4, [5, 4, 4], 3.0, mechanism).reshape(-1, 2)
    table = np.zeros((3, 3))
    np.add.at(table, (pairs[:, 0], pairs[:, 1]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_laplace_numbers_follow_their_law_to_the_tails():
    drawn = np.concatenate(
        [aggregation._laplaces(jax.random.key(i), 500_000) for i in range(4)]
    ).astype(float)
    assert stats.kstest(drawn, stats.laplace.cdf).pvalue > 1e-3
    beyond = (np.abs(drawn) > 8).sum()
    assert stats.binomtest(int(beyond), drawn.size, np.exp(-8)).pvalue > 1e-3


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_classes_that_stay_equal_share_their_answers_evenly(mechanism):
    drawn = answers(5, [2, 7, 7, 7], 1e-44, mechanism)  # float32 noise vanishes, all is a tie
    assert p_value(drawn, [0, 1 / 3, 1 / 3, 1 / 3]) > 1e-4
    assert not (drawn == 0).any()


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_unanimous_votes_far_above_the_noise_are_answered_as_they_are(mechanism):
    assert (answers(6, [0, 10_000, 0], 10.0, mechanism) == 1).all()


def test_a_query_has_the_same_law_in_any_program():
    votes = jnp.array([[9, 1], [4, 6]] * 50)
    key = jax.random.key(7)
    plain = pate.noisy_argmax(key, votes, 2.0)
    jitted = jax.jit(pate.noisy_argmax)(key, votes, 2.0)
    batched = jax.vmap(pate.noisy_argmax, (0, None, 0))(key[None], votes, jnp.array([2.0]))[0]
    np.testing.assert_array_equal(plain, jitted)
    np.testing.assert_array_equal(plain, batched)
    assert plain.dtype == jnp.int32


def test_the_check_passes_as_often_as_its_noise_says_and_the_answer_has_noise_of_its_own():
    histogram, threshold, threshold_scale, scale = [6, 3, 1], 7, 2.0, 3.0
    votes = jnp.tile(jnp.array(histogram), (DRAWS, 1))
    drawn, answered = pate.confident(jax.random.key(8), votes, threshold, threshold_scale, scale)
    drawn, answered = np.asarray(drawn), np.asarray(answered)
    chance = stats.norm.sf(threshold - 6, scale=threshold_scale)
    assert stats.binomtest(int(answered.sum()), DRAWS, chance).pvalue > 1e-4
    expected = exact.answer_probabilities(histogram, scale, "gaussian")
    assert p_value(drawn[answered], expected) > 1e-4
    assert (drawn[~answered] == aggregation.REFUSED).all()


def test_no_more_queries_are_answered_than_the_limit_and_the_first_ones_are():
    votes = jnp.tile(jnp.array([6, 4]), (1000, 1))
    arguments = (jax.random.key(9), votes, 6, 2.0, 3.0)
    free, passed = pate.confident(*arguments)
    drawn, answered = pate.confident(*arguments, limit=17)
    first = np.flatnonzero(passed)[:17]
    np.testing.assert_array_equal(np.flatnonzero(answered), first)
    np.testing.assert_array_equal(drawn[first], free[first])
    assert (np.delete(np.asarray(drawn), first) == aggregation.REFUSED).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 99))
def test_votes_are_counts(teachers, queries, classes, seed):
    predictions = np.random.default_rng(seed).integers(0, classes, (teachers, queries))
    expected = [np.bincount(column, minlength=classes) for column in predictions.T]
    counted = pate.votes(jnp.array(predictions), classes)
    np.testing.assert_array_equal(counted, expected)
    assert counted.dtype == jnp.int32


KEY, VOTES = jax.random.key(0), jnp.array([[3, 1], [2, 2]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pate.noisy_argmax(KEY, VOTES, 0.0), "scale must be a finite number above 0"),
        (lambda: pate.noisy_argmax(KEY, VOTES, np.nan), "scale must be a finite number above 0"),
        (lambda: pate.noisy_argmax(KEY, VOTES, 1.0, "cauchy"), 'mechanism must be "gaussian" or'),
        (lambda: pate.noisy_argmax(KEY, VOTES - 2, 1.0), "query 0 gives class 1 -1"),
        (lambda: pate.noisy_argmax(KEY, VOTES.at[1, 0].set(5), 1.0), "query 1 has 7"),
        (lambda: pate.confident(KEY, VOTES, 5, 1.0, 1.0), "threshold must be between 0 and .*4"),
        (lambda: pate.confident(KEY, VOTES, 3, -1.0, 1.0), "threshold_scale must be a finite"),
        (lambda: pate.confident(KEY, VOTES, 3, 1.0, 0.0), "scale must be a finite number above 0"),
        (lambda: pate.confident(KEY, VOTES, 3, 1.0, 1.0, limit=0), "limit must be a whole number"),
        (lambda: pate.votes(jnp.array([[0, 2]]), 2), "teacher 0 gives 2 for query 1"),
        (lambda: pate.votes(jnp.array([[0.0]]), 2), "predictions must be whole numbers of shape"),
    ],
)
def test_bad_input_is_told_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
