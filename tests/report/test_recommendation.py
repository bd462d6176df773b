"""The recommendation: the smallest epsilon that meets every condition, or why there is none."""

import math

import pytest

from dpfinjax.report import Attack, Audit, recommend
from tests.report import made

BASELINE = made.baseline(0.94)


def attack(low, high, name="LiRA"):
    """An attack with this interval."""
    return Attack(name, (low + high) / 2, (low, high), 0.001, (0.0, 0.01), ((0, 0), (1, 1)))


def named(*models, **changes):
    """The name of the recommended model, and the sentence."""
    found = recommend(made.study(*models, **changes))
    return (found.model.name if found.model else None), found.sentence


def test_the_smallest_epsilon_within_the_tolerance_wins_whatever_the_order():
    models = [made.model(f"e{e:g}", epsilon=e, accuracy=a) for e, a in ((8, 0.94), (2, 0.92))]
    models.append(made.model("e1", epsilon=1.0, accuracy=0.90))
    for ordered in (models, models[::-1]):
        name, sentence = named(BASELINE, *ordered)
        assert name == "e2"
        assert "epsilon 2" in sentence


def test_validation_decides_and_test_does_not():
    lucky = made.model("lucky", epsilon=1.0, validation=(0.8, 0.8), test=(0.99, 0.99))
    unlucky = made.model("unlucky", epsilon=2.0, validation=(0.93, 0.93), test=(0.5, 0.5))
    name, sentence = named(BASELINE, lucky, unlucky)
    assert name == "unlucky"
    assert "50.0\u00a0%" in sentence


def test_a_model_at_the_very_tolerance_is_within_it():
    at = made.model("at", validation=(0.91,))
    below = made.model("below", epsilon=1.0, validation=(0.9099,))
    assert named(made.baseline(validation=(0.94,)), at, below)[0] == "at"


def test_the_best_non_private_model_is_what_is_compared_with():
    weak = made.model("weak", "baseline", math.inf, 0.5)
    model = made.model("model", accuracy=0.8)
    assert named(weak, model)[0] == "model"
    assert named(weak, BASELINE, model)[0] is None


def test_a_model_that_was_not_attacked_is_not_recommended():
    name, sentence = named(BASELINE, made.model("m", accuracy=0.93, attacks=()))
    assert name is None
    assert "m, was not attacked" in sentence


@pytest.mark.parametrize(
    ("intervals", "passes"),
    [
        ([(0.48, 0.52)], True),
        ([(0.40, 0.45)], True),
        ([(0.50, 0.54)], True),
        ([(0.501, 0.54)], False),
        ([(0.48, 0.52), (0.51, 0.55)], False),
        # One of two that hold together is 1.14 times as wide, one of five 1.31 times.
        ([(0.48, 0.52), (0.502, 0.542)], True),
        ([(0.48, 0.52), (0.504, 0.544)], False),
        ([*[(0.48, 0.52)] * 4, (0.505, 0.545)], True),
        ([*[(0.48, 0.52)] * 4, (0.507, 0.547)], False),
        ([(math.nan, math.nan)], False),
    ],
)
def test_every_attack_must_be_within_chance(intervals, passes):
    attacks = tuple(attack(*ends, name=f"attack {i}") for i, ends in enumerate(intervals))
    name, sentence = named(BASELINE, made.model("m", accuracy=0.93, attacks=attacks))
    assert (name == "m") == passes
    if not passes:
        assert f"attack {len(intervals) - 1}, AUC" in sentence


def test_a_model_whose_epsilon_an_audit_refutes_is_not_recommended():
    audits = (Audit("one run", 0.3, 0.95), Audit("many runs", 4.1, 0.95))
    name, sentence = named(BASELINE, made.model("m", accuracy=0.93, epsilon=4.0, audits=audits))
    assert name is None
    assert "refuted by an audit, which finds an epsilon of 4.1" in sentence


def test_every_private_family_counts_and_no_other():
    leaky = made.model("free", "dpsgd", math.inf, 0.94)
    assert named(BASELINE, leaky)[0] is None
    for family in ("dpsgd", "pretrained", "published", "pate"):
        assert named(BASELINE, leaky, made.model("m", family, 4.0, 0.93))[0] == "m"


def test_a_model_with_an_unknown_accuracy_is_not_recommended():
    broken = made.model("broken", epsilon=1.0, validation=(0.94, math.nan))
    assert named(BASELINE, broken, made.model("m", accuracy=0.93))[0] == "m"
    name, sentence = named(BASELINE, broken)
    assert name is None
    assert "broken, has no validation accuracy" in sentence


def test_without_a_winner_the_closest_is_named_with_all_that_it_fails():
    far = made.model("far", epsilon=1.0, accuracy=0.5)
    near = made.model("near", epsilon=8.0, accuracy=0.90)
    both = made.model("both", epsilon=4.0, accuracy=0.905, attacks=())
    name, sentence = named(BASELINE, far, near, both)
    assert name is None
    assert "the closest, near, is 4.0\u00a0points below" in sentence
    assert "(3.0\u00a0points are tolerated)" in sentence
    assert "is 3.5\u00a0points below" in named(BASELINE, both)[1]
    assert named(BASELINE, both)[1].endswith("and was not attacked.")


@pytest.mark.parametrize("models", [(), (made.model("m"),), (BASELINE,)])
def test_a_study_that_lacks_what_is_compared_says_so(models):
    name, sentence = named(*models)
    assert name is None
    assert sentence.startswith("No private model can be recommended: ")


def test_the_sentence_says_what_was_promised_reached_and_found():
    model = made.model(
        "m",
        label="DP-SGD, epsilon 4",
        epsilon=3.99999,
        validation=(0.92,),
        test=(0.91, 0.92),
        tuned_epsilon=5.5,
        attacks=(attack(0.48, 0.52, "LiRA"), attack(0.49, 0.53, "RMIA")),
        audits=(Audit("one run", 0.31999, 0.95),),
    )
    sentence = named(made.baseline(0.94, test=(0.93,)), model)[1].replace("\u00a0", " ")
    for part in (
        "DP-SGD, epsilon 4",
        "at epsilon 4 (delta 1e-05, 5.5 with tuning)",
        "91.5 % over 2 seeds",
        "beside 93.0 % without privacy",
        "within the tolerated 3.0 points",
        "all 2 attacks on it together are within chance (the strongest alone: RMIA, AUC 0.510",
        "an epsilon of at least 0.319 (95 % confidence)",
    ):
        assert part in sentence
    assert sentence.count(". ") == 0


def test_a_model_that_was_not_audited_can_be_recommended_and_the_sentence_says_so():
    name, sentence = named(BASELINE, made.model("m", accuracy=0.93, audits=()))
    assert name == "m"
    assert "it was not audited" in sentence


def test_two_models_of_one_label_are_told_apart():
    one = made.model("one", label="same", accuracy=0.93)
    two = made.model("two", label="same", accuracy=0.93, epsilon=8.0)
    assert "same (one)" in named(BASELINE, one, two)[1]
