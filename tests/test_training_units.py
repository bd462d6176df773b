"""Units of privacy in `fit`: sampled whole, averaged, clipped once, and never mixed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax import memory, models, training
from dpfinjax.training import Data, HParams, Membership, Spec
from tests.test_training import Flat, assert_trees_close, assert_trees_equal

UNITS, K, ROWS = 5, 3, 12
SMALL = models.build("gaf_cnn", widths=(4,), strides=(2,), hidden=(8,))
STEP = jax.jit(training.train_epoch, static_argnames="spec")
FIT = jax.jit(training.fit, static_argnames="spec")


class Normed(nn.Module):
    """A network whose norm would tell whether windows of a unit are normalised together."""

    @nn.compact
    def __call__(self, x):
        x = nn.GroupNorm(num_groups=2)(nn.Conv(4, (2, 2), 2)(x))
        return nn.Dense(8)(x.reshape(x.shape[0], -1))


def make_data(seed=0, units=None):
    rng = np.random.default_rng(seed)
    inputs = jnp.asarray(rng.normal(size=(ROWS, 4, 4, 2)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 8, ROWS), jnp.int32)
    return Data(inputs, targets, None if units is None else jnp.asarray(units, jnp.int32))


@st.composite
def tables(draw):
    """Which windows belong to which unit: disjoint, at least one each, filled up with -1."""
    order = draw(st.permutations(range(ROWS)))
    table = np.full((UNITS, K), -1)
    for unit in range(UNITS):
        size = draw(st.integers(1, K if unit < 3 else 1))
        table[unit, :size] = [order.pop() for _ in range(size)]
    return table


def spec_of(method, module=SMALL, **changes):
    options = {"steps": 1, "epoch_steps": 1, "capacity": 8, "microbatch": 8} | changes
    return Spec(module, clip_method=method, **options)


def sum_of_gradients(data, members, spec, clip_norm):
    """The parameters before one step that takes everybody, and the clipped sum that it used."""
    hparams = HParams(*map(jnp.float32, (1.0, clip_norm, 0.0, 1.0, 1.0)))
    state = training.init(jax.random.key(0), data, spec)
    rows = jnp.zeros(UNITS if data.units is not None else ROWS, jnp.int32)
    rows = rows.at[: len(members)].set(jnp.asarray(members, jnp.int32))
    membership = Membership(rows, jnp.int32(len(members)))
    after, seen = STEP(jax.random.key(1), state, jnp.int32(0), hparams, membership, data, spec=spec)
    return state.params, jax.tree.map(jnp.subtract, state.params, after.params), seen


@jax.jit
def window_gradient(params, image, target):
    def loss(params):
        logits = SMALL.apply({"params": params}, image[None])
        return optax.softmax_cross_entropy_with_integer_labels(logits, target[None])[0]

    return jax.grad(loss)(params)


def slow_sum(params, data, members, clip_norm):
    """The definition: for each unit, the mean of its windows' gradients, clipped, one by one."""
    total = jax.tree.map(lambda p: np.zeros(p.shape), params)
    for unit in members:
        rows = [row for row in np.asarray(data.units)[unit] if row >= 0]
        each = [window_gradient(params, data.inputs[row], data.targets[row]) for row in rows]
        mean = jax.tree.map(lambda *g: sum(np.asarray(x, np.float64) for x in g) / len(g), *each)
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(mean)))
        if np.isfinite(norm):
            factor = min(1.0, clip_norm / norm)
            total = jax.tree.map(lambda t, g: t + factor * g, total, mean)  # noqa: B023
    return total


def norm_of(tree):
    return np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(tree)))


@settings(max_examples=25)
@given(
    table=tables(),
    members=st.lists(st.integers(0, UNITS - 1), unique=True).map(sorted),
    clip_norm=st.sampled_from([0.1, 1.0, 100.0]),
    broken=st.none() | st.integers(0, ROWS - 1),
)
def test_both_ways_of_clipping_are_the_definition_unit_by_unit(table, members, clip_norm, broken):
    data = make_data(units=table)
    if broken is not None:
        data = data._replace(inputs=data.inputs.at[broken].set(jnp.inf))
    for method in ("vmap", "ghost"):
        params, total, seen = sum_of_gradients(data, members, spec_of(method), clip_norm)
        expected = slow_sum(params, data, members, clip_norm)
        assert_trees_close(total, expected, rtol=1e-4, atol=2e-6)
        assert seen.nonfinite == sum(broken in table[unit] for unit in members)


