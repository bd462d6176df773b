"""What may be shared: all of it is known here, key by key and number by number."""

import json
import math
import re
import shutil
import zipfile

import jax
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from configs import dpsgd as dpsgd_config
from dpfinjax import data, models, release, workdir
from dpfinjax.data import simulate
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.errors import InputError
from launch import dpsgd
from tests.test_privacy import PROMISED

pytestmark = pytest.mark.usefixtures("empty_pictures")

SEED = 918273645
FILES = {"parameters.npz", "model.json", "privacy.json", "MODEL_CARD.md"}
STATED = PROMISED | {"batch_size", "examples", "overflow_probability"}
DESCRIBED = {"format", "network", "labels", "window_bars", "encoding"}


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory, empty_pictures):
    """A run on bars whose place and seed nobody may learn."""
    place = tmp_path_factory.mktemp("planted_source")
    source = place / "client_4711_bars.csv"
    pyarrow.csv.write_csv(pa.table(simulate.bars(120_000, 4)._asdict()), source)
    config = dpsgd_config.get_config()
    config.update(seed=SEED, batch_size=64, epochs=6.0, published_formula=True)
    config.update_from_flattened_dict({"model.hidden": (16,), "data.cache_dir": cache})
    config.data.source = str(source)
    (outcome,) = dpsgd.train_and_evaluate(config, place / "run")
    return config, place / "run", outcome


def numbers(text):
    """Every number in a text, as it is written there, without marks of thousands."""
    return set(re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text.replace(",", "")))


def test_a_release_holds_four_files_and_no_other_key(run):
    _, folder, _ = run
    place = folder / release.FOLDER
    assert {file.name for file in place.iterdir()} == FILES
    assert set(json.loads((place / "privacy.json").read_text())) == STATED
    described = json.loads((place / "model.json").read_text())
    assert set(described) == DESCRIBED
    attributes = set(models.GafCnn.__dataclass_fields__) - {"parent", "name"}
    assert set(described["network"]) == attributes
    with zipfile.ZipFile(place / "parameters.npz") as archive:
        names = {info.filename for info in archive.infolist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    layers = ("Dense_0", "Dense_1")
    assert names == {f"{layer}/{part}.npy" for layer in layers for part in ("bias", "kernel")}


def test_no_file_of_a_release_tells_anything_that_was_planted(run):
    config, folder, outcome = run
    row, facts = outcome.row, data.describe(config)
    private = ["client_4711", "planted_source", str(SEED), "sha256", *facts.source_sha256]
    private += [facts.folder, f"{facts.windows}", f"{row.published_epsilon:.6g}"]
    private += [repr(getattr(row, f"{s}_accuracy")) for s in ("train", "validation", "test")]
    for file in (folder / release.FOLDER).iterdir():
        content = file.read_bytes().decode("latin-1")
        assert [word for word in private if word in content] == []
    # The same words are found where they may be, so the search is not blind.
    config_json = (folder / "config.json").read_text()
    assert "client_4711" in config_json
    assert str(SEED) in config_json


def test_every_number_of_a_card_is_public(run):
    """From the statement, the network and the literature, and no other."""
    _, folder, outcome = run
    card = (folder / release.FOLDER / "MODEL_CARD.md").read_text()
    known = numbers(json.dumps(outcome.statement.shareable().to_json()))
    known |= numbers(outcome.statement.sentence())
    known |= {"792", "8", "10", "32", "2020", "0", "1"}
    assert numbers(card) - known == set()
    assert "seed" not in card.replace("config.seed", "").replace("the seed,", "")


def test_a_card_has_the_sections_of_model_cards_and_names_the_command(run):
    _, folder, outcome = run
    card = (folder / release.FOLDER / "MODEL_CARD.md").read_text()
    sections = re.findall(r"^## (.*)$", card, re.M)
    assert sections == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Privacy and ethical considerations",
        "Caveats",
    ]
    assert "python -m launch.predict --model=release/ --bars=" in card
    joined = " ".join(card.split())
    assert outcome.statement.sentence() in joined
    stated = json.loads((folder / release.FOLDER / "privacy.json").read_text())
    assert all(sentence in joined for sentence in stated["assumptions"])


def test_a_model_is_read_as_it_was_written(run):
    config, folder, outcome = run
    model = release.read(folder / release.FOLDER)
    assert model.module == models.build(**config.model)
    assert (model.labels, model.length) == (PATTERNS, 10)
    jax.tree.map(np.testing.assert_array_equal, model.params, jax.device_get(outcome.params))


def test_a_model_that_protects_nobody_or_is_lost_is_not_shared(run, tmp_path):
    _, folder, outcome = run
    model = release.read(folder / release.FOLDER)
    lost = jax.tree.map(lambda x: x * np.float32(np.nan), model.params)
    unsafe = outcome.statement._replace(epsilon=math.inf)
    release.write(tmp_path, "m", model._replace(params=lost), outcome.statement, "")
    release.write(tmp_path, "m", model, unsafe, "")
    assert list(tmp_path.iterdir()) == []
    release.write(tmp_path, "m", model, outcome.statement, "")
    assert [file.name for file in tmp_path.iterdir()] == [release.FOLDER]
    assert "None is stated" in (tmp_path / release.FOLDER / "MODEL_CARD.md").read_text()


