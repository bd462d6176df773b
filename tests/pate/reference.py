"""The bounds of Papernot et al. (2017) and (2018) as the papers write them, in plain loops."""

from mpmath import mp, mpf

# Enough digits for 1 - q, with q down to the smallest that float64 holds.
mp.dps = 330


def gaps(votes):
    ordered = sorted(votes, reverse=True)
    return [ordered[0] - other for other in ordered[1:]]


def gnmax_q(votes, scale):
    total = sum(mp.erfc(mpf(int(gap)) / (2 * mpf(scale))) / 2 for gap in gaps(votes))
    return min(total, 1 - mpf(1) / len(votes))


def lnmax_q(votes, scale):
    steps = [mpf(int(gap)) / mpf(scale) for gap in gaps(votes)]
    return min(sum((2 + x) / (4 * mp.exp(x)) for x in steps), 1 - mpf(1) / len(votes))


def theorem_6(q, scale, order):
    """Papernot et al. (2018), with the orders of Proposition 10; None where it does not apply."""
    variance, order = mpf(scale) ** 2, mpf(order)
    mu2 = mpf(scale) * mp.sqrt(mp.log(1 / q))
    mu1 = mu2 + 1
    eps1, eps2 = mu1 / variance, mu2 / variance
    if mu2 <= 1 or mu1 < order:
        return None
    ratio = mu1 / (mu1 - 1) * mu2 / (mu2 - 1)
    if q > mp.exp((mu2 - 1) * eps2) / ratio**mu2 or q * mp.exp(eps2) >= 1:
        return None
    a = (1 - q) / (1 - (q * mp.exp(eps2)) ** ((mu2 - 1) / mu2))
    b = mp.exp(eps1) / q ** (1 / (mu1 - 1))
    return mp.log((1 - q) * a ** (order - 1) + q * b ** (order - 1)) / (order - 1)


def gnmax_rdp(votes, scale, order):
    independent = mpf(order) / mpf(scale) ** 2
    dependent = theorem_6(gnmax_q(votes, scale), scale, order)
    return independent if dependent is None else min(independent, dependent)


def randomised_response_rdp(pure, order):
    order, true, false = mpf(order), 1 / (1 + mp.exp(-pure)), 1 / (1 + mp.exp(pure))
    terms = true**order * false ** (1 - order) + false**order * true ** (1 - order)
    return mp.log(terms) / (order - 1)


def lnmax_rdp(votes, scale, order):
    """Papernot et al. (2017), Theorem 3: the moment l = order - 1, divided by l."""
    gamma, q, moment = 1 / mpf(scale), lnmax_q(votes, scale), mpf(order) - 1
    independent = randomised_response_rdp(2 * gamma, order)
    if q >= (mp.exp(2 * gamma) - 1) / (mp.exp(4 * gamma) - 1):
        return independent
    likely = (1 - q) * ((1 - q) / (1 - mp.exp(2 * gamma) * q)) ** moment
    return min(independent, mp.log(likely + q * mp.exp(2 * gamma * moment)) / moment)


def confident_rdp(votes, threshold, threshold_scale, scale, order):
    """A refusal, or a check that passes and then an answer, against both neighbours."""
    order, answer = mpf(order), gnmax_rdp(votes, scale, order)

    def chances(largest):
        margin = (mpf(int(largest)) - mpf(threshold)) / mpf(threshold_scale)
        return mp.ncdf(-margin), mp.ncdf(margin)

    def against(largest):
        (refuses, passes), (other_refuses, other_passes) = chances(max(votes)), chances(largest)
        refused = refuses**order * other_refuses ** (1 - order)
        answered = passes**order * other_passes ** (1 - order) * mp.exp((order - 1) * answer)
        return mp.log(refused + answered) / (order - 1)

    return max(against(max(votes) - 1), against(max(votes) + 1))


def papernot_check_rdp(votes, threshold, threshold_scale, order):
    """Papernot et al. (2018): Theorem 6 for the check, whose counts move by one and not by two."""
    margin = (mpf(int(max(votes))) - mpf(threshold)) / mpf(threshold_scale)
    wide = mp.sqrt(2) * mpf(threshold_scale)
    independent = mpf(order) / wide**2
    dependent = theorem_6(mp.ncdf(-abs(margin)), wide, order)
    return independent if dependent is None else min(independent, dependent)
