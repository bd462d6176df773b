"""Shadow models are their target, but for the examples that they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dpsgd as dpsgd_config
from dpfinjax import data, experiment, memory
from dpfinjax.attacks import answers, design, shadow_models, targets
from dpfinjax.errors import InputError
from dpfinjax.training import Data
from tests.test_resumable import Killed

pytestmark = pytest.mark.usefixtures("empty_pictures")

PRIVATE = {
    "clip_method": "auto",
    "noise_multiplier": 1.0,
    "clip_norm": 0.5,
    "optimizer": "sgd",
    "momentum": 0.5,
    "learning_rate": 1.0,
    "ema_decay": 0.98,
}
PLAIN = {
    "clip_method": "none",
    "noise_multiplier": None,
    "optimizer": "adam",
    "learning_rate": 1e-2,
    "ema_decay": 0.0,
}


@pytest.fixture(autouse=True)
def roomy(monkeypatch):
    """Memory for any number of models, without compiling a program to find out."""
    monkeypatch.setattr(memory, "models_that_fit", lambda *_: 99)


def make_run(cache, **changes):
    """A target to be, and its splits and pool; few tests change what is compiled."""
    config = dpsgd_config.get_config()
    config.target_epsilon = None
    config.data.update(sim_bars=120_000, cache_dir=cache, fractions=(0.4, 0.05, 0.1, 0.05, 0.4))
    config.model.hidden = (8,)
    config.update(seed=0, batch_size=32, epochs=3.0, accountant="rdp", microbatch=128)
    config.update(PLAIN | changes)
    (run,) = experiment.runs_of(config, data.describe(config))
    splits = data.load(config)
    return run, splits, targets.pool(splits, 0)


def halves(pool, models=4):
    return design.balanced(0, models, len(pool.is_member))


def train(run, pool, membership, folder, models_at_once=16, keys=None, examples=None):
    keys = shadow_models.keys_of(run, len(membership)) if keys is None else keys
    return shadow_models.train(keys, run, membership, examples or pool.data, folder, models_at_once)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(PRIVATE, id="private"),
        pytest.param(PLAIN, id="plain", marks=pytest.mark.long),
    ],
)
def test_a_shadow_model_with_the_target_s_examples_and_key_is_the_target(
    tmp_path, cache, monkeypatch, changes
):
    run, splits, pool = make_run(cache, **changes)
    ((target,),) = experiment.train_all([run], splits, tmp_path / "target", 1)
    seen = []

    def ask(params, *rest):
        seen.append(params)
        return answer(params, *rest)

    answer = answers.answer
    monkeypatch.setattr(answers, "answer", ask)
    membership = np.stack([pool.is_member, ~pool.is_member])
    keys = jnp.stack([experiment.key_of(run), jax.random.key(5)])
    train(run, pool, membership, tmp_path / "shadows", keys=keys)
    moved = [
        np.abs(np.asarray(a) - np.asarray(b)).max()
        for a, b in zip(jax.tree.leaves(seen[1]), jax.tree.leaves(target.params), strict=True)
    ]
    assert max(moved) > 0.01  # another key and other examples make another model
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), seen[0], target.params
    )


def test_settings_are_the_target_s_but_for_the_batch_in_proportion(cache):
    run, _, _ = make_run(cache, **PRIVATE)
    examples = run.plan.statement.examples
    got = shadow_models.hparams_of(run.plan, np.array([examples, examples // 2]))
    for name in ("learning_rate", "clip_norm", "noise_multiplier", "sample_rate"):
        np.testing.assert_array_equal(getattr(got, name), [getattr(run.plan.hparams, name)] * 2)
    assert got.batch_size[0] == run.plan.hparams.batch_size
    expected = run.plan.statement.sample_rate * (examples // 2)
    np.testing.assert_allclose(got.batch_size[1], expected, rtol=1e-6)


def test_the_program_is_the_target_s_unless_batches_would_not_fit(cache):
    run, _, _ = make_run(cache, **PRIVATE)
    examples = run.plan.statement.examples
    assert shadow_models.spec_of(run.plan, examples) == run.plan.spec
    larger = shadow_models.spec_of(run.plan, 2 * examples)
    assert larger.capacity > run.plan.spec.capacity
    assert (larger.steps, larger.epoch_steps) == (run.plan.spec.steps, run.plan.spec.epoch_steps)


def test_no_two_models_share_a_key(cache):
    run, _, _ = make_run(cache)
    keys = jax.random.key_data(shadow_models.keys_of(run, 64))
    target = jax.random.key_data(experiment.key_of(run))
    assert len(np.unique(np.vstack([keys, target]), axis=0)) == 65


def test_the_saved_membership_is_what_each_model_was_trained_on(tmp_path, cache):
    run, _, pool = make_run(cache)
    membership = halves(pool, 2)
    first = train(run, pool, membership, tmp_path / "a")
    saved = np.load(tmp_path / "a" / "membership.npy")
    np.testing.assert_array_equal(saved, membership)
    # What model 0 was not trained on may be anything.
    left_out = ~saved[0]
    images = np.array(pool.examples.image)
    images[left_out] = np.random.default_rng(1).normal(size=images[left_out].shape)
    changed = Data(jnp.asarray(images), pool.data.targets)
    second = train(run, pool, membership, tmp_path / "b", examples=changed)
    one, two = (part.answers.logits[:, saved[0]] for part in (first, second))
    np.testing.assert_array_equal(one[0], two[0])
    assert np.abs(one[1] - two[1]).max() > 1e-3


def test_arrays_have_a_row_for_each_model(tmp_path, cache):
    run, _, pool = make_run(cache)
    membership = halves(pool)
    trained = train(run, pool, membership, tmp_path)
    assert trained.answers.logits.shape == (*membership.shape, 8)
    assert trained.answers.grad_norm.shape == membership.shape
    again = shadow_models.load(tmp_path)
    for old, new in zip(jax.tree.leaves(trained), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not (tmp_path / "unfinished").exists()


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, cache, monkeypatch):
    run, _, pool = make_run(cache)
    membership = halves(pool)
    expected = train(run, pool, membership, tmp_path / "a", models_at_once=2)
    on_epoch, epochs = shadow_models._Progress.on_epoch, []

    def die(self, epoch, *rest):
        epochs.append(epoch)
        if len(epochs) == run.plan.spec.epochs + 2:
            raise Killed
        on_epoch(self, epoch, *rest)

    monkeypatch.setattr(shadow_models._Progress, "on_epoch", die)
    with pytest.raises(Killed):
        train(run, pool, membership, tmp_path / "b", models_at_once=2)
    assert not (tmp_path / "b" / "logits.npy").exists()
    epochs.clear()
    got = train(run, pool, membership, tmp_path / "b", models_at_once=2)
    # The first two models are not trained again, and the next two go on after their first epoch.
    assert epochs == list(range(2, run.plan.spec.epochs + 1))
    np.testing.assert_array_equal(got.answers.logits, expected.answers.logits)
    np.testing.assert_array_equal(got.answers.grad_norm, expected.answers.grad_norm)


def test_chunks_do_not_change_the_models(tmp_path, cache):
    run, _, pool = make_run(cache)
    membership = halves(pool)
    whole = train(run, pool, membership, tmp_path / "a")
    parts = train(run, pool, membership, tmp_path / "b", models_at_once=2)
    np.testing.assert_allclose(whole.answers.logits, parts.answers.logits, rtol=1e-3, atol=1e-4)


def test_shadow_models_of_another_config_or_design_are_refused(tmp_path, cache):
    run, _, pool = make_run(cache)
    membership = halves(pool)
    train(run, pool, membership, tmp_path)
    other, _, _ = make_run(cache, learning_rate=0.25)
    with pytest.raises(InputError, match=r"config\.learning_rate is 0\.01 there and 0\.25 here"):
        train(other, pool, membership, tmp_path)
    with pytest.raises(InputError, match=r"it\.membership"):
        train(run, pool, design.balanced(1, 4, len(pool.is_member)), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda design: design[:1], "at least 2 shadow models"),
        (lambda design: design | True, "Example 0 is in all shadow models"),
        (lambda design: design & False, "Example 0 is in no shadow model"),
        (lambda design: design[:, 1:], "must be equal"),
    ],
)
def test_designs_that_no_attack_can_use_are_refused(tmp_path, cache, change, words):
    run, _, pool = make_run(cache)
    with pytest.raises(InputError, match=words):
        train(run, pool, change(halves(pool)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_answers_are_refused_and_not_attacked_with(tmp_path, cache):
    run, _, pool = make_run(cache)
    expected = train(run, pool, halves(pool), tmp_path)
    np.testing.assert_array_equal(
        shadow_models.load(tmp_path).answers.logits, expected.answers.logits
    )
    logits = np.load(tmp_path / "logits.npy")
    logits[0, 0, 0] += 1
    np.save(tmp_path / "logits.npy", logits)
    with pytest.raises(InputError, match=r"damaged.*trains these shadow models again"):
        train(run, pool, halves(pool), tmp_path)


def test_a_pool_is_the_training_split_and_never_more_of_the_population(cache):
    _, splits, _ = make_run(cache)
    few = splits._replace(train=data.Examples(*(part[:50] for part in splits.train)))
    pool = targets.pool(few, 0)
    assert pool.is_member.sum() == 50
    assert len(pool.is_member) == 100
    np.testing.assert_array_equal(pool.examples.image[:50], few.train.image)
    known = {ohlc.tobytes() for ohlc in splits.population.ohlc}
    assert all(ohlc.tobytes() in known for ohlc in pool.examples.ohlc[50:])
    with pytest.raises(InputError, match="needs both"):
        targets.pool(splits._replace(train=data.Examples(*(p[:0] for p in splits.train))), 0)
