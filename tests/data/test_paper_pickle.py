"""The paper's pickle: everything a writer of it can produce is read, nothing it names is run."""

import os
import pickle
import pickletools
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.data import paper_pickle
from dpfinjax.errors import InputError

PROTOCOLS = (2, 3, 4, 5)


@pytest.fixture
def content() -> dict:
    """A small file of the paper's layout; n differs between the splits."""
    rng = np.random.default_rng(0)
    made = {}
    for n, split in zip((9, 5, 4), paper_pickle.SPLITS, strict=True):
        label = rng.integers(0, 8, n)
        made[f"{split}_culr_gaf"] = rng.uniform(-1, 1, (n, 10, 10, 4))
        made[f"{split}_onehot"] = np.eye(8)[label]
        made[f"{split}_ohlc"] = rng.uniform(100, 200, (n, 10, 4))
        made[f"{split}_label"] = label
    return made


def read_bytes(data: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "ETH_gaf.pkl"
    path.write_bytes(data)
    return paper_pickle.read(path)


def read_content(content: dict, folder: Path, protocol: int = 4) -> dict[str, np.ndarray]:
    return read_bytes(pickle.dumps(content, protocol), folder)


def assert_same(read: dict[str, np.ndarray], content: dict) -> None:
    assert sorted(read) == sorted(content)
    for key, array in content.items():
        expected = np.asarray(array, np.float64)
        tolerance = 1e-7 if key.endswith("gaf") else 0
        np.testing.assert_allclose(read[key], expected.reshape(read[key].shape), atol=tolerance)


def with_old_module_paths(data: bytes) -> bytes:
    """The pickle as NumPy 1 writes it: `numpy.core` for `numpy._core`, and no frames."""
    steps = list(pickletools.genops(data))
    ends = [position for _, _, position in steps[1:]] + [len(data)]
    parts = []
    for (opcode, argument, start), end in zip(steps, ends, strict=True):
        if opcode.name == "FRAME":
            continue
        text = argument if isinstance(argument, str) else ""
        if opcode.name == "GLOBAL":
            module, name = text.split(" ")
            module = module.replace("numpy._core", "numpy.core")
            parts.append(f"c{module}\n{name}\n".encode())
        elif opcode.name == "SHORT_BINUNICODE" and text.startswith("numpy._core"):
            old = text.replace("numpy._core", "numpy.core").encode()
            parts.append(b"\x8c" + bytes([len(old)]) + old)
        else:
            parts.append(data[start:end])
    return b"".join(parts)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("old", [False, True], ids=["numpy._core", "numpy.core"])
def test_every_protocol_and_module_path_gives_the_same_arrays(content, tmp_path, protocol, old):
    data = pickle.dumps(content, protocol)
    if old:
        data = with_old_module_paths(data)
        assert b"numpy._core" not in data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            # The rewritten bytes are a pickle in their own right.
            assert_same(pickle.loads(data), content)
    read = read_bytes(data, tmp_path)
    assert_same(read, content)
    assert {read[f"train_{field}"].dtype for field in ("culr_gaf", "onehot")} == {np.dtype("f4")}
    assert read["train_ohlc"].dtype == np.float64
    assert read["train_label"].dtype == np.int32
    assert all(array.flags.c_contiguous and array.flags.writeable for array in read.values())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: np.ascontiguousarray(np.moveaxis(array, 0, -1)).transpose(
            array.ndim - 1, *range(array.ndim - 1)
        ),
        lambda array: np.repeat(array, 2, axis=0)[::2],
        lambda array: array.astype(object),
        lambda array: array.tolist(),
        list,
        tuple,
    ],
    ids=["fortran", "big-endian", "axes-moved", "strided", "objects", "lists", "rows", "tuple"],
)
def test_memory_layout_never_changes_the_arrays(content, tmp_path, protocol, layout):
    changed = {key: layout(array) for key, array in content.items()}
    assert_same(read_content(changed, tmp_path, protocol), content)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["b1", "i1", "u1", "<i2", ">u2", "i4", ">i8", "u8", "f2", ">f4"])