def test_a_release_is_replaced_as_a_whole_or_stays(run, tmp_path, monkeypatch):
    _, folder, outcome = run
    model, place = release.read(folder / release.FOLDER), tmp_path / release.FOLDER
    release.write(tmp_path, "first", model, outcome.statement, "")
    (place / "scores.npy").write_bytes(b"left here by somebody")
    with monkeypatch.context() as broken:
        broken.setattr(release.model_card, "text", lambda card: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            release.write(tmp_path, "second", model, outcome.statement, "")
    assert "first" in (place / "MODEL_CARD.md").read_text()
    assert [file.name for file in tmp_path.iterdir()] == [release.FOLDER]
    release.write(tmp_path, "second", model, outcome.statement, "")
    assert "second" in (place / "MODEL_CARD.md").read_text()
    assert {file.name for file in place.iterdir()} == FILES


def test_what_a_kill_left_of_a_folder_is_cleared_away(tmp_path):
    for left in (".release.new", ".release.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").write_text("x")
    with workdir.replacing_folder(tmp_path / "release") as place:
        (place / "whole").write_text("y")
    assert [str(f.relative_to(tmp_path)) for f in sorted(tmp_path.rglob("*"))] == [
        "release",
        "release/whole",
    ]


@pytest.fixture
def copy(run, tmp_path):
    """A release to be damaged."""
    return shutil.copytree(run[1] / release.FOLDER, tmp_path / "copy")


def change(path, **changes):
    content = json.loads(path.read_text())
    network = {k: v for k, v in changes.items() if k in content["network"]}
    content["network"] |= network
    content |= {k: v for k, v in changes.items() if k not in network}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden": [17]}, "must be float32"),
        ({"hidden": [10**9]}, "describes no network: model.hidden"),
        ({"hidden": [4] * 1000}, "larger network"),
        ({"widths": [4], "strides": [1], "input": "image", "kernel_size": 1000}, "larger network"),
        ({"hidden": [16, 8]}, "disagree about the parameter 'Dense_2"),
        ({"hidden": "16"}, "describes no network"),
        ({"input": {}}, "model.input is {}; it must be text"),
        ({"input": "nothing"}, "describes no network: model.input"),
        ({"colour": "red"}, None),
        ({"network": {}}, "each attribute"),
        ({"network": 3}, "cannot be read"),
        ({"labels": ["a"] * 8}, "8 labels"),
        ({"labels": [[]] * 8}, "8 labels"),
        ({"window_bars": 0}, "window_bars 0"),
        ({"window_bars": 11}, "must be float32"),
        ({"window_bars": 1e300}, "window_bars"),
        ({"format": 2}, "another format"),
        ({"encoding": "pixels"}, "another format"),
    ],
)
def test_a_description_that_does_not_fit_is_told_in_one_sentence(copy, changes, words):
    change(copy / "model.json", **changes)
    if words is None:
        release.read(copy)  # what is not known is not looked at
        return
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        release.read(copy)
    assert str(copy) in str(caught.value)


def test_a_missing_or_broken_file_is_told_in_one_sentence(copy):
    whole = (copy / "parameters.npz").read_bytes()
    rng = np.random.default_rng(0)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (copy / "parameters.npz").write_bytes(whole[:length])
        with pytest.raises(InputError, match="parameters"):
            release.read(copy)
    refused = 0
    for place in rng.integers(len(whole), size=50):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        (copy / "parameters.npz").write_bytes(flipped)
        try:
            release.read(copy)
        except InputError:
            refused += 1
    assert refused > 40  # but for bytes that say nothing, each has a check sum over it
    (copy / "parameters.npz").unlink()
    with pytest.raises(InputError, match="is missing"):
        release.read(copy)


def test_a_pickle_is_never_loaded(copy):
    arrays = dict(np.load(copy / "parameters.npz"))
    arrays["Dense_0/bias"] = np.array([print], object)
    np.savez(copy / "parameters.npz", **arrays)
    with pytest.raises(InputError, match="must be float32"):
        release.read(copy)


def test_compressed_and_non_finite_parameters_are_refused(copy):
    arrays = dict(np.load(copy / "parameters.npz"))
    np.savez_compressed(copy / "parameters.npz", **arrays)
    with pytest.raises(InputError, match="compressed"):
        release.read(copy)
    arrays["Dense_0/bias"][3] = np.inf
    np.savez(copy / "parameters.npz", **arrays)
    with pytest.raises(InputError, match="not finite"):
        release.read(copy)


def test_a_description_of_a_deep_nest_is_no_traceback(copy):
    (copy / "model.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read"):
        release.read(copy)
