"""Ghost clipping is the definition for every module that it accepts, and refuses the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax import clipping, convolution, models
from dpfinjax.errors import InputError
from tests.clipping import reference
from tests.clipping.reference import agreement


class Net(nn.Module):
    """A module whose forward pass is given."""

    forward: object

    @nn.compact
    def __call__(self, x):
        return self.forward(self, x)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def labels(examples, classes=2):
    return jnp.asarray(np.arange(examples) % classes, jnp.int32)


def image_batch(examples, seed=0):
    return numbers(examples, 10, 10, 4, seed=seed), labels(examples, 8)


GAF = models.build("gaf_cnn")
SMALL_GAF = models.build("gaf_cnn", widths=(3, 4), strides=(1, 2), hidden=(5,))


@st.composite
def architectures(draw):
    """A random stack of layers over a random shape, and the shape; the last one gives 3 numbers."""
    space = draw(st.lists(st.integers(2, 5), min_size=0, max_size=3))
    width = draw(st.integers(1, 2)) * 4
    shape = (*space, width)
    flag, norms = st.booleans(), st.sampled_from(("layer", "group", "rms"))
    stack = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("dense", "norm", "conv") if space else ("dense", "norm")))
        features = draw(st.integers(1, 3)) * 4  # norms of two numbers are all rounding
        if kind == "dense":
            layer = nn.Dense(features, use_bias=draw(flag))
        elif kind == "norm":
            scale = draw(flag)
            layer = {
                "layer": nn.LayerNorm(use_scale=scale, use_bias=draw(flag)),
                "group": nn.GroupNorm(num_groups=1, use_scale=scale, use_bias=draw(flag)),
                "rms": nn.RMSNorm(use_scale=scale),
            }[draw(norms)]
        else:
            layer = nn.Conv(
                features,
                tuple(draw(st.lists(st.integers(1, 3), min_size=len(space), max_size=len(space)))),
                strides=draw(st.sampled_from((1, 2))),
                padding=draw(st.sampled_from(("SAME", "CIRCULAR", 2))),
                kernel_dilation=draw(st.sampled_from((1, 1, 2))),
                feature_group_count=draw(st.sampled_from((1, 2))),
                use_bias=draw(flag),
                conv_general_dilated=draw(
                    st.sampled_from((None, convolution.matmul_conv, convolution.auto_conv))
                ),
            )
        stack.append(layer)
        stack.extend([nn.tanh, layer] if kind == "norm" and draw(flag) else [nn.tanh])
    flatten = draw(flag)
    stack.append((lambda x: x.reshape(x.shape[0], -1)) if flatten else (lambda x: x))
    return nn.Sequential([*stack, nn.Dense(3)]), shape


@settings(max_examples=8, deadline=None)
@given(
    built=architectures(),
    rule=st.sampled_from(reference.RULES),
    seed=st.integers(0, 99),
    mask=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_random_architectures_agree_with_the_definition(built, rule, seed, mask):
    module, shape = built
    batch = numbers(4, *shape, seed=seed), labels(4)
    # A chain of norms divides by deviations that may be small, which magnifies float32's rounding.
    agreement(module, batch, rule, seed, mask, rtol=1e-3)


def test_the_gaf_cnn_with_chosen_convolutions_agrees_with_the_definition():
    def forward(_, x):
        for width, stride in ((16, 1), (16, 2)):
            conv = nn.Conv(width, (2, 2), stride, conv_general_dilated=convolution.auto_conv)
            x = nn.relu(conv(x))
        return nn.Dense(8)(nn.relu(nn.Dense(256)(x.reshape(*x.shape[:-3], -1))))

    agreement(Net(forward), image_batch(6))


CONVOLUTIONS = {  # over [b, 5, 6, 4]
    "plain": nn.Conv(3, (2, 3)),
    "no_bias": nn.Conv(3, (3, 3), use_bias=False),
    "circular": nn.Conv(3, (2, 3), padding="CIRCULAR", kernel_dilation=(1, 2)),
    "reflect": nn.Conv(3, (3, 4), padding="REFLECT", strides=(2, 1)),
    "number": nn.Conv(3, (2, 3), padding=1, strides=2),
    "numbers": nn.Conv(3, (2, 3), padding=(0, 2)),
    "pairs": nn.Conv(3, (2, 3), padding=((0, 2), (1, 0))),
    "negative": nn.Conv(3, (2, 2), padding=((-1, 0), (1, -2))),
    "valid": nn.Conv(3, (3, 2), padding="VALID", strides=(1, 3)),
    "input_dilation": nn.Conv(3, (2, 3), padding=2, input_dilation=(2, 1)),
    "kernel_dilation": nn.Conv(3, (2, 3), kernel_dilation=(2, 2)),
    "groups": nn.Conv(6, (2, 3), feature_group_count=2, strides=2),
    "depthwise": nn.Conv(8, (3, 3), feature_group_count=4),
    "one_by_one": nn.Conv(3, (1, 1)),
    "whole": nn.Conv(4, (5, 6), padding="VALID"),
    "few_places": nn.Conv(16, (3, 3), padding="VALID", strides=3),
    "grouped_few_places": nn.Conv(16, (3, 3), padding="VALID", strides=3, feature_group_count=2),
    "matmul": nn.Conv(
        3, (2, 3), strides=2, conv_general_dilated=convolution.matmul_conv, use_bias=False
    ),
}
SERIES = {  # over [b, 4, 9, 2]: an axis more than the kernel needs
    "causal": nn.Conv(3, 3, padding="CAUSAL", kernel_dilation=2),
    "strided": nn.Conv(3, (4,), strides=2),
}


def test_every_kind_of_convolution_agrees_with_the_definition():
    def forward(module, x):
        series, volumes = x[:, :4, :, :2].repeat(2, axis=2)[:, :, :9], x[..., None].repeat(2, -1)
        outputs = [
            layer.clone(parent=module, name=name)(inputs)
            for layers, inputs in ((CONVOLUTIONS, x), (SERIES, series))
            for name, layer in layers.items()
        ]
        outputs.append(nn.Conv(2, (2, 1, 3), strides=(1, 2, 1), name="volume")(volumes))
        flat = [jnp.tanh(y).reshape(x.shape[0], -1) for y in outputs]
        return jnp.stack([y @ numbers(y.shape[1], 3) / 10 for y in flat], 1).sum(axis=1)

    agreement(Net(forward), (numbers(4, 5, 6, 4), labels(4)), "per_layer")


def test_every_kind_of_norm_and_table_agrees_with_the_definition():
    def forward(_, x):
        x, rows = x["numbers"], x["rows"]
        looked_up = [
            nn.Embed(7, 4)(rows),  # negative rows count from the end
            nn.Embed(1, 4)(rows),  # one row answers for every number
            nn.Embed(3, 2, name="few")(rows % 3).sum(axis=-1, keepdims=True),
            nn.Embed(40, 30, name="many")(rows % 40).sum(axis=-1, keepdims=True),
        ]
        x = sum(looked_up) + nn.LayerNorm()(x)
        for norm in (
            nn.LayerNorm(use_scale=False),
            nn.LayerNorm(use_bias=False, reduction_axes=(-2, -1)),
            nn.GroupNorm(num_groups=2),
            nn.GroupNorm(num_groups=None, group_size=4, use_bias=False),
            nn.GroupNorm(num_groups=1, use_scale=False),
            nn.RMSNorm(),
            nn.RMSNorm(use_scale=False),
            nn.LayerNorm(use_scale=False, use_bias=False),
        ):
            x = x + jnp.tanh(norm(x) * numbers(4, seed=1))
        x = nn.LayerNorm()(x, mask=jnp.arange(4) < 3)
        return nn.Dense(3)(x).sum(axis=1)

    rows = np.random.default_rng(0).integers(-7, 7, (4, 5))
    inputs = {"numbers": numbers(4, 5, 4), "rows": jnp.asarray(rows)}
    agreement(Net(forward), (inputs, labels(4)), "per_layer")


def test_a_row_that_a_table_lacks_receives_nothing():
    def loss(outputs, weights):  # outputs are nan, gradients are finite all the same
        return jnp.sum(outputs * weights, axis=(1, 2))

    rows = jnp.array([[0, 9, 3], [1, -9, 2], [2, 2, 3], [3, 3, 3]])
    agreement(nn.Embed(4, 16), (rows, numbers(4, 3, 16)), loss=loss)


class Shared(nn.Module):
    """Every layer is called twice."""

    def setup(self):
        self.table, self.conv = nn.Embed(9, 4), nn.Conv(4, (2,))
        self.dense, self.norm = nn.Dense(4), nn.LayerNorm()

    def __call__(self, x):
        x = self.table(x) + self.table(x[:, ::-1]) * 0.5
        for _ in range(2):
            x = x + jnp.tanh(self.conv(self.norm(x)))
        return self.dense(jnp.tanh(self.dense(x[:, 0]))) + self.dense(x[:, 1])


def test_layers_that_are_called_several_times_agree_with_the_definition():
    rows = jnp.asarray(np.random.default_rng(0).integers(0, 9, (6, 4)))
    agreement(Shared(), (rows, labels(6, 4)), "per_layer")


class Block(nn.Module):
    """A module in a module, with a layer that is called by keyword."""

    width: int

    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(self.width)(inputs=jnp.tanh(nn.LayerNorm()(x=x)))


def test_nested_modules_and_trees_of_inputs_and_outputs_agree_with_the_definition():
    def forward(_, x):
        first, second = x
        hidden = Block(4)(nn.Sequential([nn.Dense(4), Block(4), nn.tanh])(first))
        return {"a": nn.Dense(3)(hidden), "b": nn.Dense(2)(hidden + second["more"])}

    def loss(outputs, targets):
        squares = jnp.square(outputs["b"] - targets["far"]).sum(axis=-1)
        return reference.loss_fn(outputs["a"], targets["label"]) + squares

    inputs = numbers(4, 3), {"more": numbers(4, 4)}
    agreement(Net(forward), (inputs, {"label": labels(4), "far": numbers(4, 2)}), loss=loss)


@pytest.mark.parametrize("module", [nn.Dense(2), nn.Dense(3, use_bias=False)])
def test_a_lone_layer_agrees_with_the_definition(module):
    agreement(module, (numbers(4, 5, 2), labels(4)))


def test_parameters_that_nothing_depends_on_get_zero():
    def forward(module, x):
        nn.Dense(3, name="ignored")(x)
        nn.Conv(3, 2, name="dropped")(x)
        module.param("spare", nn.initializers.ones, (2,))
        return nn.Dense(2)(x)

    total, _ = agreement(Net(forward), (numbers(4, 3, 2), labels(4)), "per_layer")
    for name in ("ignored", "dropped", "spare"):
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(total[name]))


def test_frozen_parameters_give_frozen_sums():
    module = nn.Dense(2)
    params = core.freeze(reference.random_params(module, numbers(1, 3)))
    total, _ = agreement(module, (numbers(4, 3), labels(4)), params=params)
    assert isinstance(total, core.FrozenDict)


def test_layers_in_few_bits_agree_to_their_rounding_and_keep_the_bound():
    def forward(_, x):
        x = nn.tanh(nn.Conv(6, (3, 3), dtype=jnp.bfloat16)(x))
        x = nn.GroupNorm(3, dtype=jnp.bfloat16)(x)
        return nn.Dense(3, dtype=jnp.bfloat16)(x.mean(axis=(1, 2)))

    module, batch = Net(forward), (numbers(4, 5, 6, 2), labels(4))
    params = reference.random_params(module, batch[0])
    agreement(module, batch, params=params, rtol=0.03)
    arguments = (
        jax.tree.map(lambda p: p.astype(jnp.bfloat16), params),
        batch,
        jnp.arange(4) == 1,
        1e-3,
    )
    total, _ = reference.run(ghost_program(module), *arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(total)} == {jnp.dtype("float32")}
    assert reference.norm_of(jax.tree.leaves(total)) == pytest.approx(1e-3, rel=1e-5)


def test_examples_never_mix():
    def forward(_, x):  # alone, an example is its own mean
        return nn.Dense(2)(jnp.tanh(nn.Dense(3)(x)) + x.mean(axis=0))

    def loss(outputs, targets):
        return reference.loss_fn(outputs, targets) / outputs.shape[0]

    agreement(Net(forward), (numbers(4, 3), labels(4)), loss=loss)


def ghost_program(module, loss=reference.loss_fn, rule="flat"):
    def run(params, batch, mask, clip_norm):
        return clipping.ghost_clipped_grad(module, loss, clip_norm, rule=rule)(params, batch, mask)

    return jax.jit(run)


def test_padding_never_changes_the_sum():
    params, (images, classes) = (
        reference.random_params(SMALL_GAF, image_batch(1)[0]),
        image_batch(5),
    )
    run = ghost_program(SMALL_GAF)
    expected, _ = run(params, (images, classes), jnp.ones(5, bool), 0.5)
    for junk in (0.0, 1e30, np.nan):
        padded = jnp.concatenate([images, jnp.full((4, 10, 10, 4), junk)])
        batch = padded, jnp.pad(classes, (0, 4))
        total, stats = run(params, batch, jnp.arange(9) < 5, 0.5)
        reference.assert_sums(total, expected, rtol=1e-6)
        assert not stats.nonfinite.any()
        np.testing.assert_array_equal(stats.norm[5:], 0)
        np.testing.assert_array_equal(stats.loss[5:], 0)


class Chain(nn.Module):
    """One of every layer, each with a bias."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, 2)(x[..., None])
        x = nn.LayerNorm()(nn.Conv(8, 4, strides=4)(x))
        table = nn.Embed(4, 8)(jnp.argmax(x, axis=-1) % 4)
        return nn.Dense(3)(nn.GroupNorm(2)(x + table).mean(axis=1))