def test_every_plain_number_type_is_read(content, tmp_path, protocol, dtype):
    for split in paper_pickle.SPLITS:
        label = content[f"{split}_label"] % 2
        content[f"{split}_label"] = label.astype(dtype)
        content[f"{split}_onehot"] = np.eye(8)[label].astype(dtype)
    assert_same(read_content(content, tmp_path, protocol), content)


def test_label_may_be_a_column(content, tmp_path):
    content["train_label"] = content["train_label"][:, np.newaxis]
    assert read_content(content, tmp_path)["train_label"].shape == (9,)


def test_array_of_row_arrays_is_stacked(content, tmp_path):
    rows = np.empty(9, object)
    rows[:] = [pickle.loads(pickle.dumps(image)) for image in content["train_culr_gaf"]]
    expected = dict(content)
    content["train_culr_gaf"] = rows
    assert_same(read_content(content, tmp_path), expected)


def test_other_keys_are_ignored(content, tmp_path):
    assert_same(read_content(content | {"note": ["any", (1, None)]}, tmp_path), content)


def test_every_missing_key_is_named(content, tmp_path):
    for key in content:
        rest = {other: array for other, array in content.items() if other != key}
        with pytest.raises(InputError, match=rf"ETH_gaf.pkl has no {key};"):
            read_content(rest, tmp_path)


def test_truncation_anywhere_is_one_sentence(content, tmp_path):
    small = {key: array[:1] for key, array in content.items()}
    for protocol in PROTOCOLS:
        data = pickle.dumps(small, protocol)
        for end in range(0, len(data), 97):
            with pytest.raises(InputError, match=r"ETH_gaf\.pkl is "):
                read_bytes(data[:end], tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_input_error_or_still_the_layout(tmp_path_factory, data):
    label = np.arange(2)
    content = {
        f"{split}_{field}": array
        for split in paper_pickle.SPLITS
        for field, array in {
            "culr_gaf": np.zeros((2, 10, 10, 4), "f2"),
            "onehot": np.eye(8)[label],
            "ohlc": np.ones((2, 10, 4), "i1"),
            "label": label,
        }.items()
    }
    damaged = bytearray(pickle.dumps(content, data.draw(st.sampled_from(PROTOCOLS))))
    # Instructions are rare among the bytes of arrays, and each is worth a blow.
    steps = [position for _, _, position in pickletools.genops(bytes(damaged))]
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.sampled_from(steps)) + data.draw(st.integers(0, 2))
        damaged[min(position, len(damaged) - 1)] = data.draw(st.integers(0, 255))
    with suppress(InputError):
        read = read_bytes(bytes(damaged), tmp_path_factory.mktemp("damaged"))
        assert read["train_culr_gaf"].shape[1:] == (10, 10, 4)
        assert set(read["train_label"]) <= set(range(8))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"timestamp,open\n", b"\x80\x09.", b"(dp0\n.", b"\x80\x04.", b"\x80\x04}}."],
)
def test_what_is_no_pickle_of_protocol_2_to_5_is_refused(tmp_path, data):
    with pytest.raises(InputError, match=r"ETH_gaf\.pkl is (no|a) pickle"):
        read_bytes(data, tmp_path)


def test_missing_file_and_directory_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        paper_pickle.read(tmp_path / "absent.pkl")
    with pytest.raises(InputError, match="is a directory"):
        paper_pickle.read(tmp_path)


def test_anything_but_a_dict_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds a list; it should hold a dict"):
        read_bytes(pickle.dumps([1, 2]), tmp_path)


