import numpy as np
import pytest

from dpfinjax.attacks import metrics, report
from tests.test_privacy import STATEMENT

RNG = np.random.default_rng(0)


def curve_of(shift, members=2000, others=2000):
    scores = np.concatenate([RNG.normal(shift, 1, members), RNG.normal(0, 1, others)])
    return metrics.roc(scores, np.arange(members + others) < members)


@pytest.mark.parametrize("fpr", [0.01, 0.001])
def test_an_attack_beyond_what_is_proven_is_told(fpr):
    strong, weak = curve_of(3.0), curve_of(0.0)
    assert not report.within_bound(strong, fpr, epsilon=0.5, delta=1e-5)
    assert report.within_bound(strong, fpr, epsilon=np.inf, delta=0.0)
    assert report.within_bound(weak, fpr, epsilon=0.0, delta=0.0)


def test_chance_alone_never_breaks_a_bound():
    """At epsilon 0 a useless attack scatters around the bound."""
    inside = [report.within_bound(curve_of(0.0, 300, 300), 0.01, 0.0, 0.0) for _ in range(200)]
    assert np.mean(inside) >= 0.95


def test_a_table_says_when_a_bound_is_broken():
    about = {
        "model": "dpsgd",
        "seed": 0,
        "train_accuracy": 0.9,
        "validation_accuracy": 0.8,
        "test_accuracy": 0.8,
        "seconds": 1.0,
        "shadow_models": 4,
    }
    statement = STATEMENT._replace(epsilon=0.5)
    lines = [report.row(statement, curve_of(shift), "lira", about) for shift in (3.0, 0.0)]
    table = report.table([*lines, lines[0]._replace(epsilon=np.inf)]).splitlines()
    assert "ABOVE ITS BOUND" in table[2]
    assert table[3].endswith("within")
    assert "inf" in table[4]
    assert "BOUND" not in table[4]


def test_a_recognition_rate_is_bounded_as_a_true_positive_rate():
    probabilities = np.concatenate([np.full(50, 0.6), np.full(50, 0.4)])
    is_member = np.arange(100) < 50
    statement = STATEMENT._replace(epsilon=np.log(1.25), delta=0.0)
    found = report.recognition("dpsgd", statement, probabilities, is_member, 4)
    assert found.recognition_rate == pytest.approx(0.6)
    assert found.population_rate == pytest.approx(0.4)
    assert found.recognition_rate_bound == pytest.approx(0.5)
    nothing = report.recognition(
        "a", statement._replace(epsilon=np.inf), probabilities, is_member, 4
    )
    assert nothing.epsilon == "inf"
    assert nothing.recognition_rate_bound == 1.0
