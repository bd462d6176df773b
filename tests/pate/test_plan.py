"""A config's aggregation, its labels and its statement."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from configs import pate as pate_config
from dpfinjax import pate
from dpfinjax.errors import InputError
from dpfinjax.pate import plan
from tests.test_settings import make_facts

AVAILABLE = 300
FACTS = make_facts()
KEY = jax.random.key(0)


def make_config(**changes):
    config = pate_config.get_config()
    config.update(changes)
    return config


def random_votes(teachers=100, queries=AVAILABLE, seed=0):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(8, 0.3), queries)
    return np.stack([rng.multinomial(teachers, share) for share in shares]).astype(np.int32)


@pytest.mark.parametrize("mechanism", plan.MECHANISMS)
def test_the_stated_epsilon_is_within_the_target_and_close_to_it(mechanism):
    config = make_config(mechanism=mechanism, target_epsilon=3.0)
    found = plan.plan(config, AVAILABLE)
    queries = found.queries
    statement = plan.state(KEY, config, random_votes(queries=queries), found, FACTS)
    assert 2.999 < statement.epsilon <= 3.0
    assert statement.private_epsilon <= statement.epsilon
    assert queries == (AVAILABLE if mechanism == "confident" else config.answers)


def test_a_statement_is_about_the_noise_that_is_drawn():
    config = make_config(mechanism="gaussian", target_epsilon=None, scale=40.0, answers=50)
    found = plan.plan(config, AVAILABLE)
    votes = random_votes(queries=50)
    statement = plan.state(KEY, config, votes, found, FACTS)
    assert statement.epsilon == pate.epsilon(votes, 40.0, 1e-5, data_dependent=False)
    assert statement.private_epsilon == pate.epsilon(votes, 40.0, 1e-5)
    content = statement.to_json()
    assert content["noise_multiplier"] == 40.0 / math.sqrt(2)
    assert content["steps"] == 50
    assert content["neighbouring_relation"] == "add-or-remove-one"


def test_what_must_not_be_published_is_not_in_the_file_that_may_be():
    config = make_config()
    found = plan.plan(config, AVAILABLE)
    statement = plan.state(KEY, config, random_votes(), found, FACTS)
    assert statement.private_epsilon < statement.epsilon
    assert statement.private_epsilon not in statement.to_json().values()


def test_publishing_the_data_dependent_bound_is_paid_for():
    config = make_config(mechanism="gaussian", target_epsilon=None, scale=80.0, release=True)
    config.update(teachers=1000, answers=1000)
    votes = np.zeros((1000, 8), np.int32)
    votes[:, 0] = 1000
    found = plan.plan(config, 1000)
    statement = plan.state(KEY, config, votes, found, FACTS)
    config.release = False
    independent = plan.state(KEY, config, votes, found, FACTS).epsilon
    assert statement.released
    assert 10 * statement.private_epsilon < statement.epsilon < independent


def uneven(answer, classes=8):
    """The least chance that answers to ties of two classes are as one-sided as they are."""
    chances = []
    for first in range(classes - 1):
        votes = np.zeros((2000, classes), np.int32)
        votes[:, [first, first + 1]] = 50
        counts = np.bincount(answer(votes), minlength=classes)[[first, first + 1]]
        chances.append(stats.binomtest(int(counts[0]), int(counts.sum())).pvalue)
    return min(chances)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_noise_is_on_every_class_and_the_original_s_fault_is_caught(mechanism):
    found = plan.plan(make_config(mechanism=mechanism, target_epsilon=None, scale=5.0), AVAILABLE)
    assert uneven(lambda votes: plan.answer(jax.random.key(0), votes, found)) > 1e-4

    def original(votes):
        noisy = votes.astype(float)
        noisy[:, 0] += np.random.default_rng(0).laplace(0, 5.0, len(votes))
        return noisy.argmax(axis=1)

    assert uneven(original) < 1e-9


def test_answers_are_no_more_than_the_plan_allows():
    found = plan.plan(make_config(answers=20), AVAILABLE)
    answers = plan.answer(jax.random.key(0), random_votes(), found)
    assert (answers >= 0).sum() == 20


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mechanism": "exponential"}, "mechanism is 'exponential'"),
        ({"scale": 3.0}, "exactly one must be set"),
        ({"target_epsilon": None}, "exactly one must be set"),
        ({"target_epsilon": None, "scale": 0.0}, "scale is 0.0; it must be positive"),
        ({"target_epsilon": -1.0}, "target_epsilon is -1.0"),
        ({"check_ratio": 0.0}, "check_ratio is 0.0"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"threshold": 101.0}, "threshold is 101.0; .* number of teachers, 100"),
        ({"queries": 301}, "queries is 301; it must be from 1 to 300"),
        ({"answers": 0}, "answers is 0; it must be at least 1"),
        ({"teachers": 0}, "teachers is 0; it must be at least 1"),
        ({"release": True}, "release is set and config.mechanism is 'confident'"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_field(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        plan.plan(make_config(**changes), AVAILABLE)
