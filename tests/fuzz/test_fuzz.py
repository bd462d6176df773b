"""No input gives a traceback, a hang or memory beyond four times the file."""

import gzip
import json
import random
import time
import zipfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dpfinjax.data import paper_pickle
from dpfinjax.errors import InputError
from tests.fuzz import corpus, mutations, promise, valid
from tests.fuzz.promise import ACCEPTED, REFUSED, Violation
from tests.fuzz.targets import TARGETS, mutated

# As many as take a few seconds of each target; `python -m tests.fuzz` tries others by the thousand.
EXAMPLES = {
    **dict.fromkeys(("bars", "series", "pickle", "metrics", "results"), 150),
    **dict.fromkeys(("binance", "recognition", "flags"), 50),
    **dict.fromkeys(("config", "study"), 15),
    "targets": 15,
}
CASES = [(target, name) for target in TARGETS for name in corpus.inputs(target)]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """What is compiled once, so that no example is charged for it."""
    for name in ("flags", "config"):
        TARGETS[name].entry(b"attack")


def tried(name, data):
    return promise.tried(TARGETS[name].entry, data, TARGETS[name].always)


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs_are_accepted(name):
    for data in TARGETS[name].valid():
        assert tried(name, data) == ACCEPTED


@pytest.mark.parametrize(("target", "name"), CASES)
def test_what_was_found_once_keeps_the_promise(target, name):
    tried(target, corpus.inputs(target)[name])


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_keep_the_promise(name):
    found = set()

    @hypothesis.given(st.integers(0, 2**32))
    @hypothesis.settings(max_examples=EXAMPLES[name], database=None)
    def keeps_it(seed):
        found.add(tried(name, mutated(TARGETS[name], seed)))

    keeps_it()
    assert found == {ACCEPTED, REFUSED}  # mutations are neither always fatal nor never


@pytest.mark.parametrize("name", ["bars", "series", "pickle", "flags", "metrics"])
@hypothesis.given(data=st.binary(max_size=200))
@hypothesis.settings(max_examples=30, database=None)
def test_noise_keeps_the_promise(name, data):
    tried(name, data)


def _bombs():
    text, rows = valid.texts()[0], 65 << 20
    return {
        "gzip": ("bars", lambda: gzip.compress(text + b"\n" * rows, 1)),
        "zip": (
            "bars",
            lambda: valid.zipped(text + b"\n" * rows, compression=zipfile.ZIP_DEFLATED),
        ),
        "line": ("bars", lambda: text + b"1" * (20 << 20)),
        "quote": ("bars", lambda: text + b'"' * (20 << 20)),
        "deep json": ("targets", lambda: b"dpsgd/config.json\n" + b"[" * 100_000),
        "deep metrics": ("metrics", lambda: b"[" * 100_000 + b"\n"),
        "huge array": (
            "study",
            lambda: (
                b"attack/baseline/is_member.npy\n" + mutations.npy("'<f8'", "(10000000000,)", b"")
            ),
        ),
    }


@pytest.mark.parametrize("name", _bombs())
def test_a_bomb_is_refused(name):
    target, make = _bombs()[name]
    assert tried(target, make()) == REFUSED


@pytest.mark.parametrize("instruction", [b"]", b"(", b"N\x94"])
def test_a_pickle_of_small_objects_is_refused_before_they_fill_the_memory(
    instruction, monkeypatch, tmp_path
):
    monkeypatch.setattr(paper_pickle, "_ALWAYS_BYTES", 1 << 20)
    (tmp_path / "ETH_gaf.pkl").write_bytes(b"\x80\x04" + instruction * 20_000 + b".")
    with pytest.raises(InputError, match="too many small objects"):
        paper_pickle.read(tmp_path / "ETH_gaf.pkl")


def _fails(data):
    raise {b"key": KeyError("x"), b"json": RecursionError()}[data]


def _takes_memory(data):
    np.ones(20 << 20)


def _takes_time(data):
    while True:
        time.process_time()


def _tells_nothing(data):
    raise InputError(" ")


@pytest.mark.parametrize(
    ("entry", "data"),
    [(_fails, b"key"), (_fails, b"json"), (_takes_memory, b""), (_tells_nothing, b"")],
)
def test_a_broken_promise_is_seen(entry, data):
    with pytest.raises(Violation):
        promise.tried(entry, data)


def test_a_hang_is_seen(monkeypatch):
    monkeypatch.setattr(promise, "SECONDS", 0.2)
    with pytest.raises(Violation, match="not done"):
        promise.tried(_takes_time, b"")


def test_an_input_is_the_same_for_the_same_seed():
    for name, target in TARGETS.items():
        assert mutated(target, 5) == mutated(target, 5), name


def test_json_that_is_mutated_stays_json_most_of_the_time():
    kept = 0
    for seed in range(100):
        try:
            json.loads(mutations.of_json(b'{"a": [1, {"b": 2}], "c": "x"}', random.Random(seed)))
            kept += 1
        except (ValueError, RecursionError):
            pass
    assert kept > 50