@settings(max_examples=15)
@given(table=tables(), removed=st.integers(0, UNITS - 1), seed=st.integers(0, 99))
@pytest.mark.parametrize("method", ["vmap", "ghost"])
def test_one_whole_unit_moves_the_sum_by_no_more_than_the_clip_norm(method, table, removed, seed):
    data, clip_norm = make_data(seed, table), 0.05
    spec = spec_of(method)
    everyone, others = np.arange(UNITS), np.delete(np.arange(UNITS), removed)
    sums = [sum_of_gradients(data, some, spec, clip_norm)[1] for some in (everyone, others)]
    assert norm_of(jax.tree.map(jnp.subtract, *sums)) <= clip_norm * (1 + 1e-4)


def test_windows_that_are_clipped_one_by_one_would_move_it_by_more():
    """The test above can fail: this is what it would see without units."""
    data, clip_norm = make_data(), 0.05
    data = data._replace(inputs=data.inputs.at[:K].set(data.inputs[0]))
    data = data._replace(targets=data.targets.at[:K].set(data.targets[0]))
    spec = spec_of("vmap", capacity=16)
    everyone = np.arange(ROWS)
    sums = [sum_of_gradients(data, some, spec, clip_norm)[1] for some in (everyone, everyone[K:])]
    assert norm_of(jax.tree.map(jnp.subtract, *sums)) > 0.9 * K * clip_norm


@pytest.mark.parametrize("method", ["none", "vmap", "ghost"])
def test_a_norm_in_the_network_never_mixes_the_windows_of_a_unit(method):
    table = [[0, 1, 2], [3, 4, -1], [5, -1, -1], [6, 7, 8], [9, 10, -1]]
    data, spec = make_data(units=table), spec_of(method, Normed())
    params, total, _ = sum_of_gradients(data, np.arange(UNITS), spec, 1e6)

    def loss(params):  # with room enough under the clip norm, the sum is that of all means
        logits = jnp.concatenate(
            [Normed().apply({"params": params}, data.inputs[row : row + 1]) for row in range(ROWS)]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.targets)
        return sum(jnp.mean(losses[np.array([r for r in unit if r >= 0])]) for unit in table)

    assert_trees_close(total, jax.grad(loss)(params), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["none", "vmap", "ghost"])
def test_nothing_that_another_unit_holds_reaches_a_unit(method):
    """Row 0 and the last row are where a careless filling would look."""
    table = [[1, 2, -1], [3, -1, -1], [0, 4, 11], [5, 6, -1], [7, 8, 9]]
    data, spec = make_data(units=table), spec_of(method, steps=3)
    members = np.array([0, 1, 3, 4])
    poisoned = data._replace(inputs=data.inputs.at[jnp.array([0, 4, 11])].set(jnp.nan))
    clean, dirty = (sum_of_gradients(each, members, spec, 0.5) for each in (data, poisoned))
    assert_trees_equal(clean[1:], dirty[1:])
    assert dirty[2].nonfinite == 0


