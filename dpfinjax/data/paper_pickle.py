"""The paper's `ETH_gaf.pkl`, read without trusting it.

A pickle is a program, and the standard unpickler runs it: it calls whatever the file names. Here a
small interpreter follows the few instructions that write plain containers and NumPy arrays. It
calls nothing that the file names: an array is only noted down as its shape, type and bytes, and
built from these with `np.frombuffer` once they have been checked.
"""

import enum
import math
import os
import pickletools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpfinjax.errors import InputError

SPLITS = ("train", "val", "test")

_CLASSES = 8
_SHAPES = {"culr_gaf": (10, 10, 4), "onehot": (_CLASSES,), "ohlc": (10, 4), "label": (1,)}
_IMAGE_TOLERANCE = 1e-5
_NUMBER_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_LITERALS = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)

# What Python needs for what an instruction makes; an instruction itself can be a single byte.
_ALWAYS_BYTES = 256 << 20
_BYTES_OF_OTHERS = 100
_BYTES = {
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BININT1", "BINGET", "LONG_BINGET"), 8),
    **dict.fromkeys(("BININT", "BININT2", "BINFLOAT"), 36),
    **dict.fromkeys(("APPEND", "APPENDS", "SETITEM", "SETITEMS", "FRAME"), 8),
}

_Shape = tuple[int | None, ...]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the paper's images, labels and bars from a pickle of protocol 2 to 5.

    Args:
      path: A pickled dict with the twelve keys below; others are ignored.

    Returns:
      For each split train, val and test, with n its number of examples:
      `<split>_culr_gaf` float32 [n, 10, 10, 4] within [-1, 1], `<split>_onehot` float32 [n, 8],
      `<split>_ohlc` float64 [n, 10, 4], `<split>_label` int32 [n] in 0..7, the one-hot's class.

    Raises:
      InputError: If the file is no such pickle, or refers to anything but NumPy arrays and plain
        containers; the sentence names it, such as `os.system`. Nothing of the file is executed.
    """
    path = Path(path).expanduser()
    try:
        content = _load(_bytes(path))
        if not isinstance(content, dict):
            raise _Refused(f"holds a {type(content).__name__}; it should hold a dict of arrays")
        return {
            key: array for split in SPLITS for key, array in _split_arrays(content, split).items()
        }
    except _Refused as refusal:
        raise InputError(f"{path} {refusal}") from None


class _Refused(Exception):
    """Why a file is refused, as the rest of a sentence that begins with its name."""


def _bytes(path: Path) -> bytes:
    """The file's bytes."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise _Refused("is no regular file; name the paper's ETH_gaf.pkl")
        return path.read_bytes()
    except FileNotFoundError:
        raise _Refused("does not exist; name the paper's ETH_gaf.pkl") from None
    except IsADirectoryError:
        raise _Refused("is a directory; name the paper's ETH_gaf.pkl") from None
    except OSError as error:
        raise _Refused(f"cannot be read ({error.strerror}); check the file") from None


