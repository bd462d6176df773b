"""Every mutant is caught, and what it was made of never accused."""

import jax
import numpy as np
import pytest

from dpfinjax import clipping, dpsgd
from dpfinjax.attacks import mutants
from dpfinjax.errors import InputError


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_the_mutant_is_caught_and_the_unbroken_mechanism_never_accused(name):
    mutant = mutants.MUTANTS[name]
    assert [mutant.broken(seed, 2000).refuted for seed in range(3)] == [True] * 3
    assert [mutant.unbroken(seed, 2000).refuted for seed in range(20)] == [False] * 20


def test_an_issue_s_worth_of_faults_is_there():
    assert len(mutants.MUTANTS) == 11


def test_the_bound_of_the_unbroken_mechanism_is_near_what_it_claims():
    # An audit that never found anything would never accuse anybody either.
    _, unbroken = mutants.try_mutant("noise halved", 0, 2000)
    assert 0.4 * unbroken.claimed < unbroken.low < unbroken.claimed


def test_an_unbroken_step_is_that_of_the_library():
    trial = mutants._trial(canary=100.0, others=0.5)
    key, mask = jax.random.key(3), np.arange(8) < 6
    params = mutants._along("kernel", 0.0)
    state = mutants.State(params, params)
    after = mutants.momentum_of_private_grad(
        key, state, mutants.Mechanism(), trial.others, mask, trial
    )
    clipped_grad = clipping.vmap_clipped_grad(mutants._product, 1.0)
    grad, _ = dpsgd.private_grad(key, clipped_grad, params, trial.others, mask, 1.0, 8.0)
    jax.tree.map(lambda p, g: np.testing.assert_allclose(p, -g, rtol=1e-6), after.params, grad)


def test_verdicts_tell_their_numbers():
    assert mutants.Verdict("a test", 1.0, 2.0).refuted
    assert not mutants.Verdict("a test", 2.0, 1.0).refuted
    assert mutants.Verdict("a test", 4.0, 2.0, 3.0).refuted
    sentence = mutants.Verdict("a test", 4.0, 2.0, 3.0).sentence()
    assert sentence == "a test: from 2 to 3, 4 is claimed"


def test_bad_arguments_are_told_in_a_sentence():
    with pytest.raises(InputError, match="'tired' does not exist"):
        mutants.try_mutant("tired")
    with pytest.raises(InputError, match="runs is 0"):
        mutants.try_mutant("noise halved", runs=0)
