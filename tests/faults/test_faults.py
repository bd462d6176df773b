"""A dozen kills, a full disk, damage and denied folders; `python -m tests.faults` tries more."""

import pytest

from tests.faults import denied, full, jobs, kills, promises
from tests.faults.campaign import campaign

long = pytest.mark.long  # minutes of processes that start, compile and are killed


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Undisturbed runs of jobs, and one cache of compiled programs for all processes."""
    root, models = tmp_path_factory.mktemp("faults"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(root / "jax"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

        def find(name):
            if name not in models:
                models[name] = kills.undisturbed(name, root)
            return models[name]

        yield find


def test_a_dozen_kills_change_no_bit(model_of):
    assert campaign("kill", ("dpsgd",), 12, 0, model_of) >= 12


@long
def test_kills_of_many_models_and_from_disk_change_no_bit(model_of):
    assert campaign("kill", ("stream", "sweep"), 12, 0, model_of) >= 12


@long
def test_a_full_disk_is_told_and_survived(model_of):
    try:
        assert campaign("full", ("stream",), 1, 0, model_of) > 1
    except full.NoMount as error:
        pytest.skip(f"no small disk can be mounted: {error}")


@long
def test_damaged_files_are_noticed_or_change_no_bit(model_of):
    assert campaign("damage", ("sweep",), 4, 0, model_of) == 4


@long
@pytest.mark.skipif(not denied.possible(), reason="root may write everywhere here")
def test_a_folder_that_may_not_be_written_is_told(model_of, tmp_path):
    assert campaign("denied", ("sweep",), 1, 0, model_of) == 1


def test_a_broken_promise_is_noticed(model_of, tmp_path):
    """Each promise by itself: the same run passes, and fails after one change."""
    whole = model_of("dpsgd")
    place = jobs.Place(tmp_path)
    for path in whole.place.run.rglob("*"):
        if path.is_file():
            copy = place.run / path.relative_to(whole.place.run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    text = (place.run / "config.json").read_text()
    (place.run / "config.json").write_text(text.replace(str(whole.place.root), str(tmp_path)))
    promises.check_whole(place, whole.place)
    promises.check_same(place, whole.place)

    def broken(name, change, check, words):
        content = (place.run / name).read_bytes()
        assert change(content) != content
        (place.run / name).write_bytes(change(content))
        with pytest.raises(promises.Broken, match=words):
            check(place, whole.place)
        (place.run / name).write_bytes(content)

    stated = b'"epsilon": '
    broken("results.csv", lambda c: c[:-5], promises.check_whole, "not whole")
    broken("privacy.json", lambda c: c[:-5], promises.check_whole, "not whole")
    broken(
        "privacy.json", lambda c: c.replace(stated, stated + b"0.1e-3, \"x\": "),
        promises.check_whole, "was spent",
    )  # fmt: skip
    broken("results.csv", lambda c: c.replace(b"dpsgd", b"dpsgx"), promises.check_same, "is not")
    (place.run / "results.csv").unlink()
    with pytest.raises(promises.Broken, match="other files"):
        promises.check_same(place, whole.place)
