"""A batch on several devices: the sum of one device, and one draw of noise."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dpfinjax import hosts
from dpfinjax.errors import InputError
from tests.launch.test_app import CLONE


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a process with four simulated devices has found."""
    file = tmp_path_factory.mktemp("devices") / "found.json"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-m", "tests.on_four_devices", str(file)]
    subprocess.run(command, cwd=CLONE, env=environment, check=True)
    return json.loads(file.read_text())


@pytest.mark.parametrize("case", ["units", "three models"])
def test_several_devices_train_the_model_of_one(found, case):
    """Noise that each device drew and added would be as large as the parameters."""
    assert found["trainings"][case] < 1e-5


def test_a_model_can_move_to_another_number_of_devices(found):
    assert found["moved"] < 1e-5


def test_every_device_has_the_sum_the_noise_and_the_statistics_of_all_rows(found):
    totals, noisy, norms = (np.array(x) for x in found["sums"])
    np.testing.assert_allclose(totals, 1 + 2 + 3 + 3 + 3, rtol=1e-6)
    assert len(set(noisy.tolist())) == 1
    np.testing.assert_allclose(norms, [[1, 2, 3, 4, 5, 0, 0]] * 4, rtol=1e-6)


def test_devices_that_cannot_be_shared_out_are_refused():
    with pytest.raises(InputError, match=r"--devices_per_model is 7; it must divide the number"):
        hosts.set_devices_per_model(7)