def _split_arrays(content: dict, split: str) -> dict[str, np.ndarray]:
    """One split's four arrays, checked against each other."""
    images, onehot, ohlc, label = (_field(content, f"{split}_{field}") for field in _SHAPES)
    lengths = [len(array) for array in (images, onehot, ohlc, label)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise _Refused(
            f"has {', '.join(map(str, lengths))} rows in {split}'s {', '.join(_SHAPES)}; all need "
            "one row an example"
        )
    if not np.abs(images).max() <= 1 + _IMAGE_TOLERANCE:
        raise _Refused(f"has values in {split}_culr_gaf outside [-1, 1]; images are cosines")
    if not np.isfinite(ohlc).all():
        raise _Refused(f"has values in {split}_ohlc that are not finite; they should be prices")
    label = label[:, 0]
    if not np.isin(label, np.arange(_CLASSES)).all():
        raise _Refused(f"has labels in {split}_label that are not the integers 0 to {_CLASSES - 1}")
    if not np.array_equal(onehot, np.eye(_CLASSES)[label.astype(np.int32)]):
        raise _Refused(f"has rows in {split}_onehot that are not the one-hot rows of {split}_label")
    return {
        f"{split}_culr_gaf": np.ascontiguousarray(images, np.float32),
        f"{split}_onehot": np.ascontiguousarray(onehot, np.float32),
        f"{split}_ohlc": np.ascontiguousarray(ohlc, np.float64),
        f"{split}_label": np.ascontiguousarray(label, np.int32),
    }


def _field(content: dict, key: str) -> np.ndarray:
    """One array of the file, of the shape that its name asks for."""
    if key not in content:
        raise _Refused(f"has no {key}; it should have culr_gaf, onehot, ohlc, label of {SPLITS}")
    shape = (None, *_SHAPES[key.partition("_")[2]])
    try:
        array = _to_numpy(content[key], shape)
        if shape == (None, 1) and array.ndim == 1:
            array = array[:, np.newaxis]
        if array.ndim != len(shape):
            raise _Refused(
                f"has shape {_shape_text(array.shape)}; it should be {_shape_text(shape)}"
            )
        return array
    except _Refused as refusal:
        raise _Refused(f"has a {key} that {refusal}") from None
    except OverflowError:
        raise _Refused(f"has a number in {key} that no float can hold") from None


@dataclass
class _Dtype:
    """What a pickle says about a `numpy.dtype`."""

    code: str
    state: tuple | None = None


@dataclass
class _Array:
    """What a pickle says about a `numpy.ndarray`."""

    dtype: _Dtype | None = None
    shape: tuple = ()
    data: object = None
    fortran: bool = False
    axes: tuple | None = None


def _to_numpy(value: object, shape: _Shape) -> np.ndarray:
    """Builds an array from a pickle's description, or from lists no deeper than `shape`."""
    if isinstance(value, _Array):
        return _build(value, shape)
    if isinstance(value, bool | int | float):
        return np.array(value, np.float64)
    if not isinstance(value, list | tuple):
        raise _Refused(f"holds a {type(value).__name__}; it should hold numbers")
    _require_prefix((len(value),), shape)
    parts = [_to_numpy(item, shape[1:]) for item in value]
    if len({part.shape for part in parts}) != 1:
        raise _Refused("is empty or ragged; it should hold arrays of one shape")
    return np.stack(parts)


def _require_prefix(actual: tuple[int, ...], shape: _Shape) -> None:
    """Refuses what is no array of the shape that is asked for, nor a list of parts of one."""
    # Checked at every level of nesting: a few bytes of shared lists can stand for a terabyte.
    pairs = zip(actual, shape, strict=False)
    if len(actual) > len(shape) or any(expected not in (None, n) for n, expected in pairs):
        raise _Refused(f"has shape {_shape_text(actual)}; it should be {_shape_text(shape)}")


def _shape_text(shape: _Shape) -> str:
    """A shape in an error, its free length called n."""
    return f"({', '.join('n' if n is None else str(n) for n in shape)})"


def _build(array: _Array, shape: _Shape) -> np.ndarray:
    """Builds a described array, once its description agrees with itself."""
    plain = len(array.shape) <= 32 and all(type(n) is int and 0 < n < 2**31 for n in array.shape)
    if array.dtype is None or not plain:
        raise _Refused("is empty or half described; it should be a NumPy array")
    axes = tuple(range(len(array.shape))) if array.axes is None else array.axes
    if not all(type(axis) is int for axis in axes) or sorted(axes) != [*range(len(array.shape))]:
        raise _Refused("has axes that are not those of its shape")
    _require_prefix(tuple(array.shape[axis] for axis in axes), shape)
    if array.dtype.code == "O8":
        flat = _objects(array, shape)
        return flat.reshape(array.shape + flat.shape[1:])
    dtype = _number_dtype(array.dtype)
    flat = _numbers(array, dtype)
    return flat.reshape(array.shape, order="F" if array.fortran else "C").transpose(axes)


def _numbers(array: _Array, dtype: np.dtype) -> np.ndarray:
    """The numbers of an array as they lie in memory, in the machine's byte order."""
    data = array.data.encode("latin1") if isinstance(array.data, str) else array.data
    size = math.prod(array.shape) * dtype.itemsize
    if not isinstance(data, bytes | bytearray) or len(data) != size:
        raise _Refused(f"has not the {size} bytes of shape {_shape_text(array.shape)} and {dtype}")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))


def _objects(array: _Array, shape: _Shape) -> np.ndarray:
    """The numbers, or arrays of numbers, in an array of objects; pickled row by row."""
    dimensions = len(array.shape)
    if not isinstance(array.data, list) or len(array.data) != math.prod(array.shape):
        raise _Refused(f"has not the objects of shape {_shape_text(array.shape)}")
    if not dimensions or array.axes is not None:
        raise _Refused("is a single object; it should be an array")
    return _to_numpy(array.data, (None, *shape[dimensions:]))


def _number_dtype(dtype: _Dtype) -> np.dtype:
    """The NumPy type that a pickle describes, if it is one of plain numbers."""
    if dtype.code not in _NUMBER_TYPES:
        raise _Refused(f"is of type {_printable(dtype.code)}; it should hold integers or floats")
    match dtype.state:
        case None:
            return np.dtype(dtype.code)
        case (3, ("<" | ">" | "=" | "|") as order, None, None, None, -1, -1, 0):
            return np.dtype(order.replace("|", "=") + dtype.code)
    raise _Refused(f"has a {dtype.code} type with fields or other extras; it should be plain")


class _Name(enum.Enum):
    """The names that a pickle of NumPy arrays may refer to; none is ever called."""

    RECONSTRUCT = enum.auto()
    FROMBUFFER = enum.auto()
    SCALAR = enum.auto()
    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    ENCODE = enum.auto()


_NAMES = {
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
}
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Name.RECONSTRUCT
    _NAMES[f"{_core}.multiarray", "scalar"] = _Name.SCALAR
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _Name.FROMBUFFER


