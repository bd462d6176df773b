"""Exact answer probabilities of noisy votes by quadrature, slow and plain."""

import functools
import itertools

import numpy as np
from scipy import integrate, stats

LAWS = {"gaussian": stats.norm, "laplace": stats.laplace}


def answer_probabilities(votes, scale, mechanism):
    """P(answer = i) = integral of f(x) prod over j != i of F(x + (n_i - n_j) / scale)."""
    return _answer_probabilities(tuple(int(count) for count in votes), scale, mechanism)


@functools.cache
def _answer_probabilities(votes, scale, mechanism):
    law = LAWS[mechanism]
    votes = np.asarray(votes, float) / scale
    kinks = {0.0, *(a - b for a in votes for b in votes)}
    edges = np.unique(np.clip([-40.0, *kinks, 40.0], -40, 40))

    def chance(i):
        others = np.delete(votes, i)

        def density(x):
            return law.pdf(x) * np.prod(law.cdf(x + votes[i] - others))

        pieces = itertools.pairwise(edges)
        return sum(integrate.quad(density, a, b, epsabs=1e-14, epsrel=1e-12)[0] for a, b in pieces)

    return np.array([chance(i) for i in range(votes.size)])


def neighbours(votes):
    """Every histogram that one teacher's vote can turn this one into, itself not included."""
    for a, b in itertools.permutations(range(len(votes)), 2):
        if votes[a] > 0:
            moved = np.array(votes)
            moved[a] -= 1
            moved[b] += 1
            yield moved


def divergence(p, q, order):
    """Rényi divergence of two discrete laws."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    return np.log(np.sum(p**order * q ** (1 - order))) / (order - 1)