@pytest.mark.parametrize("method", ["vmap", "ghost"])
def test_a_sampled_unit_is_sampled_whole_and_at_the_rate_that_is_accounted(method):
    """Each window moves a weight of its own, so the weights tell who was in the batch."""
    units, k, rate, steps = 200, 4, 0.3, 10
    data = Data(
        jnp.eye(units * k),
        jnp.zeros(units * k, jnp.int32),
        jnp.asarray(np.random.default_rng(0).permutation(units * k).reshape(units, k), jnp.int32),
    )
    spec = Spec(Flat(), steps, 1, units, method, 64)
    hparams = HParams(*map(jnp.float32, (1.0, 1.0, 0.0, rate, 1.0)))
    state, everyone = training.init(jax.random.key(0), data, spec), training.everything(data)
    drawn = 0
    for step in range(steps):
        before = np.array(state.params["Dense_0"]["kernel"])
        state, seen = STEP(
            jax.random.key(2), state, jnp.int32(step), hparams, everyone, data, spec=spec
        )
        moved = (np.asarray(state.params["Dense_0"]["kernel"]) != before).any(axis=1)
        by_unit = moved[np.asarray(data.units)]
        assert (by_unit.all(axis=1) == by_unit.any(axis=1)).all()
        assert seen.batch_size == by_unit[:, 0].sum()
        drawn += by_unit[:, 0].sum()
    assert abs(drawn - rate * units * steps) < 4 * np.sqrt(rate * (1 - rate) * units * steps)


@pytest.mark.parametrize("method", ["none", "vmap", "ghost"])
def test_units_of_one_window_train_the_model_of_windows(method):
    data = make_data()
    alone = data._replace(units=jnp.arange(ROWS, dtype=jnp.int32)[:, None])
    spec = spec_of(method, steps=10, epoch_steps=5, capacity=16)
    hparams = HParams(*map(jnp.float32, (0.5, 0.5, 0.3, 0.5, 6.0)))
    found = [
        FIT(jax.random.key(0), hparams, training.everything(each), each, spec=spec)
        for each in (data, alone)
    ]
    assert_trees_close(*(params for params, _ in found), rtol=1e-3, atol=1e-4)
    for one, other in zip(*(history for _, history in found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("method", ["none", "vmap", "ghost"])
def test_pieces_of_units_never_change_the_training(method):
    table = [[0, 1, 2], [3, 4, -1], [5, -1, -1], [6, 7, 8], [9, 10, -1]]
    data, hparams = make_data(units=table), HParams(*map(jnp.float32, (0.3, 0.5, 0.3, 0.7, 3.5)))
    spec = spec_of(method, steps=10, epoch_steps=5)
    found = [
        FIT(jax.random.key(0), hparams, training.everything(data), data, spec=each)
        for each in (spec, dataclasses.replace(spec, microbatch=2))
    ]
    assert_trees_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), *(h for _, h in found))


def test_auto_takes_ghost_norms_of_units_too():
    table = [[0, 1, 2], [3, 4, -1], [5, -1, -1], [6, 7, 8], [9, 10, -1]]
    data = make_data(units=table)
    auto, ghost = (
        sum_of_gradients(data, np.arange(UNITS), spec_of(method), 0.1)[1]
        for method in ("auto", "ghost")
    )
    assert_trees_equal(auto, ghost)


def test_units_alone_are_the_units_that_were_chosen():
    table = np.array([[1, 2, -1], [3, -1, -1], [0, 4, 11], [5, 6, -1], [7, 8, 9]])
    data = make_data(units=table)
    few = training.take_units(data, np.array([2, 0]))
    for unit, members in zip((2, 0), np.asarray(few.units), strict=True):
        own = table[unit][table[unit] >= 0]
        np.testing.assert_array_equal(few.targets[members[members >= 0]], data.targets[own])
        np.testing.assert_array_equal(few.inputs[members[members >= 0]], data.inputs[own])
    values = jnp.arange(ROWS, dtype=jnp.float32)
    expected = [np.mean(unit[unit >= 0]) for unit in table]
    np.testing.assert_allclose(training.unit_means(values, data.units), expected, rtol=1e-6)


def test_larger_units_leave_room_for_fewer_models(monkeypatch):
    monkeypatch.setattr(memory, "_free_bytes", lambda device: 2**30)
    rng, rows = np.random.default_rng(0), 640
    data = Data(
        jnp.asarray(rng.normal(size=(rows, 10, 10, 4)), jnp.float32), jnp.zeros(rows, jnp.int32)
    )
    units = jnp.arange(rows, dtype=jnp.int32).reshape(-1, 16)
    spec = spec_of("vmap", capacity=40, microbatch=40)
    assert memory.models_that_fit(data._replace(units=units), spec) < (
        memory.models_that_fit(data, spec) / 2
    )
