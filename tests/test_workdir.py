"""Run folders: one config each, and no half-written file under a final name."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from dpfinjax import workdir
from dpfinjax.errors import InputError

BOUND = {"sha256": ("abc",), "dpsgd": {"steps": 7, "noise_multiplier": 1.25}}


def make_config(**changes):
    config = ConfigDict({"seed": 0, "model": {"widths": (16, 16), "variant": "gaf_cnn"}})
    config.update(changes)
    return config


def write_half(path):
    with workdir.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_a_new_folder_gets_the_config_and_what_the_run_depends_on(tmp_path):
    folder = workdir.claim(tmp_path / "a" / "b", make_config(), BOUND)
    content = json.loads((folder / "config.json").read_text())
    assert content["config"] == {"seed": 0, "model": {"widths": [16, 16], "variant": "gaf_cnn"}}
    assert set(content) >= {"versions", "devices", "git_commit", "command", "python"}
    assert content["versions"]["jax"]


def test_the_same_config_may_come_again_and_changes_nothing(tmp_path):
    workdir.claim(tmp_path / "run", make_config(), BOUND)
    before = (tmp_path / "run" / "config.json").read_bytes()
    workdir.claim(tmp_path / "run", make_config(), BOUND)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_an_infinite_setting_is_strict_json_and_comes_again(tmp_path):
    workdir.claim(tmp_path / "run", make_config(shape=float("inf")), BOUND)
    workdir.claim(tmp_path / "run", make_config(shape=float("inf")), BOUND)
    content = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(content, parse_constant=int)["config"]["shape"] == "Infinity"
    with pytest.raises(InputError, match=r"config\.shape is 'Infinity' there and 1\.0 here"):
        workdir.claim(tmp_path / "run", make_config(shape=1.0), BOUND)


def test_another_config_is_refused_by_the_field_that_differs(tmp_path):
    workdir.claim(tmp_path / "run", make_config(), BOUND)
    with pytest.raises(InputError, match=r"config\.model\.variant is 'gaf_cnn' there and 'x' here"):
        workdir.claim(tmp_path / "run", make_config(model={"variant": "x"}), BOUND)


def test_other_data_or_numbers_under_the_same_config_are_refused(tmp_path):
    workdir.claim(tmp_path / "run", make_config(), BOUND)
    with pytest.raises(InputError, match=r"it\.sha256 is \['abc'\] there and \['abd'\] here"):
        workdir.claim(tmp_path / "run", make_config(), BOUND | {"sha256": ("abd",)})
    changed = BOUND | {"dpsgd": {"steps": 8, "noise_multiplier": 1.25}}
    with pytest.raises(InputError, match=r"it\.dpsgd\.steps is 7 there and 8 here"):
        workdir.claim(tmp_path / "run", make_config(), changed)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds files but no"):
        workdir.check(tmp_path, make_config())
    with pytest.raises(InputError, match="is a file"):
        workdir.check(tmp_path / "thesis.tex", make_config())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        workdir.check(tmp_path, make_config())


def test_checking_makes_nothing(tmp_path):
    workdir.check(tmp_path / "run", make_config())
    assert not (tmp_path / "run").exists()


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    workdir.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        workdir.write_json(path, {"x": float("nan")})
    with pytest.raises(RuntimeError):
        write_half(path)
    assert json.loads(path.read_text()) == {"x": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_arrays_and_rows_come_back(tmp_path):
    workdir.write_npy(tmp_path / "a.npy", np.arange(3))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), [0, 1, 2])
    workdir.write_csv(tmp_path / "a.csv", [{"a": 1, "b": "x,y"}, {"a": 2.5, "b": None}])
    assert (tmp_path / "a.csv").read_text() == 'a,b\n1,"x,y"\n2.5,\n'
    assert len(list(tmp_path.iterdir())) == 2