@pytest.mark.parametrize("rule", ["automatic", "per_layer"])
def test_a_nonfinite_example_contributes_zero_and_is_counted(rule):
    def loss(outputs, targets):
        return reference.loss_fn(outputs, targets["label"]) * targets["weight"]

    module, inputs = Chain(), numbers(5, 8)
    params = reference.random_params(module, inputs)
    targets = {"label": labels(5), "weight": jnp.ones(5)}
    mask = jnp.ones(5, bool)
    without = mask.at[2].set(False)
    run = ghost_program(module, loss, rule)
    expected, _ = run(params, (inputs, targets), without, 0.5)
    bad_weights = [
        (inputs, {**targets, "weight": jnp.ones(5).at[2].set(bad)})
        for bad in (np.nan, np.inf, 1e30)  # the last is finite; its gradient's square is not
    ]
    bad_inputs = [(inputs.at[2, 0].set(bad), targets) for bad in (np.nan, np.inf)]
    for batch in bad_weights + bad_inputs:
        total, stats = run(params, batch, mask, 0.5)
        reference.assert_sums(total, expected, rtol=1e-6)
        np.testing.assert_array_equal(stats.nonfinite, ~without)
        assert not stats.clipped[2]


@pytest.mark.parametrize("examples", [0, 4])
def test_an_empty_batch_gives_exactly_zero(examples):
    module, inputs = Chain(), numbers(examples, 8)
    params = reference.random_params(module, numbers(1, 8))
    total, stats = ghost_program(module)(
        params, (inputs, labels(examples)), jnp.zeros(examples, bool), 1.0
    )
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(total))
    assert stats.norm.shape == (examples,)
    assert not stats.clipped.any()


