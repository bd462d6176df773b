"""Digests of a folder's files: any change of any of them is noticed, and nothing else."""

import pytest

from dpfinjax import sealed
from dpfinjax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "in/b"):
        (tmp_path / name).write_bytes(b"some content")
    sealed.write(tmp_path)
    return tmp_path


def test_an_untouched_folder_is_kept(folder):
    assert sealed.is_written(folder)
    assert sealed.is_kept(folder)
    sealed.check(folder, "nothing to do")
    (folder / "later").write_text("no file of the run")
    assert sealed.is_kept(folder)


@pytest.mark.parametrize("name", ["a", "in/b", sealed.SEAL])
@pytest.mark.parametrize("damage", ["a bit", "an end", "all"])
def test_damage_is_noticed(folder, name, damage):
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "an end":
        path.write_bytes(content[:-3])
    else:
        path.unlink()
    assert not sealed.is_kept(folder)
    with pytest.raises(InputError, match=r"is damaged.*without it all begins anew"):
        sealed.check(folder, "without it all begins anew")


def test_only_the_files_that_are_named_count(folder):
    sealed.write(folder, ["a"])
    (folder / "in" / "b").write_bytes(b"other")
    assert sealed.is_kept(folder)
    (folder / "a").write_bytes(b"other")
    assert not sealed.is_kept(folder)


def test_without_digests_a_folder_is_not_finished(tmp_path):
    assert not sealed.is_written(tmp_path)
    assert not sealed.is_kept(tmp_path)
