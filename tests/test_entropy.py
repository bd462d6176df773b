"""Randomness of the operating system: drawn once a run, kept in one file, and in no other place."""

import json
import stat

import jax
import numpy as np
import pytest

from configs import dpsgd as dpsgd_config
from configs import pate as pate_config
from dpfinjax import data, entropy, experiment, settings, sweeps, workdir
from dpfinjax.errors import InputError
from dpfinjax.pate import students
from launch import dpsgd, pate

pytestmark = pytest.mark.usefixtures("empty_pictures")

SMALL = {
    "data.sim_bars": 120_000,
    "batch_size": 64,
    "epochs": 2.0,
    "model.hidden": (8,),
    "microbatch": 512,  # one piece, which compiles faster
    "accountant": "rdp",
}


def make_config(cache, **changes):
    config = dpsgd_config.get_config()
    config.update_from_flattened_dict(SMALL | {"data.cache_dir": cache} | changes)
    return config


def bits(key):
    return np.asarray(jax.random.key_data(key)).tobytes()


def test_without_a_seed_each_run_draws_its_own_and_a_resumed_one_has_the_same(tmp_path):
    config = dpsgd_config.get_config()
    assert config.seed is None
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = entropy.settled(config, tmp_path / name)
        entropy.keep(found, tmp_path / name)
        assert entropy.settled(config, tmp_path / name).entropy == found.entropy
        mode = (tmp_path / name / entropy.SEED).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        drawn.append(found.entropy)
    assert drawn[0] != drawn[1]
    assert config.seed is None
    many = [entropy.settled(config, tmp_path / "none").entropy for _ in range(200)]
    assert len(set(many)) == 200
    ones = np.array([[each >> place & 1 for place in range(64)] for each in many]).mean(axis=0)
    assert (abs(ones - 0.5) < 0.25).all()  # each of the 64 bits is drawn


def test_a_fixed_seed_is_left_alone_and_writes_no_file(tmp_path):
    config = dpsgd_config.get_config()
    config.seed = 3
    assert entropy.settled(config, tmp_path) is config
    entropy.keep(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"entropy": 5}',
        '{"entropy": "0x1ffffffffffffffff"}',
        '{"entropy": "0x12", "sha256": "of another"}',
    ],
)
def test_a_damaged_secret_is_refused_and_never_replaced(tmp_path, text):
    (tmp_path / entropy.SEED).write_text(text)
    with pytest.raises(InputError, match=r"seed\.json cannot be read"):
        entropy.settled(dpsgd_config.get_config(), tmp_path)
    assert (tmp_path / entropy.SEED).read_text() == text


def test_a_run_that_has_lost_its_secret_does_not_go_on_with_another(tmp_path):
    (tmp_path / workdir.CONFIG).write_text("{}")
    entropy.settled(dpsgd_config.get_config(), tmp_path)  # killed before anything was trained
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"whose seed\.json is gone"):
        entropy.settled(dpsgd_config.get_config(), tmp_path)


def test_every_key_needs_the_secret_and_depends_on_all_of_it(cache, tmp_path):
    config = make_config(cache, seeds=2)
    facts = data.describe(config)
    planned = experiment.runs_of(config, facts)
    assert [run.name for run in planned] == ["dpsgd,seed=0", "dpsgd,seed=1"]
    for unsettled in (config, planned[0].config):
        with pytest.raises(ValueError, match="must be drawn first"):
            settings.key(unsettled, "data", "noise")
    with pytest.raises(ValueError, match="must be drawn first"):
        experiment.key_of(planned[0])
    keys = []
    for secret in (0, 1, 1 << 31, 1 << 32, 1 << 63):
        runs = experiment.runs_of(entropy._with(config, secret), facts)
        assert [run.config.seed for run in runs] == [0, 1]
        keys += [bits(experiment.key_of(run)) for run in runs]
    fixed = experiment.runs_of(make_config(cache, seeds=2, seed=0), facts)
    keys += [bits(experiment.key_of(run)) for run in fixed]
    assert len(set(keys)) == len(keys) == 12


def test_teachers_and_parts_of_a_pate_come_from_the_secret_too(cache):
    config = pate_config.get_config("quick")
    config.data.update(sim_bars=120_000, cache_dir=cache)
    facts, found = data.describe(config), []
    for secret in (5, 5 << 40):
        (cell,) = students.students_of(entropy._with(config, secret), facts)
        (keys,) = students.keys_of([cell])
        found.append([keys.partition, *map(bits, keys[1:])])
    assert all(one != other for one, other in zip(*found, strict=True))
    (cell,) = students.students_of(config, facts)
    with pytest.raises(ValueError, match="must be drawn first"):
        students.keys_of([cell])


