import doctest

import numpy as np
import pytest
from scipy import special

from dpfinjax.attacks import metrics, rmia
from dpfinjax.errors import InputError
from tests.attacks import reference


def made():
    target, shadows, membership, is_member, population = reference.made()
    return special.expit(target), special.expit(shadows), membership, is_member, population


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 1.3, 2.0])
def test_scores_are_those_of_the_paper_in_plain_loops(offline, gamma):
    target, shadows, membership, _, population = made()
    options = {"gamma": gamma, "offline": offline, "a": 0.3}
    fast = rmia.scores(target, shadows, membership, population, **options)
    slow = reference.rmia(target, shadows, membership, population, **options)
    np.testing.assert_allclose(fast, slow, rtol=1e-12)
    assert 0 < slow.mean() < 1


@pytest.mark.parametrize("offline", [False, True])
def test_members_score_higher(offline):
    target, shadows, membership, is_member, population = made()
    scores = rmia.scores(target, shadows, membership, population, gamma=1.0, offline=offline)
    assert metrics.roc(scores, is_member).auc > 0.6


def test_offline_never_looks_at_models_that_saw_the_example():
    target, shadows, membership, _, population = made()
    other = np.where(membership, 0.5, shadows)
    np.testing.assert_array_equal(
        rmia.scores(target, shadows, membership, population, offline=True),
        rmia.scores(target, other, membership, population, offline=True),
    )


def test_an_example_gains_nothing_from_being_outside_of_the_population():
    target, shadows, membership, _, population = made()
    best = rmia.scores(target, shadows, membership, population)[population].argmax() + 40
    target[best] = 1.0
    shadows[:, best] = 1e-3
    assert rmia.scores(target, shadows, membership, population)[best] == 1.0


def test_members_of_few_distinct_scores_are_at_chance_when_training_tells_nothing():
    rng = np.random.default_rng(0)
    examples, models = 4000, 8
    # Nearly all examples look alike and beat the same few of the population.
    target = rng.choice([0.1, 0.8, 0.81], examples, p=[0.01, 0.49, 0.5])
    membership = rng.permuted(np.tile([[True], [False]], (models // 2, examples)), axis=0)
    is_member = np.arange(examples) % 2 == 0
    scores = rmia.scores(target, np.full((models, examples), 0.5), membership, ~is_member)
    assert len(np.unique(scores)) < 10
    roc = metrics.roc(scores, is_member)
    assert abs(roc.auc - 0.5) < 0.02


def test_probabilities_of_zero_are_legal():
    target, shadows, membership, _, population = made()
    target[:5], shadows[:, :3] = 0.0, 0.0
    scores = rmia.scores(target, shadows, membership, population)
    assert np.isfinite(scores).all()


def test_memory_stays_far_below_a_matrix_of_pairs():
    examples = 100_000
    rng = np.random.default_rng(1)
    shadows = rng.random((2, examples))
    membership = np.array([[True] * examples, [False] * examples])
    scores = rmia.scores(rng.random(examples), shadows, membership, np.ones(examples, bool))
    assert scores.shape == (examples,)  # the matrix would hold 80 GB


BAD = [
    ({"target": lambda t: t * 3}, "target must be probabilities"),
    ({"shadows": lambda s: s - 1}, "shadows must be probabilities"),
    ({"population": lambda p: p[:-1]}, "population has shape"),
    ({"population": lambda p: p * 1.0}, "population must be an array of bool"),
    ({"population": lambda p: p & (np.arange(60) == 59)}, "population has 1 examples"),
    ({"gamma": lambda _: 0.5}, "gamma must be finite and at least 1"),
    ({"a": lambda _: -0.1}, "a must be within"),
    ({"membership": lambda m: m | True}, "Example 0 is in all shadow models"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD)
def test_a_bad_argument_is_named(changes, sentence):
    names = ("target", "shadows", "membership", "_", "population")
    arguments = dict(zip(names, made(), strict=True)) | {"gamma": 2.0, "a": 0.3}
    del arguments["_"]
    arguments |= {name: change(arguments[name]) for name, change in changes.items()}
    with pytest.raises(InputError, match=sentence):
        rmia.scores(**arguments)


def test_examples_in_docstrings():
    assert doctest.testmod(rmia).failed == 0