def nan_in(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("key", "change", "sentence"),
    [
        ("train_culr_gaf", lambda a: a[..., :3], r"shape \(9, 10, 10, 3\); it should be \(n, 10"),
        ("val_culr_gaf", lambda a: a.reshape(5, 400), r"it should be \(n, 10, 10, 4\)"),
        ("val_culr_gaf", lambda a: a[:, :, :, :, None], r"it should be \(n, 10, 10, 4\)"),
        ("train_onehot", lambda a: a[:, :7], r"it should be \(n, 8\)"),
        ("train_label", lambda a: a[0], r"train_label that has shape"),
        ("train_label", lambda a: a[:8], "has 9, 9, 9, 8 rows in train's"),
        ("test_label", lambda a: a + 0.5, "labels in test_label that are not the integers 0 to 7"),
        ("test_label", lambda a: a - 8, "labels in test_label"),
        ("test_label", lambda a: a + 8, "labels in test_label"),
        ("test_label", lambda a: np.full(4, np.nan), "labels in test_label"),
        ("train_label", lambda a: (a + 1) % 8, "rows in train_onehot that are not the one-hot"),
        ("train_onehot", lambda a: a * 2, "rows in train_onehot"),
        ("train_onehot", lambda a: np.ones_like(a), "rows in train_onehot"),
        ("train_culr_gaf", lambda a: a * 1.5, r"train_culr_gaf outside \[-1, 1\]"),
        ("train_culr_gaf", nan_in, r"train_culr_gaf outside \[-1, 1\]"),
        ("train_ohlc", nan_in, "values in train_ohlc that are not finite"),
        ("train_label", lambda a: a.astype(str), "train_label that is of type U21"),
        ("train_label", lambda a: a.astype(complex), "train_label that is of type c16"),
        ("train_label", lambda a: list(map(str, a)), "train_label that holds a str"),
        ("train_label", lambda a: None, "train_label that holds a NoneType"),
        ("train_label", lambda a: a[:0], "train_label that is empty"),
        ("train_label", lambda a: [], "train_label that is empty"),
        ("train_label", lambda a: [10**400] * 9, "a number in train_label that no float can hold"),
        ("train_ohlc", lambda a: [a[0], a[1][:5]], r"has shape \(5, 4\); it should be \(10, 4\)"),
        (
            "train_label",
            lambda a: a.astype([("x", "i8")]),
            "train_label that is of type V8",
        ),
    ],
)
def test_arrays_that_contradict_the_layout_are_named(content, tmp_path, key, change, sentence):
    content[key] = change(content[key])
    with pytest.raises(InputError, match=sentence):
        read_content(content, tmp_path)


def test_images_may_miss_one_by_rounding(content, tmp_path):
    content["train_culr_gaf"].flat[0] = 1 + 1e-6
    assert read_content(content, tmp_path)["train_culr_gaf"].max() <= 1 + 2e-6


# What follows is hostile. The trap is a file that appears when something is executed.


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def trap(tmp_path) -> Path:
    return tmp_path / "executed"


_heard: list[str] | None = None


def _listen(event: str, arguments: tuple) -> None:
    if _heard is not None:
        _heard.append(f"{event} {arguments[:1]}")


