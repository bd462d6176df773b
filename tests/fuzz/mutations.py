"""Invalid inputs made from valid ones, each from nothing but a random number."""

import ast
import gzip
import io
import itertools
import json
import pickletools
import random
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import valid

Mutation = Callable[[bytes, random.Random], bytes]

WORDS = (
    *("", " ", "0", "-0", "-1", "1", "1.0", "1e999", "-1e999", "1e-999", "nan", "NaN", "NA", "inf"),
    *("-inf", "Infinity", "null", "None", "True", "1_000", "0x10", "1,5", "١٢", "½", "1e308"),
    *("4.9e-324", "9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("1" * 400, "9" * 5000, "2018-10-28", "2018-10-28T20:59:00Z", "0000-00-00", "9999-12-31"),
    *("2262-04-12T00:00:00Z", "1677-01-01", "28.10.2018 20:59:00.000", "20180101", "1e18"),
    *("\0", "\ufeff", "\u2028", "\x85", '"', '""', "'", "\\", "\r", "\n", "\r\n", "\t", ";", ","),
    *("é", "💥", "\x1b[31m", "..", "../../x", "/", "sim", "timestamp", "open", "OPEN", "time"),
    *("()", "[]", "{}", "(1,)", "[[", "{'a': 1}", "lambda: 1", "__class__", "%s%n", "$HOME", "~x"),
)
"""Text that is something else to somebody."""

VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30), 10**400),
    *(0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e-9, 1e9, 1e300, -1e300, float("inf"), float("-inf")),
    *(float("nan"), "", "0", "1.5", "x", "none", "é\0", "a" * 3000, "inf", "[]", "sim", "day"),
    *([], {}, [[]], [1], [None], ["x"], [1.5, -1], [0] * 9, {"a": 1}, {"": {}}, [{}], [{"a": []}]),
)
"""Values of every type that a config or a JSON file can hold, and their extremes."""


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, overwrites, inserts, deletes, repeats or cuts off bytes."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    near = min(b, a + rng.choice((1, 2, 4, 8, 64)))
    kind = rng.randrange(8)
    if kind == 0 and data:
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:a] + rng.randbytes(near - a) + data[near:]
    if kind == 2:
        return data[:a] + rng.randbytes(rng.choice((1, 2, 4, 8))) + data[a:]
    if kind == 3:
        return data[:a] + data[near:]
    if kind == 4:
        return data[:b] + data[a:b] + data[b:]
    if kind == 5:
        return data[:b]
    if kind == 6:  # numbers that lie in a header, at their extremes
        number = rng.choice(
            (b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8)
        )
        return data[:a] + number + data[a + len(number) :]
    return data[:a] + rng.choice(WORDS).encode("utf-8", "surrogatepass") + data[a:]


def of_lines(data: bytes, rng: random.Random) -> bytes:
    """Repeats, drops, swaps, reverses or joins lines."""
    lines = data.splitlines(keepends=True) or [b""]
    a, b = (rng.randrange(len(lines)) for _ in range(2))
    kind = rng.randrange(6)
    if kind == 0:
        lines.insert(a, lines[b])
    elif kind == 1:
        del lines[a]
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 3:
        lines.reverse()
    elif kind == 4:
        lines[a] = lines[a].rstrip(b"\r\n") + rng.choice((b"", b"\r", b"\n\n", b"\r\n", b"\0\n"))
    else:
        lines *= rng.choice((2, 10))
    return b"".join(lines)


def of_cells(data: bytes, rng: random.Random) -> bytes:
    """Replaces a cell, or drops, repeats or renames a column."""
    gap = max(b",;\t", key=lambda letter: data.count(bytes([letter])))
    gap = bytes([gap])
    rows = [line.split(gap) for line in data.split(b"\n")]
    width, word = len(rows[0]), rng.choice(WORDS).encode("utf-8", "surrogatepass")
    column, kind = rng.randrange(width), rng.randrange(6)
    chosen = rows if kind < 3 else [rng.choice(rows)]
    for row in chosen:
        if column >= len(row):
            continue
        if kind == 0:
            del row[column]
        elif kind == 1:
            row.insert(column, row[column])
        else:
            row[column] = word
    if kind == 5:
        rows[0] = [rng.choice(rows[0]) for _ in rows[0]]
    return b"\n".join(gap.join(row) for row in rows)


