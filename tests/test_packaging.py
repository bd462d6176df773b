"""The lock files have what setup.py asks for, in versions that it allows."""

import ast
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CLONE = Path(__file__).resolve().parent.parent


def wanted():
    """The lists of requirements in setup.py: CORE, and EXTRAS by name."""
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse((CLONE / "setup.py").read_text()).body
        if isinstance(node, ast.Assign)
    }
    return lists["CORE"], lists["EXTRAS"]


def pins(lock):
    """The requirements of a lock file by name, several where interpreters or systems differ."""
    found = {}
    for line in (CLONE / lock).read_text().splitlines():
        if not line.startswith(("#", " ")):
            pin = Requirement(line.removesuffix("\\"))
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def version_of(pin):
    (specifier,) = pin.specifier
    assert specifier.operator == "==", pin
    return specifier.version


@pytest.mark.parametrize(("lock", "extras"), [("core.lock", []), ("test.lock", ["test"])])
def test_a_lock_has_every_requirement_in_a_version_that_setup_allows(lock, extras):
    core, more = wanted()
    locked = pins(lock)
    for requirement in map(
        Requirement, [*core, *(name for extra in extras for name in more[extra])]
    ):
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{lock} lacks {requirement}: make lock"
        for pin in versions:
            assert requirement.specifier.contains(version_of(pin)), (
                f"{pin}, {requirement}: make lock"
            )
        here = [pin for pin in versions if pin.marker is None or pin.marker.evaluate()]
        assert len(here) == 1, requirement


def test_tests_run_with_the_versions_that_users_get():
    tested = pins("test.lock")
    for name, versions in pins("core.lock").items():
        assert list(map(str, versions)) == list(map(str, tested[name]))


@pytest.mark.parametrize("lock", ["core.lock", "test.lock"])
def test_a_lock_has_hashes_and_names_no_place_to_fetch_from(lock):
    content = (CLONE / lock).read_text()
    assert content.count(" \\\n    --hash=sha256:") >= sum(map(len, pins(lock).values()))
    for place in ("://", "--index", "--extra-index", "--find-links", " @ ", "file:"):
        assert place not in content


def test_every_requirement_of_the_core_has_a_lower_bound():
    for requirement in map(Requirement, wanted()[0]):
        assert [specifier.operator for specifier in requirement.specifier] == [">="], requirement
