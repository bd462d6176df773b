"""Several processes as one program: who they are, what they may say, and the same models."""

import dataclasses
import io
import json
import os
import pickle
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn

from dpfinjax import hosts, last_words, resumable, streaming, training
from dpfinjax.data import Place
from dpfinjax.errors import InputError
from launch import dpsgd
from tests import processes
from tests.launch.test_dpsgd import final_state
from tests.test_training import SPEC

SWEEP = """
from configs import dpsgd

def get_config(variant=""):
    config = dpsgd.get_config(variant)
    config.target_epsilon, config.noise_multiplier = None, 1.0
    config.data.update(sim_bars=120_000, cache_dir={cache!r})
    config.model.update(variant="gaf_cnn", widths=(4,), strides=(2,), hidden=(8,))
    config.update(seed=0, batch_size=64, epochs=2.0, accountant="rdp", learning_rate=0.5)
    config.cells = ({{"noise_multiplier": 0.5}}, {{"noise_multiplier": 2.0}}, {{"clip_norm": 0.1}})
    return config
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, cache):
    """The file of a small sweep's config."""
    file = tmp_path_factory.mktemp("sweep") / "sweep.py"
    file.write_text(SWEEP.format(cache=cache))
    return file


def config_of(sweep):
    names = {}
    exec(sweep.read_text(), names)
    return names["get_config"]()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, sweep):
    """The folder of the sweep, run in this one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    dpsgd.train_and_evaluate(config_of(sweep), folder)
    return folder


def assert_same_run(first, second, rtol=0.0, atol=0.0):
    """Equal results, but for seconds, and parameters."""
    one, two = ((f / "results.csv").read_text().splitlines() for f in (first, second))
    column = one[0].split(",").index("seconds")
    for a, b in zip(one, two, strict=True):
        a, b = a.split(","), b.split(",")
        assert a[:column] + a[column + 1 :] == b[:column] + b[column + 1 :]
    names = sorted(f.parent.name for f in first.glob("*/checkpoints"))
    assert len(names) == 3
    for name in names:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
            final_state(first / name),
            final_state(second / name),
        )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((None, 2, None), "--coordinator and --process_id must be given too"),
        (("10.0.0.1:80", None, 0), "--num_processes must be given too"),
        (("auto", 2, None), "--process_id must be given too"),
        (("10.0.0.1", 2, 0), "--coordinator is '10.0.0.1'"),
        (("10.0.0.1:99999", 2, 0), "must be host:port"),
        (("10.0.0.1:80", 2, 2), "--process_id is 2 and --num_processes 2"),
    ],
)
def test_flags_that_are_half_given_or_wrong_are_refused(flags, words):
    with pytest.raises(InputError, match=words):
        hosts.members(*flags, {})


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),  # in sbatch
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "one,two"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
        ({"SLURM_STEP_NUM_TASKS": "many"}, False),
    ],
)
def test_a_cluster_counts_only_where_it_says_that_there_are_several(environment, several):
    left_to_jax = (None, -1, -1)
    assert hosts.members(None, None, None, environment) == (left_to_jax if several else None)
    assert hosts.members("h:1", 1, 0, environment) is None
    assert hosts.members("h:1", 2, 1, environment) == ("h:1", 2, 1)
    assert hosts.members("auto", None, None, environment) == left_to_jax


def test_a_message_holds_functions_settings_and_networks():
    linear = nn.Dense(2, use_bias=False, kernel_init=nn.initializers.zeros)
    data = training.Data(np.zeros((2, 3), np.float32), np.zeros(2, np.int32))
    shapes = jax.tree.map(hosts._Shape.of, (jax.random.split(jax.random.key(0), 2), data))
    for module in (SPEC.module, linear):
        spec = dataclasses.replace(SPEC, module=module)
        message = ("call", resumable.take_part, shapes, (spec, 3))
        assert hosts._Reader(io.BytesIO(pickle.dumps(message))).load() == message
    message = ("call", streaming.take_part, (), (spec, 3, Place("/data", "train", "digest")))
    assert hosts._Reader(io.BytesIO(pickle.dumps(message))).load() == message
    state = training.init(jax.random.key(0), data, dataclasses.replace(spec, optimizer="adam"))
    shapes = jax.tree.map(hosts._Shape.of, state)
    assert hosts._Reader(io.BytesIO(pickle.dumps(shapes))).load() == shapes


@pytest.mark.parametrize("named", [os.system, eval, shutil.rmtree, json.loads, np.load])
def test_a_message_cannot_name_anything_else(named):
    with pytest.raises(pickle.UnpicklingError, match="which none may"):
        hosts._Reader(io.BytesIO(pickle.dumps(named))).load()
    through = b"\x80\x04\x8c\x10dpfinjax.workdir\x8c\tos.system\x93."  # a dotted name
    with pytest.raises((pickle.UnpicklingError, AttributeError)):
        hosts._Reader(io.BytesIO(through)).load()


def test_a_mistake_of_a_process_that_works_alone_is_raised_as_it_is():
    hosts.agree(None, together=False)
    mistake = InputError("The data are damaged.")
    with pytest.raises(InputError) as raised:
        hosts.agree(mistake, together=False)
    assert raised.value is mistake


def passed_on(*pieces):
    """What the filter of stderr makes of pieces."""
    source, into = os.pipe()
    out, target = os.pipe()
    for piece in pieces:
        os.write(into, piece)
    os.close(into)
    last_words.pass_on(source, target)
    os.close(target)
    return os.read(out, 1 << 16).decode()


DUMP = b"""F1124 17:54:26.638384   15064 client.h:80] Terminating process because the JAX \
distributed service detected fatal errors. This most likely indicates that another task died
*** Check failure stack trace: ***
    @     0x7f73a9640634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""


def test_a_dump_becomes_one_sentence_and_all_else_is_passed_on():
    said = f"error: {last_words.SENTENCE}"
    assert passed_on(b"F1 score 0.3\repoch 1") == "F1 score 0.3\repoch 1"
    assert passed_on(b"before\n" + DUMP) == f"before\n{said}\n"
    assert passed_on(f"{said} (why)\n".encode() + DUMP).count(last_words.SENTENCE) == 1


@pytest.mark.long
def test_two_processes_train_the_models_of_one_and_only_the_first_touches_files(
    tmp_path, sweep, alone
):
    """The second is told of other folders, which must never be made."""
    nowhere = tmp_path / "nowhere"
    flags = [f"--config={sweep}"]
    started = processes.start(
        [
            [*flags, f"--workdir={tmp_path}/run"],
            [*flags, f"--workdir={nowhere}/run", f"--config.data.cache_dir={nowhere}/cache"],
        ]
    )
    (code, _, errors), (other_code, printed, other_errors) = processes.ended(started)
    assert (code, other_code) == (0, 0), errors + other_errors
    assert_same_run(alone, tmp_path / "run", rtol=1e-5, atol=1e-6)
    assert not nowhere.exists()
    assert "epsilon" not in printed
    assert other_errors == ""