def test_a_statement_says_where_the_noise_comes_from(cache):
    config = make_config(cache)
    facts = data.describe(config)
    for seed, told, untold in ((None, "seed.json", "user fixed"), (77, "user fixed", "seed.json")):
        config.seed = seed
        (run,) = experiment.runs_of(config, facts)
        text = " ".join(run.plan.statement.assumptions)
        assert told in text
        assert untold not in text
        assert "77" not in text
        assert "7.54 standard deviations" in text


def test_what_is_reported_is_the_config_that_was_given(cache):
    config = make_config(cache)
    (model,) = sweeps.models_of(entropy._with(config, 9)).values()
    assert (model.config.seed, model.config.entropy) == (0, 9)
    assert entropy.as_given(model.config) == config
    assert "entropy" not in entropy.reproducible(model.config)
    fixed = make_config(cache, seed=4)
    assert entropy.as_given(fixed) == fixed


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory, empty_pictures):
    """Two runs of one command, of which one was stopped after its first epoch."""
    config, folders = make_config(cache, seeds=2), []
    for name in ("a", "b"):
        folders.append(tmp_path_factory.mktemp(name) / "run")
        dpsgd.train_and_evaluate(config, folders[-1])
    return config, folders


def released(folder, seed=0):
    return dict(np.load(folder / f"dpsgd,seed={seed}" / "release" / "parameters.npz"))


def test_two_runs_without_a_seed_differ_and_so_do_their_repetitions(runs):
    _, (one, other) = runs
    kernels = [released(f, seed)["Dense_0/kernel"] for f in (one, other) for seed in (0, 1)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    rows = (one / "results.csv").read_text().splitlines()
    place = rows[0].split(",").index("seed")
    assert [row.split(",")[place] for row in rows[1:]] == ["0", "1"]


def test_a_secret_is_in_its_file_and_in_no_other(runs):
    _, (one, _) = runs
    secret = json.loads((one / entropy.SEED).read_text())["entropy"]
    number = int(secret, 16)
    words = [secret.encode(), str(number).encode(), number.to_bytes(8, "little")]
    words += [number.to_bytes(8, "big"), secret.removeprefix("0x").encode()]
    files = [file for file in one.rglob("*") if file.is_file() and file.name != entropy.SEED]
    assert {"privacy.json", "MODEL_CARD.md", "config.json"} <= {file.name for file in files}
    assert not [file for file in files for word in words if word in file.read_bytes()]
    assert not list(one.rglob("release/*seed*"))
    assert json.loads((one / "config.json").read_text())["config"]["seed"] is None


def test_a_stopped_run_ends_with_the_same_bits(cache, tmp_path, monkeypatch):
    """The second run has the secret of the first, and is stopped between its trainings."""
    config = make_config(cache, seeds=2, models_at_once=1)
    with monkeypatch.context() as stop:
        stop.setattr(dpsgd, "_release", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dpsgd.train_and_evaluate(config, tmp_path / "run")
    secret = (tmp_path / "run" / entropy.SEED).read_text()
    dpsgd.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / entropy.SEED).read_text() == secret
    (tmp_path / "whole").mkdir()
    number = int(json.loads(secret)["entropy"], 16)
    monkeypatch.setattr(entropy.secrets, "randbits", lambda bits: number)
    dpsgd.train_and_evaluate(config, tmp_path / "whole")
    for seed in (0, 1):
        both = (released(tmp_path / name, seed) for name in ("run", "whole"))
        jax.tree.map(np.testing.assert_array_equal, *both)


def test_the_secret_is_kept_before_anything_is_trained(cache, tmp_path, monkeypatch):
    class Stopped(Exception):
        """Raised where the first training would begin."""

    def stop(*_, **__):
        raise Stopped

    monkeypatch.setattr(experiment, "train_all", stop)
    monkeypatch.setattr(pate, "_labels", stop)
    with pytest.raises(Stopped):
        dpsgd.train_and_evaluate(make_config(cache), tmp_path / "dpsgd")
    choice = make_config(cache, cells=({"clip_norm": 0.2}, {"clip_norm": 0.4}), target_epsilon=4.0)
    choice.sweep.update(select="private", mean_runs=50.0)
    with pytest.raises(Stopped):
        dpsgd.train_and_evaluate(choice, tmp_path / "select")
    config = pate_config.get_config("quick")
    config.data.update(sim_bars=120_000, cache_dir=cache)
    with pytest.raises(Stopped):
        pate.train_and_vote(config, tmp_path / "pate")
    drawn = [
        json.loads((tmp_path / n / entropy.SEED).read_text()) for n in ("dpsgd", "select", "pate")
    ]
    assert len({each["entropy"] for each in drawn}) == 3
    # The choice draws the same runs again, so its folder is still its own.
    with pytest.raises(Stopped):
        dpsgd.train_and_evaluate(choice, tmp_path / "select")
