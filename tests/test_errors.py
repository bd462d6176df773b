"""What the disk refuses is told in a sentence; a program's own mistake is not."""

import errno
import os

import pytest

from dpfinjax.errors import refused_by_system


def raised_from(cause):
    try:
        try:
            raise cause
        except type(cause) as error:
            raise RuntimeError("while writing") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/data/x.csv"),
        raised_from(OSError(errno.ENOSPC, "No space left on device", "/data/x.csv")),
        RuntimeError("write() failed:\nNo space left on device; writing /data/x.csv"),
    ],
)
def test_a_full_disk_is_told_whoever_tells_it(error):
    sentence = refused_by_system(error)
    assert sentence.startswith("No space left on device")
    assert "/data/x.csv" in sentence
    assert sentence.endswith("free some space there, and the same command goes on from here.")
    assert "\n" not in sentence


def test_a_folder_that_may_not_be_written_is_told():
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data")
    assert "Permission denied: /data; make it readable and writable" in refused_by_system(error)


@pytest.mark.parametrize(
    "error",
    [ValueError("shapes differ"), FileNotFoundError(errno.ENOENT, "no file", "x"), OSError()],
)
def test_other_errors_are_left_alone(error):
    assert refused_by_system(error) is None