@pytest.fixture(scope="module")
def interpreter_ear() -> None:
    # An audit hook cannot be taken back, so it is deaf outside of `heard`.
    sys.addaudithook(_listen)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the interpreter did that its audit events tell: calls, imports, files, processes."""
    global _heard
    events = _heard = []
    try:
        yield events
    finally:
        _heard = None


def assert_refused(data: bytes, folder: Path, sentence: str) -> None:
    """The file is refused, and the interpreter has done nothing but open it."""
    path = folder / "ETH_gaf.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match=sentence), heard() as events:
        paper_pickle.read(path)
    assert events == [f"open ({str(path)!r},)"]


def test_the_ear_hears_what_a_plain_unpickler_does(interpreter_ear, tmp_path):
    with heard() as events:
        pickle.loads(pickle.dumps(Calls(os.mkdir, str(tmp_path / "made"))))
    assert any(event.startswith("pickle.find_class") for event in events)
    assert any(event.startswith("os.mkdir") for event in events)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {trap}",), f"{os.system.__module__}.system"),
        (eval, ("open({trap!r}, 'w')",), "eval"),
        (exec, ("open({trap!r}, 'w')",), "exec"),
        (open, ("{trap}", "w"), r"_?io\.open"),
        (os.mkdir, ("{trap}",), f"{os.mkdir.__module__}.mkdir"),
        (np.load, ("{trap}",), "numpy.load"),
        (np.save, ("{trap}", 1), "numpy.save"),
        (np.memmap, ("{trap}", "u1", "w+", 0, 1), r"numpy.*memmap"),
        (getattr, (os, "system"), r"getattr"),
        (pickle.loads, (b"",), r"_?pickle\.loads"),
    ],
)
def test_calls_are_refused_by_name_and_never_made(
    content, tmp_path, trap, interpreter_ear, protocol, function, arguments, name
):
    arguments = [a.format(trap=str(trap)) if isinstance(a, str) else a for a in arguments]
    if function is getattr:
        arguments = ["x", "upper"]
    data = pickle.dumps(content | {"bomb": Calls(function, *arguments)}, protocol)
    sentence = rf"ETH_gaf\.pkl refers to .*{name}, which was not touched"
    assert_refused(data, tmp_path, sentence)
    assert not trap.exists()


def test_the_same_call_does_spring_the_trap_under_the_plain_unpickler(tmp_path, trap):
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {trap}")))
    assert trap.exists()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def stack_global(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


RECONSTRUCT = stack_global("numpy._core.multiarray", "_reconstruct")
EMPTY_ARRAY = RECONSTRUCT + stack_global("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
FLOAT64 = stack_global("numpy", "dtype") + short("f8") + b"\x89\x88\x87R"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"cos\nsystem\n(S'true'\ntR", "refers to os.system,"),
        (stack_global("os", "system") + b".", "refers to os.system,"),
        (b"(S'true'\nios\nsystem\n", "has the instruction STRING"),
        (b"(ios\nsystem\n", "refers to os.system,"),
        (b"(inumpy\ndtype\n", "makes an object"),
        (stack_global("numpy", "ndarray.__class__"), "refers to numpy.ndarray.__class__,"),
        (
            stack_global("numpy._core.multiarray", "_reconstruct.__globals__"),
            "refers to numpy._core.multiarray._reconstruct.__globals__,",
        ),
        (stack_global("numpy.core", "multiarray._reconstruct"), "refers to numpy.core.multiarray"),
        (stack_global("os\x1b[2J", "system"), r"refers to os\?\[2J\.system,"),
        (b"]]\x93", "refers to something without a name"),
        (b"Pid\n", "has the instruction PERSID"),
        (b"K\x01Q", "has the instruction BINPERSID"),
        (b"\x82\x01", "has the instruction EXT1"),
        (b"\x83\x01\x00", "has the instruction EXT2"),
        (b"\x84\x01\x00\x00\x00", "has the instruction EXT4"),
        (stack_global("numpy", "ndarray") + b")\x81", "has the instruction NEWOBJ"),
        (stack_global("numpy", "ndarray") + b")}\x92", "has the instruction NEWOBJ_EX"),
        (b"(" + stack_global("numpy", "dtype") + b"o", "has the instruction OBJ"),
        (b"\x97", "has the instruction NEXT_BUFFER"),
        (b"\x8f", "has the instruction EMPTY_SET"),
        # Calls of admitted names with arguments that real NumPy would act on.
        (RECONSTRUCT + stack_global("numpy", "dtype") + b"K\x00\x85C\x01b\x87R", "calls something"),
        (RECONSTRUCT + b"]K\x00\x85C\x01b\x87R", "calls something"),
        (stack_global("numpy", "ndarray") + b"K\x05\x85R", "calls something"),
        (stack_global("numpy", "dtype") + b"}\x85R", "calls something"),
        (
            stack_global("_codecs", "encode") + short("x") + short("hex") + b"\x86R",
            "calls something",
        ),
        (short("upper") + b")R", "calls something"),
        # States set on what has none: a list, an admitted name, a literal.
        (b"]}b", "sets a state"),
        (RECONSTRUCT + b"}b", "sets a state"),
        (stack_global("numpy", "ndarray") + b"}b", "sets a state"),
        (EMPTY_ARRAY + b"}b", "sets a state"),
        (FLOAT64 + b"}b", "sets a state"),
        (b"]}K\x01s", "sets items other than"),
        (b"s", "is a pickle that is damaged"),
        (b"h\x07", "is a pickle that is damaged"),
        (b"t", "is a pickle that is damaged"),
        (b"})K\x01s", "sets items other than"),
        (b"]K\x01K\x02s", "sets items other than"),
        (b"}K\x01a", "appends to what is no list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_instructions_are_refused(tmp_path, interpreter_ear, body, sentence):
    assert_refused(b"\x80\x04" + body + b".", tmp_path, sentence)


def bare(value: object) -> bytes:
    """The instructions that make a plain value, without memo, head and end."""
    data = pickle.dumps(value, 2)
    steps = list(pickletools.genops(data))
    ends = [position for _, _, position in steps[1:]] + [len(data)]
    return b"".join(
        data[start:end]
        for (opcode, _, start), end in zip(steps, ends, strict=True)
        if opcode.name not in ("PROTO", "STOP", "BINPUT")
    )


def described_array(dtype_state: tuple, shape: tuple, data: object, code: str = "f8") -> bytes:
    """Instructions that make an array of a description of one's choice."""

    dtype = stack_global("numpy", "dtype") + short(code) + b"\x89\x88\x87R"
    dtype += bare(dtype_state) + b"b"
    payload = b"B" + struct.pack("<I", len(data)) + data if isinstance(data, bytes) else bare(data)
    return EMPTY_ARRAY + b"(K\x01" + bare(shape) + dtype + b"\x89" + payload + b"tb"


