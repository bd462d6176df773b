import jax
import numpy as np
import pytest

from dpfinjax.attacks import metrics, shadow
from dpfinjax.attacks.answers import Answers
from dpfinjax.errors import InputError

MODELS, EXAMPLES, CLASSES = 8, 150, 4
KEY = jax.random.key(0)
SMALL = {"hidden": (16,), "steps": 300, "batch_size": 256, "learning_rate": 3e-3}
RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, CLASSES, EXAMPLES)


def make_answers(membership, lift, rng):
    """Answers of one model or several, in which members have a higher logit by `lift`."""
    logits = rng.normal(size=(*membership.shape, CLASSES))
    logits += (2 + lift * membership)[..., None] * np.eye(CLASSES)[LABELS]
    return Answers(logits, rng.uniform(1, 2, membership.shape) - 0.3 * lift * membership)


def attacked(lift, seed=4):
    """Probabilities and membership of a target, with shadow models of the same kind."""
    rng = np.random.default_rng(seed)
    membership = rng.permuted(
        np.repeat([[True], [False]], MODELS // 2, axis=0).repeat(EXAMPLES, axis=1), axis=0
    )
    is_member = rng.random(EXAMPLES) < 0.5
    shadows, target = (make_answers(known, lift, rng) for known in (membership, is_member))
    return shadow.attack(KEY, target, shadows, membership, LABELS, **SMALL), is_member


def test_members_that_a_model_is_surer_of_are_recognised():
    probabilities, is_member = attacked(lift=2.0)
    assert metrics.roc(probabilities, is_member).auc_low > 0.8
    assert probabilities[is_member].mean() > 0.7
    assert probabilities[~is_member].mean() < 0.3
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_answers_that_know_nothing_of_membership_give_no_recognition():
    curves = [metrics.roc(*attacked(lift=0.0, seed=seed)) for seed in range(10)]
    assert sum(curve.auc_low <= 0.5 <= curve.auc_high for curve in curves) >= 8
    assert abs(np.mean([curve.auc for curve in curves]) - 0.5) < 0.05
    probabilities, _ = attacked(lift=0.0)
    assert abs(probabilities.mean() - 0.5) < 0.05


def test_a_target_surer_of_everything_is_not_taken_to_know_everybody():
    rng = np.random.default_rng(5)
    membership = rng.permuted(np.tile([[True], [False]], (4, EXAMPLES)), axis=0)
    shadows = make_answers(membership, 2.0, rng)
    target = make_answers(rng.random(EXAMPLES) < 0.5, 2.0, rng)
    surer = Answers(target.logits + 4 * np.eye(CLASSES)[LABELS], target.grad_norm / 3)
    first, second = (
        shadow.attack(KEY, answers, shadows, membership, LABELS, **SMALL).mean()
        for answers in (target, surer)
    )
    assert abs(first - second) < 0.1


def test_the_same_key_gives_the_same_probabilities():
    np.testing.assert_array_equal(attacked(1.0)[0], attacked(1.0)[0])


def test_features_are_what_they_are_called():
    given = make_answers(np.zeros((2, EXAMPLES), bool), 0.0, np.random.default_rng(6))
    found = shadow.features(given, LABELS)
    assert found.shape == (2, EXAMPLES, CLASSES + 3 + CLASSES)
    for model, example in ((0, 0), (1, EXAMPLES - 1)):
        weights = np.exp(given.logits[model, example])
        p = weights / weights.sum()
        own = p[LABELS[example]]
        expected = [
            *sorted(p, reverse=True),
            -np.log(own),
            np.log(own / (1 - own)),
            np.log(given.grad_norm[model, example]),
            *np.eye(CLASSES)[LABELS[example]],
        ]
        np.testing.assert_allclose(found[model, example], expected, rtol=1e-4, atol=1e-6)


def arguments(**changes):
    rng = np.random.default_rng(7)
    membership = rng.permuted(np.tile([[True], [False]], (2, EXAMPLES)), axis=0)
    return {
        "target": make_answers(membership[0], 1.0, rng),
        "shadows": make_answers(membership, 1.0, rng),
        "membership": membership,
        "labels": LABELS,
    } | changes


def one_model(answers):
    return Answers(answers.logits[:1], answers.grad_norm[:1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": LABELS[1:]}, "labels has shape"),
        ({"membership": np.ones((4, EXAMPLES), bool)}, "Example 0 is in all shadow models"),
        ({"membership": np.zeros((4, EXAMPLES), bool)}, "Example 0 is in no shadow model"),
        ({"membership": np.ones((3, EXAMPLES), bool)}, "membership has shape"),
        ({"shadows": one_model(arguments()["shadows"])}, "at least 2 shadow models"),
        (
            {"shadows": arguments()["shadows"]._replace(grad_norm=np.ones((4, 3)))},
            "as many in each",
        ),
        (
            {"target": arguments()["target"]._replace(grad_norm=np.full(EXAMPLES, np.nan))},
            "target must be finite",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        shadow.attack(KEY, **arguments(**changes), **SMALL)