def test_models_and_clip_norms_can_be_mapped_over():
    module, batch, mask = Chain(), (numbers(4, 8), labels(4)), jnp.arange(4) != 2
    models_params = [reference.random_params(module, batch[0], seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models_params)
    norms, run = jnp.array([0.1, 1.0, 5.0]), ghost_program(module)
    totals, stats = jax.jit(jax.vmap(run, in_axes=(0, None, None, 0)))(stacked, batch, mask, norms)
    for row, params in enumerate(models_params):
        expected, one = run(params, batch, mask, norms[row])
        reference.assert_sums(jax.tree.map(lambda t: t[row], totals), expected)  # noqa: B023
        np.testing.assert_allclose(stats.norm[row], one.norm, rtol=1e-5)


def test_per_example_gradients_are_never_formed_where_that_is_dearer():
    module, examples = nn.Sequential([nn.Dense(512), nn.tanh, nn.Dense(512)]), 256
    batch = jax.ShapeDtypeStruct((examples, 512), jnp.float32), labels(examples)
    params = jax.eval_shape(module.init, jax.random.key(0), numbers(1, 512))["params"]
    arguments = params, batch, jax.ShapeDtypeStruct((examples,), jnp.bool_), 1.0
    memory = reference.compiled(ghost_program(module), *arguments).memory_analysis()
    assert memory.temp_size_in_bytes < 0.05 * examples * 2 * 512 * 512 * 4


@pytest.mark.parametrize("conv", [None, convolution.matmul_conv])
def test_memory_is_at_most_1_3_times_that_of_the_batch_gradient(conv):
    def forward(_, x):
        for stride in (1, 2):
            x = nn.tanh(nn.Conv(16, (2, 2), stride, conv_general_dilated=conv)(x))
        return nn.Dense(8)(nn.tanh(nn.Dense(256)(x.reshape(*x.shape[:-3], -1))))

    module, examples = Net(forward), 4096
    images = jax.ShapeDtypeStruct((examples, 10, 10, 4), jnp.float32)
    batch = images, jax.ShapeDtypeStruct((examples,), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), numbers(1, 10, 10, 4))["params"]

    def plain(params, batch):
        return reference.loss_fn(module.apply({"params": params}, batch[0]), batch[1]).mean()

    mask = jax.ShapeDtypeStruct((examples,), jnp.bool_)
    ghost = reference.compiled(ghost_program(module), params, batch, mask, 1.0)
    batch_grad = reference.compiled(jax.grad(plain), params, batch)
    used = [program.memory_analysis().temp_size_in_bytes for program in (ghost, batch_grad)]
    assert used[0] <= 1.3 * used[1]