PLAIN_STATE = (3, "<", None, None, None, -1, -1, 0)


def content_with_label(content: dict, label: bytes) -> bytes:
    """The file, its train_label made by the given instructions."""
    rest = {key: array for key, array in content.items() if key != "train_label"}
    start = pickle.dumps(rest, 3)
    return start[:-1] + short("train_label") + label + b"s."


def test_a_described_array_of_sound_description_is_read(content, tmp_path):
    label = content["train_label"].astype("<f8")
    data = content_with_label(content, described_array(PLAIN_STATE, (9,), label.tobytes()))
    assert_same(read_bytes(data, tmp_path), content)


@pytest.mark.parametrize(
    ("state", "shape", "size", "code", "sentence"),
    [
        ((3, "<", ("f8", (2,)), None, None, -1, -1, 0), (9,), 72, "f8", "fields or other extras"),
        ((3, "<", None, ("a",), {"a": 1}, 8, 8, 0), (9,), 72, "f8", "fields or other extras"),
        ((3, "<", None, None, None, 2**40, -1, 0), (9,), 72, "f8", "fields or other extras"),
        ((3, "<", None, None, None, 1, -1, 0), (9,), 72, "f8", "fields or other extras"),
        ((3, "<", None, None, None, -1, -1, 63), (9,), 72, "f8", "fields or other extras"),
        ((3, "x", None, None, None, -1, -1, 0), (9,), 72, "f8", "fields or other extras"),
        ((4, "<", None, None, None, -1, -1, 0, {}), (9,), 72, "f8", "fields or other extras"),
        ((), (9,), 72, "f8", "fields or other extras"),
        (PLAIN_STATE, (9,), 71, "f8", "has not the 72 bytes"),
        (PLAIN_STATE, (9,), 80, "f8", "has not the 72 bytes"),
        (PLAIN_STATE, (2**40,), 72, "f8", "half described"),
        (PLAIN_STATE, (10**5000,), 72, "f8", "half described"),
        (PLAIN_STATE, (-9,), 72, "f8", "half described"),
        (PLAIN_STATE, (True,), 8, "f8", "half described"),
        (PLAIN_STATE, ("9",), 72, "f8", "half described"),
        (PLAIN_STATE, (1,) * 40, 8, "f8", "half described"),
        (PLAIN_STATE, (9,), 72, "O8", "has not the objects"),
        (PLAIN_STATE, (9,), 72, "V8", "is of type V8"),
        (PLAIN_STATE, (9,), 72, "S8", "is of type S8"),
        (PLAIN_STATE, (9,), 72, "M8", "is of type M8"),
        (PLAIN_STATE, (9,), 144, "f16", "is of type f16"),
        (PLAIN_STATE, (9,), 72, "f8,f8", "is of type f8,f8"),
    ],
)
def test_tampered_descriptions_are_refused(content, tmp_path, state, shape, size, code, sentence):
    label = described_array(state, shape, bytes(size), code)
    with pytest.raises(InputError, match=f"train_label that .*{sentence}"):
        read_bytes(content_with_label(content, label), tmp_path)


