"""What tests of clipping share: programs that run once are compiled in haste."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _hasty_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
