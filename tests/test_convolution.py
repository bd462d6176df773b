"""Convolutions as matrix products equal those of JAX, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from dpfinjax import convolution
from dpfinjax.errors import InputError
from tests.clipping import reference

ORDER = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_equal_forward_and_backward(convolve, lhs, rhs, *args, **settings):
    """Checks outputs and both gradients against `lax.conv_general_dilated`."""
    order = lax.conv_dimension_numbers(lhs.shape, rhs.shape, ORDER[lhs.ndim - 2])

    def results(convolve, lhs, rhs):
        output, pull = jax.vjp(
            lambda lhs, rhs: convolve(lhs, rhs, *args, dimension_numbers=order, **settings),
            lhs,
            rhs,
        )
        return output, *pull(jnp.cos(jnp.arange(output.size)).reshape(output.shape))

    def both(lhs, rhs):
        return results(convolve, lhs, rhs), results(lax.conv_general_dilated, lhs, rhs)

    actual, expected = reference.run(both, lhs, rhs)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        scale = np.max(np.abs(theirs), initial=1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)


@st.composite
def convolutions(draw):
    """Random shapes and settings of a convolution, some with an output without places."""
    space = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=space, max_size=space)))

    groups = draw(st.sampled_from((1, 1, 2, 3)))
    sizes, kernel = each(1, 6), each(1, 3)
    channels = draw(st.integers(1, 2))
    lhs = numbers(draw(st.integers(1, 3)), *sizes, channels * groups)
    rhs = numbers(*kernel, channels, draw(st.integers(1, 2)) * groups, seed=1)
    padding = draw(
        st.one_of(
            st.sampled_from(("SAME", "VALID", "SAME_LOWER")),
            st.just(tuple(zip(each(0, 3), each(0, 3), strict=True))),
        )
    )
    ones = (1,) * space
    dilations = {
        "lhs_dilation": ones if isinstance(padding, str) else each(1, 3),
        "rhs_dilation": draw(st.sampled_from((None, ones, each(1, 3)))),
    }
    return lhs, rhs, each(1, 3), padding, {**dilations, "feature_group_count": groups}


@settings(max_examples=15, deadline=None)
@given(drawn=convolutions())
def test_a_matrix_product_equals_the_convolution(drawn):
    lhs, rhs, strides, padding, others = drawn
    assert_equal_forward_and_backward(convolution.matmul_conv, lhs, rhs, strides, padding, **others)


def test_a_kernel_larger_than_the_image_meets_no_place():
    lhs, rhs = numbers(2, 2, 1, 3), numbers(3, 2, 3, 4, seed=1)
    assert_equal_forward_and_backward(
        convolution.matmul_conv, lhs, rhs, (1, 1), "VALID", rhs_dilation=(4, 1)
    )


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (5, 5)])
def test_the_chosen_one_equals_the_convolution(monkeypatch, backend, kernel):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert_equal_forward_and_backward(
        convolution.auto_conv,
        numbers(2, 6, 6, 4),
        numbers(*kernel, 2, 4),
        (1, 2),
        "SAME",
        feature_group_count=2,
    )


@pytest.mark.parametrize(
    ("backend", "image", "kernel", "stride", "product"),
    [
        ("cpu", (10, 10, 4), (2, 2, 4, 16), 1, True),
        ("cpu", (10, 10, 16), (2, 2, 16, 16), 2, True),
        ("cpu", (10, 10, 16), (2, 2, 16, 16), 1, False),
        ("cpu", (10, 10, 4), (3, 3, 4, 16), 1, True),
        ("cpu", (10, 10, 16), (3, 3, 16, 16), 1, False),
        ("cpu", (32, 32, 3), (4, 4, 3, 64), 4, False),
        ("cpu", (32, 32, 64), (1, 1, 64, 64), 1, True),
        ("gpu", (10, 10, 4), (2, 2, 4, 16), 1, False),
    ],
)
def test_the_choice_follows_the_rule(monkeypatch, backend, image, kernel, stride, product):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    layer = nn.Conv(kernel[-1], kernel[:2], stride, conv_general_dilated=convolution.auto_conv)
    program = jax.make_jaxpr(layer.apply)(
        {"params": {"kernel": jnp.zeros(kernel), "bias": jnp.zeros(kernel[-1])}},
        jnp.zeros((7, *image)),
    )
    used = {equation.primitive.name for equation in program.eqns}
    assert ("conv_general_dilated" not in used) == product


def test_under_vmap_over_kernels_it_stays_a_matrix_product():
    layer = nn.Conv(3, (2, 2), conv_general_dilated=convolution.matmul_conv)
    images, kernels = numbers(2, 5, 5, 4), numbers(6, 2, 2, 4, 3, seed=1)
    biases = numbers(6, 3, seed=2)

    def apply(layer, kernel, bias):
        return layer.apply({"params": {"kernel": kernel, "bias": bias}}, images)

    mapped = jax.vmap(functools.partial(apply, layer))
    outputs = mapped(kernels, biases)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(mapped)(kernels, biases))
    for row in range(6):
        expected = apply(nn.Conv(3, (2, 2)), kernels[row], biases[row])
        np.testing.assert_allclose(outputs[row], expected, rtol=1e-4, atol=1e-5)


def test_patches_are_what_the_kernel_meets():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    taken = convolution.patches(image, (2, 2), (1, 2), [(0, 1), (1, 0)])
    assert taken.shape == (1, 3, 2, 4, 1)
    np.testing.assert_array_equal(taken[0, 0, 0, :, 0], [0, 0, 0, 3])
    np.testing.assert_array_equal(taken[0, 1, 1, :, 0], [4, 5, 7, 8])
    np.testing.assert_array_equal(taken[0, 2, 1, :, 0], [7, 8, 0, 0])


def test_axes_in_another_order_are_refused():
    with pytest.raises(InputError, match=r"dimension_numbers is None; .* channels last"):
        convolution.matmul_conv(numbers(2, 4, 4, 3), numbers(2, 2, 3, 5), (1, 1), "SAME")


def test_a_named_padding_of_dilated_inputs_is_refused_as_jax_refuses_it():
    order = lax.conv_dimension_numbers((2, 4, 3), (2, 3, 5), ORDER[1])
    with pytest.raises(InputError, match="padding is 'SAME' and the inputs are dilated by"):
        convolution.matmul_conv(
            numbers(2, 4, 3),
            numbers(2, 3, 5),
            (1,),
            "SAME",
            lhs_dilation=(2,),
            dimension_numbers=order,
        )