class DenseOfMine(nn.Dense):
    """A subclass, which may do anything."""


class Tied(nn.Module):
    """A table that also gives the logits, in one of two ways."""

    attend: bool

    def setup(self):
        self.table = nn.Embed(4, 3)

    def __call__(self, x):
        rows = self.table(jnp.argmax(x, axis=-1))
        return self.table.attend(rows) if self.attend else rows @ self.table.embedding.T


class Mapped(nn.Module):
    """A layer of a setup method that is called inside a plain JAX transformation."""

    def setup(self):
        self.dense = nn.Dense(3)

    def __call__(self, x):
        self.dense(x)
        return jax.vmap(self.dense)(x)


class Cell(nn.Module):
    """What a scan repeats."""

    @nn.compact
    def __call__(self, carry, x):
        return nn.Dense(3)(carry + x), x


def scanned(_, x):
    cells = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False})
    return cells()(jnp.zeros_like(x), jnp.broadcast_to(x, (4, *x.shape)))[0]


def vmapped(_, x):
    dense = nn.vmap(
        nn.Dense,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=2,
    )
    return dense(3)(x)


def doubled(module, x):
    def double(variables):
        return jax.tree.map(lambda p: 2 * p, variables)

    return nn.map_variables(nn.Dense, "params", double, init=module.is_initializing())(3)(x)


