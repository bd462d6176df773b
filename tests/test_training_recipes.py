"""What a recipe adds to `fit`: copies, weight decay and a start, none of which cost privacy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax import dpsgd, models, resumable, sampling, training
from dpfinjax.augmentation import NO_COPIES, Augmentation
from dpfinjax.data import gaf
from dpfinjax.errors import InputError
from dpfinjax.training import Data, HParams, Membership, Spec
from tests.test_training import Flat, assert_trees_close, assert_trees_equal
from tests.test_training_units import norm_of

UNITS, ROWS, LENGTH = 5, 12, 4
TABLE = [[0, 1, 2], [3, 4, -1], [5, -1, -1], [6, 7, 8], [9, 10, 11]]
HOW = Augmentation(2, 0.1, 0.3)
SERIES = models.build("gaf_series", hidden=(6,))
NORMED = models.build("gaf_cnn", widths=(4,), strides=(2,), hidden=(), groups=2)
FIT = jax.jit(training.fit, static_argnames="spec")
INIT = jax.jit(training.init, static_argnames="spec")
STEP = jax.jit(training.train_epoch, static_argnames="spec")


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compiling is most of these tests' time, and what it makes need not be fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make_data(seed=0, units=False):
    """Images of random windows, the first two of them alike."""
    rng = np.random.default_rng(seed)
    open, close = 100 + rng.normal(size=(2, ROWS, LENGTH))
    high = np.maximum(open, close) + rng.exponential(size=(ROWS, LENGTH))
    low = np.minimum(open, close) - rng.exponential(size=(ROWS, LENGTH))
    images = gaf.encode(np.stack([open, high, low, close], axis=-1))
    images[1] = images[0]
    targets = jnp.asarray(rng.integers(0, 8, ROWS), jnp.int32)
    return Data(jnp.asarray(images), targets, jnp.asarray(TABLE) if units else None)


def make_hparams(learning_rate=0.3, clip_norm=0.5, noise=0.3, rate=0.5, batch_size=6.0):
    return HParams(*map(jnp.float32, (learning_rate, clip_norm, noise, rate, batch_size)))


def spec_of(method, module=SERIES, how=HOW, **changes):
    options = {"steps": 1, "epoch_steps": 1, "capacity": 16, "microbatch": 16} | changes
    return Spec(module, clip_method=method, augmentation=how, **options)


def sum_of_gradients(data, members, spec, clip_norm):
    """The parameters before one step that takes all members, and the clipped sum it used."""
    rows = jnp.zeros(training.count_units(data), jnp.int32)
    rows = rows.at[: len(members)].set(jnp.asarray(members, jnp.int32))
    hparams = make_hparams(1.0, clip_norm, 0.0, 1.0, 1.0)
    state = INIT(jax.random.key(0), data, spec=spec)
    membership = Membership(rows, jnp.int32(len(members)))
    after, _ = STEP(jax.random.key(1), state, jnp.int32(0), hparams, membership, data, spec=spec)
    return state.params, jax.tree.map(jnp.subtract, state.params, after.params)


def batch_of(data, rows, key=0):
    fetched = jax.jit(training._fetched, static_argnums=2)
    return fetched(data, jax.random.key(key), spec_of("vmap"), None, jnp.asarray(rows))


@settings(max_examples=6)
@given(removed=st.integers(0, UNITS - 1), seed=st.integers(0, 99), units=st.booleans())
@pytest.mark.parametrize("method", ["vmap", "ghost"])
def test_one_example_with_its_copies_moves_the_sum_by_no_more_than_the_clip_norm(
    method, removed, seed, units
):
    data, clip_norm = make_data(seed, units), 0.05
    everyone = np.arange(training.count_units(data))
    sums = [
        sum_of_gradients(data, some, spec_of(method), clip_norm)[1]
        for some in (everyone, np.delete(everyone, removed))
    ]
    moved = norm_of(jax.tree.map(jnp.subtract, *sums))
    assert 0.9 * clip_norm < moved <= clip_norm * (1 + 1e-4)  # the gradient is longer than that


@pytest.mark.parametrize("clip_norm", [0.5, 100.0])
@pytest.mark.parametrize("units", [False, True])
def test_the_sum_is_that_of_the_clipped_means_over_copies(units, clip_norm, monkeypatch):
    """The definition, example by example and copy by copy, with copies that are known."""

    def copies_of(key, image, how):
        del key, how
        return jnp.stack([image, -image, image / 2])

    monkeypatch.setattr(training.augmentation, "with_copies", copies_of)
    data = make_data(units=units)
    spec = spec_of("vmap", how=Augmentation(2, 0.123))  # compiled for this test alone
    members = TABLE if units else [[row] for row in range(ROWS)]
    params, total = sum_of_gradients(data, np.arange(len(members)), spec, clip_norm)

    @jax.jit
    def gradient(image, label):
        def loss(params):
            logits = SERIES.apply({"params": params}, copies_of(None, image, None))
            labels = jnp.full(3, label)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses)

        return jax.grad(loss)(params)

    expected = jax.tree.map(jnp.zeros_like, params)
    for rows in ([row for row in unit if row >= 0] for unit in members):
        each = [gradient(data.inputs[row], data.targets[row]) for row in rows]
        mean = jax.tree.map(lambda *g: sum(g) / len(g), *each)
        factor = min(1.0, clip_norm / norm_of(mean))
        expected = jax.tree.map(lambda t, g: t + factor * g, expected, mean)  # noqa: B023
    assert_trees_close(total, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("module", "units"), [(NORMED, False), (SERIES, True)])
def test_both_ways_of_clipping_and_any_pieces_train_the_same_model_on_copies(module, units):
    data, hparams = make_data(units=units), make_hparams(clip_norm=0.2)
    everyone, key = training.everything(data), jax.random.key(0)
    expected, _ = FIT(key, hparams, everyone, data, spec=spec_of("vmap", module, steps=6))
    pieces = spec_of("ghost", module, steps=6, microbatch=2)
    params, _ = FIT(key, hparams, everyone, data, spec=pieces)
    assert_trees_close(params, expected, rtol=1e-3, atol=1e-4)


def test_copies_that_are_the_image_train_the_model_without_copies():
    data, key, hparams = make_data(), jax.random.key(0), make_hparams()
    everyone = training.everything(data)
    none, alike, other = (
        FIT(key, hparams, everyone, data, spec=spec_of("ghost", how=how, steps=6))[0]
        for how in (NO_COPIES, Augmentation(3), Augmentation(3, 0.5, 0.4))
    )
    assert_trees_close(alike, none, rtol=1e-2, atol=1e-3)  # a number near 0 is known to 2e-4
    apart = [norm_of(jax.tree.map(jnp.subtract, each, none)) for each in (alike, other)]
    assert apart[0] < 0.1 * apart[1]


@pytest.mark.parametrize("units", [False, True])
def test_an_example_s_copies_are_its_own_whoever_else_is_in_the_batch(units):
    data = make_data(units=units)
    together = np.asarray(batch_of(data, [3, 0, 1])[0])
    alone = np.asarray(batch_of(data, [1])[0])
    np.testing.assert_array_equal(together[2], alone[0])
    assert not np.array_equal(np.asarray(batch_of(data, [1], key=1)[0]), alone)
    if units:  # rows 0 and 1 of the data are one image, in one unit
        first, second = together[1][:3], together[1][3:6]
    else:
        first, second = together[1], together[2]
    np.testing.assert_array_equal(first[0], second[0])
    for one in first[1:]:
        for other in second[1:]:
            assert not np.array_equal(one, other)


def test_copies_samples_and_noise_have_keys_of_their_own_in_every_step(monkeypatch):
    given = []
    for module, name, place in (
        (training, "_fetched", 1),
        (sampling, "poisson", 0),
        (dpsgd, "private_grad", 0),
    ):
        function = getattr(module, name)

        def recorded(*arguments, function=function, place=place, **rest):
            given.append(jax.random.key_data(arguments[place]))
            return function(*arguments, **rest)

        monkeypatch.setattr(module, name, recorded)
    data, spec = make_data(), spec_of("vmap", steps=2)
    everyone = training.everything(data)

    @jax.jit
    def keys_of(step, state):
        training._step(jax.random.key(7), step, state, make_hparams(), everyone, data, spec)
        return jnp.stack(given)

    state = training.init(jax.random.key(0), data, spec)
    keys = [key.tobytes() for step in range(2) for key in keys_of(jnp.int32(step), state)]
    assert len(keys) == len(set(keys)) == 6


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_without_decay_is_optax_s_bit_for_bit(momentum, nesterov):
    spec = spec_of("none", momentum=momentum, nesterov=nesterov)
    assert_same_updates(spec, lambda rate: optax.sgd(rate, momentum or None, nesterov))


def test_adam_without_decay_is_optax_s_bit_for_bit():
    assert_same_updates(spec_of("none", optimizer="adam"), optax.adam)


def test_adam_with_decay_is_optax_s_adamw_bit_for_bit():
    spec = spec_of("none", optimizer="adam", weight_decay=0.3)
    assert_same_updates(spec, lambda rate: optax.adamw(rate, weight_decay=0.3))


def assert_same_updates(spec, reference):
    """Both optimizers go the same way for some steps."""
    params = {"a": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.ones(5)}
    rate, found = jnp.float32(0.7), []
    for optimizer in (training._optimizer(spec, rate), reference(lambda count: rate)):
        update = jax.jit(optimizer.update)
        state, here, rng = optimizer.init(params), params, np.random.default_rng(1)
        for _ in range(5):
            grads = {
                k: jnp.asarray(rng.normal(size=p.shape), jnp.float32) for k, p in params.items()
            }
            updates, state = update(grads, state, here)
            here = optax.apply_updates(here, updates)
        found.append(here)
    assert_trees_equal(*found)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_decay_takes_its_share_and_never_enters_the_momentum(momentum):
    """Without gradient or noise, parameters shrink by the same share in every step."""
    rate, decay, steps = 0.5, 0.2, 7
    data = Data(jnp.zeros((ROWS, 3)), jnp.zeros(ROWS, jnp.int32), start=start_of(Flat(), (3,)))
    spec = Spec(
        Flat(), steps, steps, 16, "vmap", 16, momentum=momentum, weight_decay=decay, start="known"
    )
    params, _ = FIT(
        jax.random.key(0), make_hparams(rate, noise=0.0), training.everything(data), data, spec=spec
    )
    expected = jax.tree.map(lambda p: p * (1 - rate * decay) ** steps, data.start)
    assert_trees_close(params, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("decay", [-0.1, float("inf"), float("nan")])
def test_a_decay_that_means_nothing_is_refused(decay):
    with pytest.raises(InputError, match="weight_decay is"):
        spec_of("vmap", weight_decay=decay)


def start_of(module=SERIES, shape=(LENGTH, LENGTH, 4), seed=9):
    """Parameters that no training of these tests would begin with by itself."""
    params = module.init(jax.random.key(seed), jnp.zeros((1, *shape)))["params"]
    return jax.tree.map(lambda p: p + 0.25, params)


@pytest.mark.parametrize("method", ["none", "vmap", "ghost"])
def test_training_begins_at_the_start(method):
    data = make_data()._replace(start=start_of())
    spec = spec_of(method, start="known", steps=3, ema_decay=0.5)
    hparams = make_hparams(learning_rate=1e-30)
    found = [
        FIT(jax.random.key(key), hparams, training.everything(data), data, spec=spec)[0]
        for key in (0, 1)
    ]
    for params in found:
        assert_trees_close(params, data.start, rtol=1e-6, atol=0)
    without = training.init(jax.random.key(0), make_data(), dataclasses.replace(spec, start=""))
    assert not np.allclose(without.params["Dense_0"]["kernel"], data.start["Dense_0"]["kernel"])


@pytest.mark.parametrize("given", [False, True])
def test_a_start_and_its_name_go_together(given):
    data = make_data()._replace(start=start_of() if given else None)
    with pytest.raises(ValueError, match="must go with it"):
        training.init(jax.random.key(0), data, spec_of("vmap", start="" if given else "known"))


@pytest.mark.parametrize("models_at_once", [1, 2])
def test_two_trainings_from_one_start_leave_it_as_it_was(tmp_path, models_at_once):
    """States are donated; the start must not be."""
    data = make_data()._replace(start=start_of())
    before = jax.tree.map(np.array, data.start)
    spec = spec_of("ghost", start="known", steps=4, epoch_steps=2, ema_decay=0.9)
    key, hparams = jax.random.key(3), make_hparams()
    if models_at_once > 1:
        key = jax.random.split(key, models_at_once)
        hparams = jax.tree.map(lambda x: jnp.broadcast_to(x, models_at_once), hparams)
    found = [
        resumable.fit(
            key, hparams, training.everything(data), data, spec, tmp_path / name, lambda *_: None
        )
        for name in "ab"
    ]
    assert_trees_equal(*found)
    assert_trees_equal(data.start, before)


def test_a_resumed_run_with_a_start_copies_and_decay_ends_with_the_same_bits(tmp_path):
    data = make_data(units=True)._replace(start=start_of())
    spec = spec_of("ghost", start="known", steps=6, epoch_steps=2, weight_decay=0.1, ema_decay=0.9)

    def run(folder, kill_at=None):
        def on_epoch(epoch, state, history):
            if epoch == kill_at:
                raise KeyboardInterrupt

        everyone = training.everything(data)
        return resumable.fit(
            jax.random.key(5), make_hparams(), everyone, data, spec, tmp_path / folder, on_epoch
        )

    undisturbed = run("a")
    with pytest.raises(KeyboardInterrupt):
        run("b", kill_at=2)
    assert resumable.finished_epochs(tmp_path / "b") == 1
    assert_trees_equal(run("b"), undisturbed)