def grammar_csv(data: bytes, rng: random.Random) -> bytes:
    """A CSV of nothing but the words and numbers that mean something to the reader."""
    names = ["timestamp", "unix", "date", "open", "high", "low", "close", "volume", "client", ""]
    names = rng.sample(names, rng.randrange(1, len(names)))
    if rng.random() < 0.8:
        names = list(dict.fromkeys(["time", "open", "high", "low", "close", *names]))
    gap, end = rng.choice(",;\t"), rng.choice(("\n", "\r\n", "\r", "\n\n"))
    start, step = rng.choice((0, 1, 10**9, 10**12, 10**15, 10**18)), rng.choice((0, 1, 60, -1))
    lines = [gap.join(names)]
    for row in range(rng.choice((0, 1, 2, 30))):
        cells = [
            str(start + step * row)
            if name in ("time", "unix", "timestamp", "date")
            else rng.choice(("1", "1", "1", "1.5", rng.choice(WORDS)))
            for name in names
        ]
        lines.append(gap.join(cells))
    return end.join(lines).encode("utf-8", "surrogatepass") + rng.choice((b"", b"\n"))


def of_text(data: bytes, rng: random.Random) -> bytes:
    """One of the mutations of text."""
    return rng.choice((of_bytes, of_lines, of_cells, of_cells, grammar_csv))(data, rng)


