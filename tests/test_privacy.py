"""Statements: strict JSON with every promised field, and a sentence that says what it means."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpfinjax import privacy

STATEMENT = privacy.Statement(
    epsilon=2.0,
    delta=1e-5,
    noise_multiplier=1.5,
    clip_norm=0.3,
    sample_rate=0.1,
    steps=100,
    batch_size=64,
    examples=640,
    overflow_probability=1e-12,
    unit="one window",
    sampler="Poisson",
    accountant="pld",
    assumptions=("The seed is secret.",),
)
PROMISED = {
    "epsilon",
    "delta",
    "noise_multiplier",
    "clip_norm",
    "sample_rate",
    "steps",
    "neighbouring_relation",
    "unit",
    "sampler",
    "accountant",
    "assumptions",
}


def strict(path):
    """JSON without Python's extensions."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_one_statement_is_written_as_it_is(tmp_path):
    privacy.write(tmp_path / "privacy.json", {"dpsgd": STATEMENT}, named=False)
    content = strict(tmp_path / "privacy.json")
    assert set(content) >= PROMISED
    assert content["neighbouring_relation"] == "add-or-remove-one"
    assert content["epsilon"] == 2.0
    assert "published_epsilon" not in content


def test_several_are_written_under_their_names_and_infinity_is_a_string(tmp_path):
    baseline = STATEMENT._replace(epsilon=math.inf, clip_norm=math.inf, published_epsilon=6.3)
    privacy.write(tmp_path / "privacy.json", {"baseline": baseline, "dpsgd": STATEMENT}, True)
    content = strict(tmp_path / "privacy.json")
    assert set(content) == {"baseline", "dpsgd"}
    assert content["baseline"]["epsilon"] == content["baseline"]["clip_norm"] == "inf"
    assert content["baseline"]["published_epsilon"] == 6.3


def test_the_sentence_has_the_factor_that_epsilon_means():
    assert "a factor of at most 7.39," in STATEMENT.sentence()
    assert "one window" in STATEMENT.sentence()
    # 2.7047, not 2.705 rounded down to 2.7
    assert "a factor of at most 2.705," in STATEMENT._replace(epsilon=0.995).sentence()


def test_a_choice_is_stated_with_what_it_would_have_been_without(tmp_path):
    tuned = STATEMENT._replace(tuning=privacy.Tuning(0.9021, 8.0, math.inf, 5))
    privacy.write(tmp_path / "privacy.json", {"dpsgd": tuned}, named=False)
    content = strict(tmp_path / "privacy.json")
    assert content["epsilon"] == 2.0
    assert content["epsilon_without_tuning"] == 0.9021
    assert (content["mean_runs"], content["shape"], content["candidates"]) == (8.0, "inf", 5)
    assert "these trainings and the choice of the best" in tuned.sentence()
    assert "the best of 8 runs on average; its training alone has epsilon = 0.903" in (
        tuned.sentence()
    )
    assert "tuning" not in STATEMENT.to_json()
    assert "choice" not in STATEMENT.sentence()


@given(st.floats(1e-12, 1e6))
@example(1e-5)
@example(7.0)
def test_a_rounded_bound_still_bounds(value):
    assert value <= float(privacy.rounded_up(value)) <= value * 1.0021


def test_a_round_number_stays_one():
    assert privacy.rounded_up(1e-5) == "1e-05"
    assert privacy.rounded_up(2.5) == "2.5"


@pytest.mark.parametrize(("epsilon", "words"), [(math.inf, "not differentially"), (900.0, "e^900")])
def test_the_sentence_is_true_for_large_epsilons(epsilon, words):
    assert words in STATEMENT._replace(epsilon=epsilon).sentence()


@pytest.mark.parametrize(
    ("epsilon", "text"), [(3.9999, "4"), (3.1231, "3.124"), (0.0, "0"), (math.inf, "inf")]
)
def test_a_printed_epsilon_never_promises_too_much(epsilon, text):
    assert privacy.shown(epsilon) == text
