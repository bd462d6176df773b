"""Differentially private learning on financial images, as pure functions in JAX."""
