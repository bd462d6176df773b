"""Packaging. Only `dpfinjax` is installed; `launch` and `configs` run from the clone."""

from setuptools import find_packages, setup

CORE = [
    "absl-py>=2.1",  # flags and entry points of the launchers
    "array_record>=0.7.1",  # record files that TFDS reads and writes without TensorFlow
    "dp-accounting>=0.6",  # privacy loss distributions, and the reference for our RDP
    "flax>=0.11",  # linen: the networks
    "grain>=0.2.10",  # reads examples from disk in threads of its own; no TensorFlow
    "jax>=0.8",  # everything on the device
    "matplotlib>=3.8.4",  # pictures
    "ml_collections>=1.0",  # configs, and their flags
    "numpy>=2.0",  # everything on the host
    "optax>=0.2.5",  # optimizers, schedules, losses
    "orbax-checkpoint>=0.11.20",  # checkpoints that are whole or absent
    "plotly>=6",  # the report's interactive charts: brings plotly.js, which the page embeds
    "pyarrow>=23",  # fast readers of CSV and Parquet; before 23 a refused CSV may hang for ever
    "scipy>=1.15.2",  # special functions of the accountant, rank filters; JAX needs it already
    "tensorboardX>=2.6.2",  # TensorBoard events without TensorFlow, at a hundredth of its weight
    "tensorflow-datasets>=4.9.10",  # prepared data sets, downloads; runs without TensorFlow
    "tqdm>=4.66",  # progress bars
]
EXTRAS = {
    "test": [
        "hypothesis>=6.100",  # properties over random inputs
        "mpmath>=1.3",  # the accountant's slow reference
        "mypy>=1.13",  # types
        "playwright>=1.49",  # the report in the system's Chromium, where there is one
        "pytest>=8",
        "pytest-xdist>=3.8",  # a test process a core: most of their time is compilation
        "ruff>=0.9",  # lint and format
        "uv>=0.9",  # makes the lock files, and the oldest and newest environment that are tested
    ],
    "fuzz": ["atheris>=2.3"],  # inputs chosen by the branches they reach, for python -m tests.fuzz
    "peers": [  # what launch.bench compares with, best in an environment of its own
        "jax_privacy>=1.0",
        "opacus>=1.5",
        "torch==2.13.0",
    ],
    "cuda": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
}

setup(
    name="dpfinjax",
    version="0.1.0",
    description="Differentially private learning on financial images, in JAX",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["dpfinjax", "dpfinjax.*"]),
    package_data={"dpfinjax.report": ["page.css", "page.js"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
