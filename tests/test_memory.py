"""Memory: larger models leave room for fewer."""

import dataclasses

import jax
import pytest

from dpfinjax import memory
from tests.test_training import SPEC, make_data


@pytest.fixture
def gigabyte(monkeypatch):
    monkeypatch.setattr(memory, "_free_bytes", lambda device: 2**30)


def test_it_is_what_the_compiler_plans_for_one_model(gigabyte):
    fits = memory.models_that_fit(make_data(), SPEC)
    params = sum(leaf.size for leaf in jax.tree.leaves(models_of(SPEC)))
    assert 1 < fits < 2**30 / (4 * params)


def test_larger_pieces_leave_room_for_fewer_models(gigabyte):
    small = memory.models_that_fit(make_data(), SPEC)
    size = 20 * SPEC.capacity
    wide = dataclasses.replace(SPEC, capacity=size, microbatch=size)
    assert memory.models_that_fit(make_data(), wide) < small / 5


def test_there_is_always_room_for_one(monkeypatch):
    monkeypatch.setattr(memory, "_free_bytes", lambda device: 1)
    assert memory.models_that_fit(make_data(), SPEC) == jax.local_device_count()


def test_a_machine_says_what_it_has():
    assert memory._free_bytes(jax.devices()[0]) > 2**28


def models_of(spec):
    data = make_data()
    return jax.eval_shape(lambda: spec.module.init(jax.random.key(0), data.inputs[:1]))


def test_images_fit_where_half_of_the_memory_holds_them(monkeypatch):
    examples = {"train": 700, "validation": 50, "test": 100, "public": 75, "population": 75}
    image, window, devices = 1600, 320, jax.local_device_count()
    # A CPU's devices share one memory with the splits themselves.
    needed = (850 * image * devices + 1000 * (image + window)) // devices
    for free, fits in ((2 * needed + 2, True), (2 * needed - 2, False)):
        monkeypatch.setattr(memory, "_free_bytes", lambda device, free=free: free)
        monkeypatch.setattr(memory, "_machine_bytes", lambda free=free: free * devices)
        assert memory.images_fit(examples, 10) is fits