def packed(data: bytes, rng: random.Random) -> bytes:
    """Bad text in a sound archive, or a sound text in one that is odd."""
    text = of_text(rng.choice(valid.texts()), rng)
    kind = rng.randrange(5)
    if kind == 0:
        return gzip.compress(text, rng.randrange(10), mtime=0)
    if kind == 1:
        return gzip.compress(text[: len(text) // 2], mtime=0) + gzip.compress(text, mtime=0)
    method = rng.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    name = rng.choice(("bars.csv", "x", "a/b.csv", "../x", "é.csv", "__MACOSX/x", "d/", "x" * 300))
    archive = valid.zipped(text, name, compression=method)
    return archive if kind < 4 else of_bytes(archive, rng)


def parquet(data: bytes, rng: random.Random) -> bytes:
    """A sound Parquet file of columns of other types and values."""
    columns = {name: pa.array(column) for name, column in valid.table()._asdict().items()}
    columns["client"] = pa.array(["a"] * valid.ROWS)
    for name in rng.sample(list(columns), rng.randrange(1, 4)):
        columns[name] = _odd_column(rng)
    if rng.random() < 0.2:
        del columns[rng.choice(list(columns))]
    names = [name.upper() if rng.random() < 0.1 else name for name in columns]
    if rng.random() < 0.1:
        names[0] = names[1]
    out = io.BytesIO()
    method = rng.choice(("none", "snappy", "gzip", "zstd", "brotli"))
    try:
        pq.write_table(pa.table(list(columns.values()), names), out, compression=method)
    except pa.ArrowException:  # what the format itself cannot hold
        return of_bytes(data, rng)
    return out.getvalue()


def _odd_column(rng: random.Random) -> pa.Array:
    count = valid.ROWS
    numbers = [
        rng.choice((0, 1, -1, 2**62, 2**63 - 1, -(2**63), 10**9, 10**15, 7)) for _ in range(count)
    ]
    small = [number % 100 for number in numbers]
    words = [rng.choice(WORDS) for _ in range(count)]
    unit, zone = (
        rng.choice(("s", "ms", "us", "ns")),
        rng.choice((None, "UTC", "+07:30", "Mars/Phobos")),
    )
    makers = (
        lambda: pa.array(numbers, pa.int64()),
        lambda: pa.array([abs(number) % 2**63 * 2 for number in numbers], pa.uint64()),
        lambda: pa.array([float(number) for number in numbers]),
        lambda: pa.array(
            [rng.choice((float("nan"), float("inf"), -1.0, 1.0, 1e308)) for _ in small]
        ),
        lambda: pa.array(small, pa.float16() if rng.random() < 0.3 else pa.int8()),
        lambda: pa.array(words, rng.choice((pa.string(), pa.large_string()))),
        lambda: pa.array([word.encode("utf-8", "surrogatepass") for word in words], pa.binary()),
        lambda: pa.array(words).dictionary_encode(),
        lambda: pa.array(numbers).dictionary_encode(),
        lambda: pa.array(numbers, pa.int64()).cast(pa.timestamp(unit, zone)),
        lambda: pa.array(small, pa.date32()),
        lambda: pa.array([number * 86_400_000 for number in small], pa.date64()),
        lambda: pa.array([number * 60 for number in small], pa.time32("s")),
        lambda: pa.array(numbers, pa.duration("us")),
        lambda: pa.array([None] * count, rng.choice((pa.null(), pa.float64(), pa.string()))),
        lambda: pa.array([True] * count),
        lambda: pa.array([[number] for number in small]),
        lambda: pa.array([{"a": number} for number in small]),
        lambda: pa.array(small).cast(pa.decimal128(38, rng.choice((0, 5, 30)))),
        lambda: pa.array(small).cast(pa.decimal256(76, 10)),
    )
    try:
        column = rng.choice(makers)()
    except (pa.ArrowException, OverflowError):
        column = pa.nulls(count)
    if rng.random() < 0.2:
        column = pa.concat_arrays([column.slice(0, count - 1), pa.nulls(1, column.type)])
    return column


def of_opcodes(data: bytes, rng: random.Random) -> bytes:
    """Repeats, drops, swaps or adds instructions of a pickle, or changes their arguments."""
    try:
        places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    except Exception:
        return of_bytes(data, rng)
    parts = [data[a:b] for a, b in itertools.pairwise(places)]
    a, b = (rng.randrange(len(parts)) for _ in range(2))
    kind = rng.randrange(6)
    if kind == 0:
        parts.insert(a, parts[b])
    elif kind == 1:
        del parts[a]
    elif kind == 2:
        parts[a], parts[b] = parts[b], parts[a]
    elif kind == 3:
        parts.insert(a, rng.choice(_INSTRUCTIONS))
    elif kind == 4:
        parts[a] = parts[a][:1] + of_bytes(parts[a][1:], rng)
    else:
        parts[a:b] = parts[a:b] * rng.choice((2, 3))
    return b"".join(parts)


_INSTRUCTIONS = (
    *(
        b"(",
        b")",
        b"]",
        b"}",
        b"N",
        b"\x88",
        b"\x89",
        b"0",
        b"1",
        b"2",
        b"a",
        b"e",
        b"s",
        b"u",
        b"t",
    ),
    *(
        b"\x85",
        b"\x86",
        b"\x87",
        b"R",
        b"b",
        b".",
        b"\x94",
        b"\x93",
        b"h\0",
        b"q\0",
        b"h\xff",
        b"o",
    ),
    *(
        b"\x8a\x01\x07",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\xff",
        b"\x8a\xff" + b"\xff" * 255,
    ),
    *(
        b"T\xff\xff\xff\xff",
        b"B\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\xff" * 7 + b"\0",
    ),
    *(b"\x96\0\0\0\0\0\0\0\x80", b"X\0\0\0\x80", b"r\xff\xff\xff\x7f", b"G\x7f\xf0" + b"\0" * 6),
    *(
        b"cos\nsystem\n",
        b"cnumpy\nndarray\n",
        b"cbuiltins\neval\n",
        b"ios\nsystem\n",
        b"I7\n",
        b"F1e999\n",
    ),
    *(
        b"L" + b"9" * 5000 + b"L\n",
        b"I01\n",
        b"V\\ud800\n",
        b"S'x'\n",
        b"\x80\x05",
        b"\x95" + b"\xff" * 8,
    ),
)


def of_json(data: bytes, rng: random.Random) -> bytes:
    """Replaces, drops, repeats or nests a value, or breaks the text."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(data, rng)
    if rng.random() < 0.15:
        return of_bytes(data, rng)
    holder, key = _anywhere({"": content}, rng)
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [holder[key]]
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice(WORDS)] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)
    text = json.dumps(content).encode()
    if kind == 3:  # as deep as no parser that calls itself can go
        depth = rng.choice((100, 1000, 100_000))
        text = text.replace(b"1", b"[" * depth + b"]" * depth, 1)
    if kind == 4:
        text = text.replace(b"1", rng.choice((b"1e999", b"9" * 5000, b"NaN", b"-Infinity")), 1)
    return text


def _anywhere(content, rng: random.Random):
    """A container within a JSON value, and one of its keys."""
    places, stack = [], [content]
    while stack:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                stack.append(holder[key])
    first = places[0]
    found, key = rng.choice(places)
    return (
        (found, key)
        if found is not content
        else (
            first
            if isinstance(first[0], list)
            else (
                (content[""], next(iter(content[""])))
                if content[""] and isinstance(content[""], dict)
                else (content, "")
            )
        )
    )


def of_npy(data: bytes, rng: random.Random) -> bytes:
    """Changes the header of an array, or its bytes."""
    if rng.random() < 0.3:
        return of_bytes(data, rng)
    array = rng.choice(
        (
            np.zeros(3),
            np.array(0.5),
            np.zeros((0, 4)),
            np.array(["a", "b"]),
            np.zeros(3, "i8"),
            np.array([np.nan, np.inf, 1.0]),
            np.ones(3, bool),
            np.zeros((2, 2), "c16"),
            np.zeros(3, "M8[s]"),
            np.zeros(2, [("a", "f4")]),
            np.ones(3, ">f4"),
            np.full(3, 2**63, "u8"),
        )
    )
    out = io.BytesIO()
    np.save(out, array)
    text = rng.choice((data, out.getvalue()))
    if rng.random() < 0.5:
        shape = rng.choice(
            (
                "(10000000000000,)",
                "(1,)",
                "()",
                "(-1,)",
                "(2, 0)",
                "(99999999,)",
                "(" * 90,
                "(1.5,)",
                "(4611686018427387904, 4)",
                "(True,)",
            )
        )
        text = npy(
            rng.choice(("'<f8'", "'|O'", "'|b1'", "'<U9'", "'f8'", "[('a', '<f8')]", "'|V0'", "7")),
            shape,
            text[128:],
        )
    return text


def npy(descr: str, shape: str, content: bytes) -> bytes:
    """An array's file with a header of one's own."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + content


def of_arguments(data: bytes, rng: random.Random, fields: dict[str, Sequence[str]]) -> bytes:
    """A launcher and a few of its flags, most of them with a value that does not fit."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if rng.random() < 0.1:
        return of_bytes(data, rng)
    if rng.random() < 0.5:
        lines = [rng.choice(list(fields))]
    job = lines[0] if lines[0] in fields else "dpsgd"
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        field, value = rng.choice(fields[job]), rng.choice((*WORDS, *map(repr, VALUES)))
        lines.append(
            rng.choice(
                (
                    f"--config.{field}={value}",
                    f"--config.{field}={value}",
                    f"--config.{field}={value}",
                    f"--config.{field}",
                    f"--noconfig.{field}",
                    f"--config.{field}.x={value}",
                    f"--config.cells=({{{field!r}: {rng.choice(VALUES)!r}}},)",
                    f"--config={value}",
                    f"--config=configs/{job}.py:{value}",
                    f"--config=configs/{value}.py",
                    f"--seeds={value}",
                    "--sweep",
                    f"--workdir={value}",
                    value,
                    f"--{value}",
                )
            )
        )
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def of_fields(data: bytes, rng: random.Random, fields: dict[str, Sequence[str]]) -> bytes:
    """A launcher and a few of its config's fields, with values of any type."""
    lines = data.decode("utf-8", "replace").split("\n")
    if rng.random() < 0.7:
        lines = [rng.choice(list(fields))]
    job = lines[0] if lines[0] in fields else "dpsgd"
    for _ in range(rng.choice((1, 1, 1, 2))):
        value = rng.choice(VALUES)
        if rng.random() < 0.1:
            value = [{rng.choice(fields[job]): value}]
            lines.append(f"cells={json.dumps(value)}")
        else:
            lines.append(f"{rng.choice(fields[job])}={json.dumps(value)}")
    return "\n".join(lines).encode("utf-8", "replace")


def literal(text: str) -> object:
    """A Python value written as text, or the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