def test_an_integer_in_place_of_bytes_is_refused(content, tmp_path):
    label = described_array(PLAIN_STATE, (9,), 72)
    with pytest.raises(InputError, match="has not the 72 bytes"):
        read_bytes(content_with_label(content, label), tmp_path)


def test_a_huge_claimed_length_allocates_nothing(tmp_path):
    for opcode in (b"\x8e", b"\x8d", b"\x96"):
        with pytest.raises(InputError, match="damaged or cut short"):
            read_bytes(b"\x80\x05" + opcode + struct.pack("<Q", 2**50) + b"x.", tmp_path)
    with pytest.raises(InputError, match="holds a int"):
        read_bytes(b"\x80\x04K\x01r\xff\xff\xff\xff.", tmp_path)


def test_shared_nested_lists_are_refused_before_they_are_unfolded(content, tmp_path):
    folded = [0.0] * 10
    for _ in range(12):
        folded = [folded] * 10
    for key in ("train_label", "train_culr_gaf"):
        with pytest.raises(InputError, match=f"{key} that has shape"):
            read_content(content | {key: folded}, tmp_path)


def test_shared_big_arrays_are_refused_before_they_are_stacked(content, tmp_path):
    big = np.zeros((10**4, 10, 4))
    with pytest.raises(InputError, match="train_culr_gaf that has shape"):
        read_content(content | {"train_culr_gaf": [big] * 10**5}, tmp_path)
    objects = np.empty(10**4, object)
    objects[:] = [np.zeros((10, 4))] * 10**4
    with pytest.raises(InputError, match="train_culr_gaf that has shape"):
        read_content(content | {"train_culr_gaf": [objects] * 10**5}, tmp_path)


def test_an_array_that_holds_itself_is_refused(content, tmp_path):
    for length in (1, 9):
        for shape in ((), (1,), (length,)):
            knot = np.empty(shape, object)
            knot[...] = 0
            knot.fill(knot)
            with pytest.raises(InputError, match="train_label that"):
                read_content(content | {"train_label": knot}, tmp_path)


def test_a_list_that_holds_itself_is_refused(content, tmp_path):
    knot: list = []
    knot.append(knot)
    with pytest.raises(InputError, match="train_label that"):
        read_content(content | {"train_label": knot}, tmp_path)


def test_deep_nesting_is_refused_without_recursion(tmp_path):
    deep = b"]" * 200_000 + b"a" * 199_999
    with pytest.raises(InputError, match="holds a list"):
        read_bytes(b"\x80\x04" + deep + b".", tmp_path)
    key = b")" + b"\x85" * 200_000
    with pytest.raises(InputError, match="sets items other than"):
        read_bytes(b"\x80\x04}" + key + b"K\x01s.", tmp_path)