def _printable(text: str) -> str:
    """A name from the file, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:100])


def _admitted(module: object, name: object) -> _Name:
    """What a name of the file stands for."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Refused("refers to something without a name; it should hold NumPy arrays")
    if (module, name) not in _NAMES:
        raise _Refused(
            f"refers to {_printable(f'{module}.{name}')}, which was not touched; only NumPy arrays "
            "and plain containers are read"
        )
    return _NAMES[module, name]


def _called(name: object, arguments: object) -> object:
    """What a call would make, described; the call itself never happens."""
    match name, arguments:
        case _Name.RECONSTRUCT, (_Name.NDARRAY, tuple(), _):
            return _Array()
        case _Name.DTYPE, (str(code), *_):
            return _Dtype(code)
        case _Name.SCALAR, (_Dtype() as dtype, data):
            return _Array(dtype, (), data)
        case _Name.FROMBUFFER, (data, _Dtype() as dtype, tuple(shape), ("C" | "F") as order):
            return _Array(dtype, shape, data, fortran=order == "F")
        case _Name.FROMBUFFER, (data, _Dtype() as dtype, tuple(shape), "K", tuple(axes)):
            return _Array(dtype, shape, data, axes=axes)
        case _Name.ENCODE, (str(text), "latin1" | "latin-1"):
            return text.encode("latin1")
    raise _Refused("calls something as no pickle of NumPy arrays does; it should hold only these")


def _note_state(target: object, state: object) -> None:
    """Completes a description by the state that a pickle sets."""
    match target, state:
        case _Array(), (1, tuple(shape), _Dtype() as dtype, bool() | int() as fortran, data):
            target.shape, target.dtype, target.data = shape, dtype, data
            target.fortran, target.axes = bool(fortran), None
        case _Dtype(), tuple():
            target.state = state
        case _:
            raise _Refused("sets a state as no pickle of NumPy arrays does; it should hold these")


def _load(data: bytes) -> object:
    """What a pickle holds, its arrays as `_Array`."""
    if data[:1] != b"\x80" or data[1:2] not in (b"\2", b"\3", b"\4", b"\5"):
        raise _Refused("is no pickle of protocol 2 to 5; it should be the paper's ETH_gaf.pkl")
    machine = _Machine()
    try:
        left = _ALWAYS_BYTES + 4 * len(data)
        for opcode, argument, _ in pickletools.genops(data):
            left -= _BYTES.get(opcode.name, _BYTES_OF_OTHERS)
            if left < 0:
                raise _Refused("is made of too many small objects; it should hold NumPy arrays")
            machine.step(opcode.name, argument)
        return machine.result()
    except (ValueError, TypeError, LookupError, OverflowError):
        raise _Refused("is a pickle that is damaged or cut short; fetch it again") from None


class _Machine:
    """Follows a pickle's instructions with plain containers and descriptions alone."""

    def __init__(self) -> None:
        self._stack: list = []
        self._outer_stacks: list[list] = []
        self._memo: dict[object, object] = {}

    def step(self, name: str, argument: object) -> None:
        """Follows one instruction, if it is one that containers and arrays are written with."""
        push = self._stack.append
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in _LITERALS:
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._pop(int(name[-1]))))
            case "MARK":
                self._outer_stacks.append(self._stack)
                self._stack = []
            case "TUPLE":
                items = self._pop_to_mark()
                self._stack.append(tuple(items))
            case "APPEND":
                self._extend(self._pop(1))
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                self._update(self._pop(2))
            case "SETITEMS":
                self._update(self._pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(_admitted(*str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                push(_admitted(*self._pop(2)))
            case "REDUCE":
                push(_called(*self._pop(2)))
            case "BUILD":
                (state,) = self._pop(1)
                _note_state(self._stack[-1], state)
            case "INST":
                _admitted(*str(argument).split(" ", 1))
                raise _Refused("makes an object; it should hold NumPy arrays and plain containers")
            case _:
                raise _Refused(f"has the instruction {name}, which no array or container needs")

    def result(self) -> object:
        """The one value that is left at the end."""
        (value,) = self._stack
        return value

    def _pop(self, count: int) -> list:
        """Takes the last values off the stack."""
        taken = self._stack[-count:]
        if len(taken) < count:
            raise ValueError("an instruction lacks its arguments")
        del self._stack[-count:]
        return taken

    def _pop_to_mark(self) -> list:
        """Takes everything since the last mark off the stack."""
        taken, self._stack = self._stack, self._outer_stacks.pop()
        return taken

    def _extend(self, items: list) -> None:
        """Appends to the list on top of the stack."""
        target = self._stack[-1]
        if type(target) is not list:
            raise _Refused("appends to what is no list; it should hold NumPy arrays")
        target.extend(items)

    def _update(self, items: list) -> None:
        """Sets items of the dict on top of the stack."""
        target = self._stack[-1]
        # Deeply nested keys could overflow the C stack when they are hashed.
        if type(target) is not dict or not all(type(key) in (str, int) for key in items[::2]):
            raise _Refused("sets items other than those of a dict by name or number")
        target.update(zip(items[::2], items[1::2], strict=True))
