"""`fit`: pure, mappable, and private where it says so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import stats

from dpfinjax import models, training
from dpfinjax.errors import InputError
from dpfinjax.training import Data, HParams, Membership, Spec

SMALL = models.build("gaf_series", hidden=(8,))
# A batch in one piece, which compiles faster.
SPEC = Spec(SMALL, steps=30, epoch_steps=10, capacity=40, clip_method="vmap", microbatch=40)
N = 64


class Flat(nn.Module):
    """A linear model whose gradient is zero wherever its input is."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, use_bias=False, kernel_init=nn.initializers.zeros)(x)


def make_data(n=N, seed=0):
    """Images whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 8, n)
    images = rng.normal(targets[:, None, None, None] / 4 - 1, 0.2, (n, 10, 10, 4))
    return Data(jnp.asarray(images, jnp.float32), jnp.asarray(targets, jnp.int32))


def make_hparams(learning_rate=1.0, clip_norm=1.0, noise=0.5, batch_size=16.0, n=N):
    numbers = (learning_rate, clip_norm, noise, batch_size / n, batch_size)
    return HParams(*map(jnp.float32, numbers))


fit = jax.jit(training.fit, static_argnames="spec")


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_trees_close(actual, expected, rtol=1e-4, atol=1e-5):
    def assert_close(a, e):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)

    jax.tree.map(assert_close, actual, expected)


@pytest.mark.parametrize(("method", "learning_rate"), [("none", 0.2), ("vmap", 1.0)])
def test_it_learns(method, learning_rate):
    data = make_data(512)
    spec = dataclasses.replace(SPEC, clip_method=method, steps=400, capacity=128)
    hparams = make_hparams(learning_rate, 1.0, 0.3, 64.0, 512)
    params, history = fit(jax.random.key(0), hparams, training.everything(data), data, spec)
    assert training.evaluate(params, data, SMALL).accuracy > 0.6
    assert history.loss[-1] < 0.7 * history.loss[0]
    np.testing.assert_allclose(history.batch_size.mean(), 64, rtol=0.1)


def test_the_same_key_gives_the_same_bits_and_another_does_not():
    data = make_data()
    runs = [
        fit(jax.random.key(k), make_hparams(), training.everything(data), data, SPEC)[0]
        for k in (1, 1, 2)
    ]
    assert_trees_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0]["Dense_0"]["kernel"], runs[2]["Dense_0"]["kernel"])


def test_epochs_one_by_one_are_the_whole_program():
    data, key, hparams = make_data(), jax.random.key(3), make_hparams()
    everyone = training.everything(data)
    params, history = fit(key, hparams, everyone, data, SPEC)
    step = jax.jit(training.train_epoch, static_argnames="spec")
    state, losses = training.init(key, data, SPEC), []
    for epoch in range(SPEC.epochs):
        state, seen = step(key, state, jnp.int32(epoch), hparams, everyone, data, spec=SPEC)
        losses.append(seen.loss)
    assert_trees_close(state.result, params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, history.loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "epoch_steps"), [(7, 3), pytest.param(1, 5, marks=pytest.mark.long)]
)
def test_the_number_of_updates_is_exact_whatever_the_epochs(steps, epoch_steps):
    spec = dataclasses.replace(SPEC, steps=steps, epoch_steps=epoch_steps)
    data, key, hparams = make_data(), jax.random.key(0), make_hparams()
    params, history = fit(key, hparams, training.everything(data), data, spec)
    whole = dataclasses.replace(spec, epoch_steps=steps)
    expected, _ = fit(key, hparams, training.everything(data), data, whole)
    assert len(history.loss) == spec.epochs == -(-steps // epoch_steps)
    assert_trees_close(params, expected, rtol=1e-5, atol=1e-6)


def test_settings_that_are_arrays_can_be_mapped_over():
    data, everyone = make_data(), training.everything(make_data())
    cells = [make_hparams(1.0, 0.5, 0.2), make_hparams(0.3, 2.0, 1.0, 8.0)]
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *cells)
    many = jax.vmap(training.fit, in_axes=(0, 0, None, None, None))
    params, history = jax.jit(many, static_argnums=4)(keys, stacked, everyone, data, SPEC)
    for row, cell in enumerate(cells):
        expected, seen = fit(keys[row], cell, everyone, data, SPEC)
        assert_trees_close(jax.tree.map(lambda p: p[row], params), expected, 1e-3, 1e-4)  # noqa: B023
        np.testing.assert_allclose(history.loss[row], seen.loss, rtol=1e-3)


def test_a_model_sees_its_members_and_nothing_else():
    data, rows = make_data(), jnp.array([3, 9, 11, 40, 50, 0, 0, 0], jnp.int32)
    members = Membership(rows, jnp.int32(5))
    outside = np.setdiff1d(np.arange(N), rows[:5])
    poisoned = Data(data.inputs.at[outside].set(jnp.nan), data.targets)
    hparams = make_hparams(batch_size=3.0, n=5)
    clean, history = fit(jax.random.key(1), hparams, members, data, SPEC)
    dirty, _ = fit(jax.random.key(1), hparams, members, poisoned, SPEC)
    assert_trees_equal(clean, dirty)
    np.testing.assert_allclose(history.batch_size.mean(), 3, rtol=0.25)
    changed = Data(data.inputs.at[rows[:5]].multiply(-1), data.targets)
    other, _ = fit(jax.random.key(1), hparams, members, changed, SPEC)
    assert not np.array_equal(clean["Dense_0"]["kernel"], other["Dense_0"]["kernel"])


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("sgd", 0.9)])
def test_k_steps_on_zero_gradients_leave_the_noise_that_is_claimed(optimizer, momentum):
    """The parameters are then sums of the noise alone, whose size is known."""
    steps, rate, noise, clip, batch = 12, 0.7, 1.3, 0.25, 16.0
    data = Data(jnp.zeros((N, 500)), jnp.zeros(N, jnp.int32))
    spec = Spec(Flat(), steps, 4, 40, "vmap", 16, optimizer, momentum)
    hparams = make_hparams(rate, clip, noise, batch)
    params, _ = fit(jax.random.key(5), hparams, training.everything(data), data, spec)
    # The noise of step t is in the parameters 1 + m + ... + m^(steps - t - 1) times.
    weights = [sum(momentum**j for j in range(steps - t)) for t in range(steps)]
    stddev = rate * noise * clip / batch * np.sqrt(np.sum(np.square(weights)))
    values = np.ravel(params["Dense_0"]["kernel"])
    assert stats.kstest(values, stats.norm(0, stddev).cdf).pvalue > 1e-3
    assert stats.kstest(values, stats.norm(0, stddev * 2 / 3).cdf).pvalue < 1e-9
    assert stats.kstest(values, stats.norm(0, stddev * 3 / 2).cdf).pvalue < 1e-9


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 0.3), ("adam", 0.01)])
def test_the_average_of_parameters_is_what_is_returned(optimizer, learning_rate):
    spec = dataclasses.replace(SPEC, ema_decay=0.9, optimizer=optimizer)
    # Two programs round differently, which steps as long as the parameters would magnify.
    data, key, hparams = make_data(), jax.random.key(0), make_hparams(learning_rate)
    everyone = training.everything(data)
    averaged, _ = fit(key, hparams, everyone, data, spec)
    one_step = dataclasses.replace(spec, epoch_steps=1, ema_decay=0.0)
    step = jax.jit(training.train_epoch, static_argnames="spec")
    state = training.init(key, data, one_step)
    expected = state.params
    for number in range(SPEC.steps):
        state, _ = step(key, state, jnp.int32(number), hparams, everyone, data, spec=one_step)
        decay = min(0.9, (number + 1) / (number + 11))
        expected = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new,  # noqa: B023
            expected,
            state.params,
        )
    assert_trees_close(averaged, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        (
            "cosine",
            [1 / 3, 2 / 3, 1, (1 + np.cos(np.pi / 4)) / 2, 0.5, (1 + np.cos(3 * np.pi / 4)) / 2],
        ),
    ],
)
def test_schedules_warm_up_and_decay(schedule, expected):
    """With zero gradients and one noise scale, each step moves by its learning rate."""
    data = Data(jnp.zeros((N, 4000)), jnp.zeros(N, jnp.int32))
    spec = Spec(Flat(), 6, 1, 40, "vmap", 16, schedule=schedule, warmup_steps=2)
    hparams = make_hparams(0.7, 1.0, 1.0, 16.0)
    step = jax.jit(training.train_epoch, static_argnames="spec")
    key, everyone = jax.random.key(0), training.everything(data)
    state, moved = training.init(key, data, spec), []
    for number in range(6):
        before = np.array(state.params["Dense_0"]["kernel"])
        state, _ = step(key, state, jnp.int32(number), hparams, everyone, data, spec=spec)
        moved.append(np.std(state.params["Dense_0"]["kernel"] - before))
    np.testing.assert_allclose(moved, 0.7 / 16 * np.array(expected), rtol=0.03, atol=1e-9)


def test_nonfinite_examples_are_counted_and_harmless():
    data = make_data()
    bad = Data(data.inputs.at[7].set(jnp.nan), data.targets)
    params, history = fit(jax.random.key(0), make_hparams(), training.everything(bad), bad, SPEC)
    assert history.nonfinite.sum() > 0
    assert np.isfinite(history.loss).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_batch_without_a_finite_example_has_no_loss():
    data = make_data()
    bad = Data(jnp.full_like(data.inputs, jnp.nan), data.targets)
    _, history = fit(jax.random.key(0), make_hparams(), training.everything(bad), bad, SPEC)
    assert np.isnan(history.loss).all()


def test_the_batches_of_a_training_have_the_rate_that_is_accounted():
    data, rate, steps = make_data(), 0.17, 4000
    spec = Spec(Flat(), steps, steps, N, "none", N)
    flat = Data(data.inputs.reshape(N, -1)[:, :3], data.targets)
    hparams = make_hparams(1e-3, batch_size=rate * N)
    _, history = fit(jax.random.key(8), hparams, training.everything(flat), flat, spec)
    drawn = float(history.batch_size[0]) * steps
    assert stats.binomtest(round(drawn), N * steps, rate).pvalue > 1e-4
    assert stats.binomtest(round(drawn), N * steps, rate * 1.02).pvalue < 1e-4


def test_evaluation_in_chunks_is_evaluation():
    data = make_data(50)
    params = SMALL.init(jax.random.key(0), data.inputs[:1])["params"]
    logits = SMALL.apply({"params": params}, data.inputs)
    for chunk in (7, 50, 4096):
        answer = training.evaluate(params, data, SMALL, chunk)
        np.testing.assert_allclose(answer.logits, logits, rtol=1e-5, atol=1e-5)
        accuracy = np.mean(np.argmax(logits, axis=-1) == data.targets)
        np.testing.assert_allclose(answer.accuracy, accuracy, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip_method", "off"),
        ("clip_rule", "off"),
        ("optimizer", "lion"),
        ("schedule", "stairs"),
        ("momentum", 1.0),
        ("ema_decay", -0.1),
        ("steps", 0),
        ("capacity", 0),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(SPEC, **{field: value})


@pytest.mark.parametrize("method", ["ghost", "auto"])
def test_ghost_clipping_trains_the_same_model(method):
    data, key, hparams = make_data(), jax.random.key(0), make_hparams(0.3)
    everyone = training.everything(data)
    expected, seen = fit(key, hparams, everyone, data, SPEC)
    spec = dataclasses.replace(SPEC, clip_method=method)
    params, history = fit(key, hparams, everyone, data, spec)
    assert_trees_close(params, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(history.grad_norm, seen.grad_norm, rtol=1e-3)
    np.testing.assert_allclose(history.clipped, seen.clipped, atol=0.01)


@pytest.mark.parametrize("rule", ["automatic", "per_layer"])
def test_every_rule_trains_the_same_model_by_either_method(rule):
    data, key, hparams = make_data(), jax.random.key(0), make_hparams(0.3, clip_norm=0.1)
    everyone, spec = training.everything(data), dataclasses.replace(SPEC, clip_rule=rule, steps=10)
    expected, _ = fit(key, hparams, everyone, data, spec)
    params, _ = fit(key, hparams, everyone, data, dataclasses.replace(spec, clip_method="ghost"))
    assert_trees_close(params, expected, rtol=1e-3, atol=1e-4)
    flat, _ = fit(key, hparams, everyone, data, dataclasses.replace(spec, clip_rule="flat"))
    assert not np.allclose(flat["Dense_0"]["kernel"], params["Dense_0"]["kernel"], rtol=1e-2)


def test_auto_takes_vmap_where_ghost_cannot():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            scale = self.param("scale", nn.initializers.ones, ())
            return nn.Dense(8)(scale * x.reshape(*x.shape[:-3], -1))

    data, key, hparams = make_data(), jax.random.key(0), make_hparams(0.3)
    everyone = training.everything(data)
    specs = [dataclasses.replace(SPEC, module=Scaled(), clip_method=m) for m in ("auto", "vmap")]
    auto, vmap = (fit(key, hparams, everyone, data, spec)[0] for spec in specs)
    assert_trees_equal(auto, vmap)
    with pytest.raises(InputError, match="scale"):
        fit(key, hparams, everyone, data, dataclasses.replace(specs[0], clip_method="ghost"))


@pytest.mark.parametrize("method", ["none", "vmap", "ghost"])
def test_microbatches_never_change_the_training(method):
    data, key, hparams = make_data(), jax.random.key(0), make_hparams(0.3)
    everyone = training.everything(data)
    spec = dataclasses.replace(SPEC, clip_method=method)
    expected, seen = fit(key, hparams, everyone, data, spec)
    params, history = fit(key, hparams, everyone, data, dataclasses.replace(spec, microbatch=7))
    assert_trees_close(params, expected, rtol=1e-3, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), history, seen)


@pytest.mark.long
def test_fit_needs_no_jit():
    data, key, hparams = make_data(), jax.random.key(0), make_hparams()
    everyone, spec = training.everything(data), dataclasses.replace(SPEC, steps=2, epoch_steps=1)
    expected, _ = fit(key, hparams, everyone, data, spec)
    params, _ = training.fit(key, hparams, everyone, data, spec)
    assert_trees_close(params, expected, rtol=1e-5, atol=1e-6)
