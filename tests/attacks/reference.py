"""A small made score matrix, and attacks on it in plain loops as their papers write them."""

import math
import statistics

import numpy as np
from scipy import stats

MODELS, EXAMPLES = 16, 60


def made():
    """Logit margins of a target [e] and shadow models [m, e], both memberships, a population [e].

    Examples differ in difficulty, being a member lifts the margin, and the last 20 are population.
    """
    rng = np.random.default_rng(20221)
    half = np.arange(MODELS)[:, None] < MODELS // 2
    membership = rng.permuted(np.broadcast_to(half, (MODELS, EXAMPLES)), axis=0)
    hard, lift = rng.normal(0, 2, EXAMPLES), rng.gamma(2.0, 1.0, EXAMPLES)
    shadows = hard + lift * membership + rng.normal(0, 1, (MODELS, EXAMPLES))
    is_member = np.arange(EXAMPLES) % 2 == 0
    population = np.arange(EXAMPLES) >= 40
    is_member &= ~population
    target = hard + lift * is_member + rng.normal(0, 1, EXAMPLES)
    return target, shadows, membership, is_member, population


def sides(shadows, membership, example):
    pairs = list(zip(shadows[:, example], membership[:, example], strict=True))
    return [s for s, seen in pairs if seen], [s for s, seen in pairs if not seen]


def lira(target, shadows, membership, offline, variance):
    examples = range(len(target))
    inside, outside = zip(*[sides(shadows, membership, i) for i in examples], strict=True)

    def deviation(groups, i):
        if variance == "example":
            return statistics.stdev(groups[i])
        squares = sum((s - statistics.mean(group)) ** 2 for group in groups for s in group)
        return math.sqrt(squares / sum(len(group) - 1 for group in groups))

    result = []
    for i in examples:
        out = stats.norm(statistics.mean(outside[i]), deviation(outside, i))
        if offline:
            result.append(out.logcdf(target[i]) - out.logsf(target[i]))
        else:
            member = stats.norm(statistics.mean(inside[i]), deviation(inside, i))
            result.append(member.logpdf(target[i]) - out.logpdf(target[i]))
    return np.array(result)


def rmia(target, shadows, membership, population, gamma, offline, a):
    def ratio(i):
        inside, outside = sides(shadows, membership, i)
        p_out = statistics.mean(outside)
        if offline:
            return target[i] / ((1 + a) / 2 * p_out + (1 - a) / 2)
        return target[i] / ((statistics.mean(inside) + p_out) / 2)

    result = []
    known = [z for z in range(len(target)) if population[z]]
    for x in range(len(target)):
        before = sum(not population[y] for y in range(x))
        absent = x if population[x] else known[before % len(known)]
        others = [z for z in known if z != absent]
        result.append(sum(ratio(x) / ratio(z) > gamma for z in others) / len(others))
    return np.array(result)