def chosen(module, x):
    layer = nn.Dense(3)
    return nn.cond(x.sum() > 0, lambda m, x: layer(x), lambda m, x: 2 * layer(x), module, x)


class TwoOverOne(nn.Module):
    """Two different layers whose parameters have the same parent."""

    def setup(self):
        self.first, self.second = nn.Dense(3), nn.LayerNorm(use_bias=False)
        nn.share_scope(self, self.first)
        nn.share_scope(self, self.second)

    def __call__(self, x):
        return self.first(x) + self.second(x)


def on_image(layer):
    return nn.Sequential([lambda x: x[..., None], layer])


def twice_the_product(*args, **kwargs):
    return 2 * jax.lax.dot_general(*args, **kwargs)


def twice_the_convolution(*args, **kwargs):
    return 2 * jax.lax.conv_general_dilated(*args, **kwargs)


REFUSED = {
    "a subclass": (Net(lambda _, x: DenseOfMine(3)(x)), "DenseOfMine_0/bias.*type DenseOfMine"),
    "own parameter": (
        Net(lambda m, x: nn.Dense(3)(x * m.param("gain", nn.initializers.ones, ()))),
        "handle gain.*type Net",
    ),
    "batch norm": (Net(lambda _, x: nn.BatchNorm(True)(nn.Dense(3)(x))), "BatchNorm_0"),
    "batch norm in training": (Net(lambda _, x: nn.BatchNorm(False)(x)), "BatchNorm_0"),
    "dropout": (Net(lambda m, x: nn.Dropout(0.5)(x, deterministic=m.is_initializing())), "dropout"),
    "general dense": (Net(lambda _, x: nn.DenseGeneral(3)(x)), "DenseGeneral_0/bias"),
    "attention": (
        Net(lambda _, x: nn.MultiHeadDotProductAttention(1)(x[:, None])),
        "MultiHeadDotProductAttention_0/key/bias.*type DenseGeneral",
    ),
    "recurrence": (Net(lambda _, x: nn.RNN(nn.LSTMCell(3))(x[:, None])), "LSTMCell_0"),
    "transposed convolution": (
        on_image(nn.ConvTranspose(3, (2,))),
        "layers_1/bias.*type ConvTranspose",
    ),
    "local convolution": (on_image(nn.ConvLocal(3, (2,))), "layers_1/bias.*type ConvLocal"),
    "instance norm": (on_image(nn.InstanceNorm()), "layers_1/bias.*type InstanceNorm"),
    "masked kernel": (on_image(nn.Conv(3, 2, mask=jnp.ones((2, 1, 3)))), "layers_1/bias.*its mask"),
    "own convolution": (
        on_image(nn.Conv(3, 2, conv_general_dilated=twice_the_convolution)),
        "layers_1/bias.*its conv_general_dilated",
    ),
    "own product": (
        Net(lambda _, x: nn.Dense(3, dot_general=twice_the_product)(x)),
        "Dense_0/bias.*its dot_general",
    ),
    "feature axes": (
        on_image(nn.LayerNorm(feature_axes=(-2, -1))),
        "layers_1/bias.*its feature_axes",
    ),
    "tied by attend": (Tied(True), "table/embedding.*another way"),
    "tied by hand": (Tied(False), "table/embedding.*another way"),
    "called under vmap": (Mapped(), "handle dense: .*transformation"),
    "remat": (Net(lambda _, x: nn.remat(nn.Dense)(3)(x)), "CheckpointDense_0.*transformation"),
    "jit": (Net(lambda _, x: nn.jit(nn.Dense)(3)(x)), "JitDense_0.*transformation"),
    "lifted vmap": (Net(vmapped), "VmapDense_0.*transformation"),
    "scan": (Net(scanned), "ScanCell_0/Dense_0.*transformation"),
    "cond": (Net(chosen), "Dense_0.*transformation"),
    "mapped variables": (Net(doubled), "Map_variablesDense_0.*transformation"),
    "weight norm": (Net(lambda _, x: nn.WeightNorm(nn.Dense(3))(x)), "Dense_0.*transformation"),
    "two layers over one scope": (TwoOverOne(), "the module: two different layers"),
    "boxes": (
        Net(
            lambda _, x: nn.Dense(
                3, kernel_init=nn.with_partitioning(nn.initializers.ones, (None, None))
            )(x)
        ),
        "params must be nested dicts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_handle_is_refused_by_name(name):
    module, sentence = REFUSED[name]
    inputs = jnp.ones((4, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs[:1]).get("params", {})
    params = jax.tree.map(lambda p: jnp.ones(p.shape, p.dtype), shapes)
    run = ghost_program(module)
    with pytest.raises(InputError, match=sentence) as refusal:
        run(params, (inputs, labels(4)), jnp.ones(4, bool), 1.0)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("loss", [lambda o, t: jnp.mean(o), lambda o, t: o])
def test_a_loss_that_is_not_one_an_example_is_refused(loss):
    module = nn.Dense(2)
    params = reference.random_params(module, numbers(1, 3))
    with pytest.raises(InputError, match="loss_fn returned shape"):
        ghost_program(module, loss)(params, (numbers(4, 3), labels(4)), jnp.ones(4, bool), 1.0)


def test_the_whole_gaf_cnn_agrees_with_vmap_clipping():
    batch, mask = image_batch(6), jnp.arange(6) != 3
    params = reference.random_params(GAF, batch[0], scale=0.2)
    ghost = clipping.ghost_clipped_grad(GAF, reference.loss_fn, 0.5)
    vmap = clipping.vmap_clipped_grad(reference.example_loss(GAF), 0.5)
    (total, stats), (expected, reference_stats) = reference.run(
        lambda *args: (ghost(*args), vmap(*args)), params, batch, mask
    )
    reference.assert_sums(total, expected)
    for ours, theirs in zip(stats, reference_stats, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
