"""OHLC bars: the table that everything else is made from."""

import bisect
import csv
import functools
import io
import itertools
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from dpfinjax.errors import InputError

PRICES = ("open", "high", "low", "close")

# In order of preference: of `unix` and `date`, the first leaves no time zone to guess.
_TIME_NAMES = ("timestamp", "unix", "open time", "gmt time", "datetime", "time", "date")
_NUMBERS = (*PRICES, "volume")
_KLINE_WIDTH = 12
_LINE_BYTES = 1 << 20
_EXPANDS = 100  # times the size of a compressed file, far beyond what any bars do
_ALWAYS_BYTES = 64 << 20  # which a file of any size may hold
_MISSING_TEXT = frozenset(pa_csv.ConvertOptions().null_values)
_MISSING_NAMES = frozenset(text.lower() for text in ("", *_MISSING_TEXT))
_WHOLE_WITH_POINT = re.compile(r"[-+]?\d+\.0*")
_MICROSECOND = np.dtype("datetime64[us]")

_DAMAGE = (
    *(OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError),
    UnicodeDecodeError,  # of the names within an archive
)

Where = Callable[[int], str]


class Bars(NamedTuple):
    """Price bars of one market in ascending time.

    Attributes:
      time: `datetime64[us]` [n], the bar's open time in UTC.
      open: float64 [n], in units of the quote currency, as are high, low and close.
      high: float64 [n].
      low: float64 [n].
      close: float64 [n].
      volume: float64 [n], in units of the base currency; zero where the source has none.
    """

    time: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray


def read(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Bars:
    """Reads and checks bars from CSV, gzip'ed CSV, zipped CSV or Parquet files.

    The format is told by the file's first bytes, not by its name. Column names may be in any case.
    The time column is called timestamp, time, date, datetime, `open time`, `gmt time` or unix; the
    others open, high, low, close and, where the source has it, volume. CSV fields are separated by
    commas, semicolons or tabs. Binance kline files (12 columns) need no header.

    Times may be ISO 8601 (UTC unless they name an offset), seconds, milliseconds, microseconds or
    nanoseconds since 1970 (told apart by magnitude: below 1e11, 1e14 and 1e17), Dukascopy's
    `28.10.2018 20:59:00.000`, or Parquet timestamps and dates. A missing volume (empty, null or
    nan) reads as zero; a missing price is an error.

    Args:
      paths: One file, or several that follow each other in time.

    Returns:
      The bars of all files, checked by `check`.

    Raises:
      InputError: If a file cannot be read or a row breaks a rule; names the file and the line (the
        row, counted from 1, for Parquet).
    """
    return _read_series(paths, None)[""]


def read_by(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], column: str
) -> dict[str, Bars]:
    """Reads bars of several series in the same files, such as those of several clients.

    Rows of different series may come in any order and at the same times; within one series times
    ascend, and each series is what `read` would make of a file of its rows alone.

    Args:
      paths: One file, or several in which the times of each series follow each other.
      column: The column that says which series a row belongs to, by its name in any case; its
        values are text or whole numbers, without blanks around them.

    Returns:
      The bars of each value of the column, in the order of the values as text.

    Raises:
      InputError: As `read` does; or if a file has no such column, or a row nothing in it.
    """
    found = _read_series(paths, column)
    return {name: found[name] for name in sorted(found)}


def is_own_column(name: str) -> bool:
    """Returns whether a column is one of those that bars are made of."""
    return _plain(name) in (*_TIME_NAMES, *_NUMBERS)


def _read_series(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], column: str | None
) -> dict[str, Bars]:
    """The bars of each series; without a column all bars are one, called ""."""
    names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not names:
        raise InputError("the list of bar files is empty; name at least one file")
    series: dict[str, list[Bars]] = {}
    for name in names:
        for key, (bars, where) in _read_file(_path(name), column).items():
            parts = series.setdefault(key, [])
            if parts and bars.time[0] <= (before := parts[-1].time[-1]):
                raise InputError(
                    f"{where(0)}: time {_utc(bars.time[0])} does not come after {_utc(before)}, "
                    "the last time of the file before; list files in ascending time, without "
                    "overlap"
                )
            parts.append(bars)
    return {
        key: parts[0] if len(parts) == 1 else Bars(*map(np.concatenate, zip(*parts, strict=True)))
        for key, parts in series.items()
    }


def check(bars: Bars, where: str | Where) -> None:
    """Checks that bars are what every later step takes for granted.

    Prices are positive and finite, low <= min(open, close), high >= max(open, close), volume is
    finite and not negative (nan is refused), and time strictly ascends.

    Args:
      bars: Bars, each column [n].
      where: What to call the bars in an error, or a function from the row's number (from 0) to its
        place, such as `prices.csv, line 7`.

    Raises:
      InputError: Names the first row that breaks a rule.

    >>> one = np.ones(1)
    >>> time = np.array(["2020-01-01"], "datetime64[us]")
    >>> check(Bars(time, one, 3 * one, 2 * one, one, one), "sim")
    Traceback (most recent call last):
    dpfinjax.errors.InputError: sim, row 1: low 2.0 is above open 1.0; low must be the lowest price
    """
    shapes = {column.shape for column in bars}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        raise InputError(
            f"{_place(where, 0)}: the six columns of bars must be one-dimensional and equally long"
        )
    first_bad = _first_bad_row(bars)
    if first_bad is not None:
        raise InputError(f"{_place(where, first_bad)}: {_what_is_wrong(bars, first_bad)}")


def _first_bad_row(bars: Bars) -> int | None:
    """The first row that breaks a rule of `check`."""
    # Written so that a nan fails the comparisons that it is part of.
    good = (bars.low > 0) & (bars.high < np.inf)
    good &= bars.low <= np.minimum(bars.open, bars.close)
    good &= bars.high >= np.maximum(bars.open, bars.close)
    good &= (bars.volume >= 0) & (bars.volume < np.inf)
    good &= ~np.isnat(bars.time)
    good[1:] &= bars.time[1:] > bars.time[:-1]
    return None if good.all() else int(np.argmin(good))


def _what_is_wrong(bars: Bars, row: int) -> str:
    """The rule that a bad row breaks, in words."""
    time, *prices, volume = (column[row] for column in bars)
    for name, price in zip(PRICES, prices, strict=True):
        if not 0 < price < np.inf:
            return f"{name} {price} is not a price; prices are positive and finite"
    open_, high, low, close = prices
    if high < low:
        return f"high {high} is below low {low}; high must be the highest price"
    for name, price in (("open", open_), ("close", close)):
        if low > price:
            return f"low {low} is above {name} {price}; low must be the lowest price"
        if high < price:
            return f"high {high} is below {name} {price}; high must be the highest price"
    if not 0 <= volume < np.inf:
        return f"volume {volume} is not a volume; volumes are finite and not negative"
    if np.isnat(time):
        return "time is missing; every bar needs one"
    before = bars.time[row - 1]
    if time == before:
        return f"time {_utc(time)} repeats the row before; each time may occur once"
    return f"time {_utc(time)} comes before {_utc(before)} of the row before; sort rows by time"


def _utc(time: np.datetime64) -> str:
    """A time in ISO 8601."""
    return f"{str(time).removesuffix('.000000')}Z"


def _place(where: str | Where, row: int) -> str:
    """A row's name in an error."""
    return f"{where}, row {row + 1}" if isinstance(where, str) else where(row)


def _path(name: str | os.PathLike[str]) -> Path:
    """A file's path, if the text can be one."""
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"{str(name)[:200]!r} cannot name a file ({error})") from None
    if "\0" in str(path):
        raise InputError(f"{str(name)[:200]!r} has a zero byte, and so cannot name a file")
    return path


def _read_file(path: Path, column: str | None) -> dict[str, tuple[Bars, Where]]:
    """Reads and checks the series of one file; also returns what names the rows of each."""
    with _as_input_error(path):
        kind = _kind(path)
        read_columns = functools.partial(_read_csv, kind=kind)
        columns, where = (_read_parquet if kind == "parquet" else read_columns)(path, column)
    return _checked_bars(columns, where)


class _BadRow(Exception):
    """A row that cannot be converted."""

    def __init__(self, row: int, mistake: str) -> None:
        super().__init__(mistake)
        self.row = row


def _checked_bars(
    columns: dict[str, pa.ChunkedArray], where: Where
) -> dict[str, tuple[Bars, Where]]:
    """Converts and checks a table; of each series the first row that fails either is named."""
    try:
        bars, rows = _to_bars(columns), _rows_of_series(columns)
    except _BadRow as bad:
        if bad.row > 0:
            _checked_bars({field: column[: bad.row] for field, column in columns.items()}, where)
        raise InputError(f"{where(bad.row)}: {bad}") from None
    if rows is None:
        check(bars, where)
        return {"": (bars, where)}
    found: dict[str, tuple[Bars, Where]] = {}
    for name, own in rows.items():
        place = functools.partial(_place_in_series, where, own)
        found[name] = Bars(*(column[own] for column in bars)), place
        check(*found[name])
    return found


def _place_in_series(where: Where, rows: np.ndarray, row: int) -> str:
    """The place of a row of a series in its file."""
    return where(int(rows[row]))


def _rows_of_series(columns: dict[str, pa.ChunkedArray]) -> dict[str, np.ndarray] | None:
    """The rows of each series, ascending, by the one column that is no field of bars."""
    name = next((field for field in columns if field not in ("time", *_NUMBERS)), None)
    if name is None:
        return None
    kind = columns[name].type
    try:
        if pa.types.is_floating(kind):
            raise pa.ArrowTypeError(kind)
        text = pc.utf8_trim_whitespace(pc.cast(columns[name], pa.string()))
    except pa.ArrowException:
        raise _BadRow(0, f"{name} is of type {kind}; it should be text or whole numbers") from None
    encoded = text.combine_chunks().dictionary_encode()
    values, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    for code, value in enumerate(values):
        if value.lower() in _MISSING_NAMES:
            fault = f"{name} is missing; every bar needs one"
        elif _WHOLE_WITH_POINT.fullmatch(value):  # 7 and 7.0 would be two units of one client
            fault = f"{name} is {value}; it should be text or a whole number like 7"
        else:
            continue
        raise _BadRow(int(np.argmax(codes == code)), fault)
    order = np.argsort(codes, kind="stable")
    bounds = np.cumsum(np.bincount(codes, minlength=len(values)))[:-1]
    return dict(zip(values, np.split(order, bounds), strict=True))


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    """Turns what the operating system and the decompressors say into a sentence on the file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a file of bars") from None
    except IsADirectoryError:
        raise InputError(
            f"{path} is a directory; name a file of bars, or a list of files"
        ) from None
    except PermissionError:
        raise InputError(f"{path} may not be read; check its permissions") from None
    except _DAMAGE as error:
        raise InputError(
            f"{path} is cut short or damaged ({_one_line(error)}); fetch or write it again"
        ) from None


def _one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _kind(path: Path) -> str:
    """The file's format by its first bytes: gzip, zip, parquet or text."""
    if not path.is_file() and path.exists() and not path.is_dir():
        raise InputError(f"{path} is no regular file, and bars are read twice; save them in one")
    with open(path, "rb") as file:
        start = file.read(4)
    if not start:
        raise InputError(f"{path} is empty; it should hold a table of bars")
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    return {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"PAR1": "parquet"}.get(start, "text")


class _Layout(NamedTuple):
    """A CSV file and how it is to be read."""

    path: Path
    kind: str
    delimiter: str
    width: int
    header_lines: int
    columns: dict[str, int]


def _read_csv(
    path: Path, column: str | None, kind: str
) -> tuple[dict[str, pa.ChunkedArray], Where]:
    """The wanted columns of a CSV file, and what names its rows."""
    layout = _csv_layout(path, kind, column)
    try:
        with _open_text(path, kind) as stream:
            columns = _csv_columns(layout, stream)
    except pa.ArrowInvalid as error:
        raise _csv_mistake(layout, error) from None
    return columns, functools.partial(_place_of_csv_row, layout)


def _csv_columns(layout: _Layout, stream: IO[bytes] | io.RawIOBase) -> dict[str, pa.ChunkedArray]:
    """The wanted columns of CSV text: prices and volume as numbers, the others as text."""
    names = [f"column {i}" for i in range(layout.width)]
    wanted = {field: names[i] for field, i in layout.columns.items()}
    types = {name: pa.float64() if f in _NUMBERS else pa.string() for f, name in wanted.items()}
    table = pa_csv.read_csv(
        stream,
        pa_csv.ReadOptions(column_names=names, skip_rows=layout.header_lines),
        pa_csv.ParseOptions(delimiter=layout.delimiter),
        pa_csv.ConvertOptions(include_columns=list(types), column_types=types),
    )
    return {field: table[name] for field, name in wanted.items()}


@contextmanager
def _open_text(path: Path, kind: str) -> Iterator[IO[bytes] | io.RawIOBase]:
    """The file's decompressed bytes."""
    if kind == "zip":
        with zipfile.ZipFile(path) as archive, archive.open(_only_member(path, archive)) as member:
            yield _Expanded(path, member)
    elif kind == "gzip":
        with pa.input_stream(str(path), compression="gzip") as stream:
            yield _Expanded(path, stream)
    else:
        with open(path, "rb") as file:
            yield file


def _most_bytes(path: Path) -> int:
    """How much a compressed file may hold."""
    return max(_ALWAYS_BYTES, _EXPANDS * path.stat().st_size)


class _Expanded(io.RawIOBase):
    """Decompressed bytes, refused once they are more than a file of bars can hold."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path, self._stream, self._left = path, stream, _most_bytes(path)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer."""
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise InputError(
                f"{self._path} expands to more than {_EXPANDS} times its size; bars do not, but "
                "unpacked they can be read"
            )
        buffer[: len(data)] = data
        return len(data)


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file in a zip archive."""
    members = [
        member
        for member in archive.infolist()
        if member.filename and not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise InputError(f"{path} holds {len(members)} files; a zip of bars holds one CSV file")
    if members[0].flag_bits & 1:
        raise InputError(f"{path} is encrypted; unpack it first")
    if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path} is packed by another method than deflate; unpack it first")
    return members[0]


def _decoded_lines(path: Path, stream: IO[bytes] | io.RawIOBase) -> Iterator[str]:
    """The lines of a text stream, without a byte order mark."""
    reader = io.BufferedReader(stream)  # type: ignore[type-var]
    for number, line in enumerate(iter(lambda: reader.readline(_LINE_BYTES), b""), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}, line {number}: not UTF-8 text; save as UTF-8 CSV") from None
        if "\0" in text:
            raise InputError(f"{path}, line {number}: a zero byte, so no CSV; save as UTF-8 CSV")
        yield text


def _csv_rows(path: Path, kind: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of every row that is not blank."""
    with _as_input_error(path), _open_text(path, kind) as stream:
        reader = csv.reader(_decoded_lines(path, stream), delimiter=delimiter)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except csv.Error as error:
            raise InputError(
                f"{path}, line {reader.line_num}: {_one_line(error)}; it should be a CSV row"
            ) from None


def _csv_layout(path: Path, kind: str, column: str | None) -> _Layout:
    """Delimiter, header and columns, from the first rows."""
    with _open_text(path, kind) as stream:
        first_line = next(filter(str.strip, _decoded_lines(path, stream)), "")
    delimiter = max(",;\t", key=first_line.count)
    rows = _csv_rows(path, kind, delimiter)
    line, cells = next(rows, (0, []))
    if not "".join(cells).strip():
        raise InputError(f"{path} is empty; it should hold a table of bars")
    if all(map(_is_number, cells[1:5])) and len(cells) > 1:
        columns, line = _headerless_columns(path, cells, column), line - 1
    else:
        columns = _columns_by_name(path, cells, column)
        if next(rows, None) is None:
            raise InputError(f"{path} has a header and no bars; it should have one row a bar")
    rows.close()  # type: ignore[attr-defined]
    return _Layout(path, kind, delimiter, len(cells), line, columns)


def _headerless_columns(path: Path, cells: list[str], column: str | None) -> dict[str, int]:
    """The columns of a Binance kline file."""
    if column is not None:
        raise InputError(
            f"{path} has no names of columns, so none is called {column!r}; name the columns in "
            "the first line"
        )
    if len(cells) != _KLINE_WIDTH:
        raise InputError(
            f"{path} has {len(cells)} columns without a header; name the columns time, open, high, "
            f"low, close, volume in the first line (only Binance's {_KLINE_WIDTH} need no names)"
        )
    return {name: i for i, name in enumerate(("time", *PRICES, "volume"))}


def _plain(name: str) -> str:
    """A column's name without what does not tell it from others."""
    plain = " ".join(name.replace("_", " ").split()).lower()
    return "unix" if plain.startswith("unix") else plain


def _columns_by_name(path: Path, names: Sequence[str], column: str | None) -> dict[str, int]:
    """Where the fields of `Bars` are among named columns, and one more column that is asked for."""
    plain = list(map(_plain, names))
    chosen = {field: field for field in _NUMBERS}
    chosen["time"] = next((name for name in _TIME_NAMES if name in plain), "time")
    missing = [f for f, name in chosen.items() if name not in plain and f != "volume"]
    if missing:
        raise InputError(
            f"{path} has no column {' or '.join(missing)} but {_shortened(', '.join(names))}; it "
            "should have timestamp, open, high, low, close and may have volume"
        )
    if column is not None:
        if _plain(column) not in plain:
            raise InputError(
                f"{path} has no column {column!r} but {_shortened(', '.join(names))}; name one of "
                "its columns"
            )
        chosen[column] = _plain(column)
    for name in chosen.values():
        if plain.count(name) > 1:
            raise InputError(f"{path} has {plain.count(name)} columns {name!r}; keep one of them")
    return {field: plain.index(name) for field, name in chosen.items() if name in plain}


def _shortened(text: str) -> str:
    """Text fit for an error: printable, and not too long."""
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


def _is_number(text: str) -> bool:
    """Whether text is a decimal number."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


def _data_rows(layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of every row after the header, slowly."""
    rows = _csv_rows(layout.path, layout.kind, layout.delimiter)
    return ((line, cells) for line, cells in rows if line > layout.header_lines)


def _place_of_csv_row(layout: _Layout, row: int) -> str:
    """The file and line of a row, counted from 0."""
    line, _ = next(itertools.islice(_data_rows(layout), row, None))
    return f"{layout.path}, line {line}"


def _csv_mistake(layout: _Layout, error: Exception) -> InputError:
    """Says which row keeps a CSV file from being read; Arrow's threads do not know its line."""
    good_line = layout.header_lines
    mistake = f"{layout.path} is not a readable CSV table ({_one_line(error)}); write it anew"
    try:
        for line, cells in _data_rows(layout):
            if row_mistake := _row_mistake(layout, cells):
                mistake = f"{layout.path}, line {line}: {row_mistake}"
                break
            good_line = line
    except InputError as unreadable:
        mistake = str(unreadable)
    if good_line > layout.header_lines:
        _check_csv_lines(layout, good_line)
    return InputError(mistake)


def _check_csv_lines(layout: _Layout, count: int) -> None:
    """Checks the lines before a mistake: the first bad row is the one to name."""
    with _open_text(layout.path, layout.kind) as stream:
        lines = b"".join(itertools.islice(io.BufferedReader(stream), count))  # type: ignore[type-var]
    with suppress(pa.ArrowInvalid):
        columns = _csv_columns(layout, io.BytesIO(lines))
        _checked_bars(columns, functools.partial(_place_of_csv_row, layout))


def _row_mistake(layout: _Layout, cells: list[str]) -> str | None:
    """What keeps one row from being read."""
    if len(cells) != layout.width:
        return f"{len(cells)} columns; every row should have {layout.width}"
    for field, i in layout.columns.items():
        if field in _NUMBERS and not _is_number(cells[i]) and cells[i] not in _MISSING_TEXT:
            return f"{field} {_shortened(cells[i])} is not a number; write it like 1234.5"
    return None


def _read_parquet(path: Path, column: str | None) -> tuple[dict[str, pa.ChunkedArray], Where]:
    """The wanted columns of a Parquet file, and what names its rows."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if 8 * len(names) * file.metadata.num_rows > _most_bytes(path):
                raise InputError(
                    f"{path} says that it has {file.metadata.num_rows} rows, more than "
                    f"{_EXPANDS} times its size; bars do not compress like that"
                )
            wanted = {f: names[i] for f, i in _columns_by_name(path, names, column).items()}
            table = file.read(columns=list(wanted.values()))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file ({_one_line(error)}); write it again"
        ) from None
    if not table.num_rows:
        raise InputError(f"{path} has columns and no bars; it should have one row a bar")
    for field, name in wanted.items():
        kind = table[name].type
        if field in _NUMBERS and not _is_numeric(kind):
            raise InputError(f"{path}: column {name!r} is {kind}; {field} should be numbers")
    return {f: table[name] for f, name in wanted.items()}, lambda row: f"{path}, row {row + 1}"


def _is_numeric(kind: pa.DataType) -> bool:
    """Whether a Parquet column holds numbers."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _to_bars(columns: dict[str, pa.ChunkedArray]) -> Bars:
    """Arrow columns as NumPy arrays."""
    for field, column in columns.items():
        if field != "volume" and column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise _BadRow(row, f"{field} is missing; every bar needs one")
    time = _to_time(columns["time"])
    prices = {field: _to_float(columns[field]) for field in PRICES}
    volume = _to_float(columns["volume"]) if "volume" in columns else np.zeros(len(time))
    volume[np.isnan(volume)] = 0.0
    return Bars(time=time, **prices, volume=volume)


def _to_float(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64, null as nan."""
    return np.array(pc.cast(column, pa.float64(), safe=False).to_numpy(), np.float64)


def _to_time(column: pa.ChunkedArray) -> np.ndarray:
    """A column of times in any of the accepted forms as `datetime64[us]`."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _instants(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _epoch_times(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_times(pc.utf8_trim_whitespace(pc.cast(column, pa.string())))
    raise _BadRow(0, f"time is of type {kind}; it should be a timestamp, a number or text")


def _instants(column: pa.ChunkedArray) -> np.ndarray:
    """Arrow timestamps and dates in UTC microseconds."""
    # Arrow keeps zone-aware times in UTC, so that dropping the zone is all that is left to do.
    zone = getattr(column.type, "tz", None)
    microseconds = pc.cast(column, pa.timestamp("us", zone), safe=False)
    return np.array(pc.cast(microseconds, pa.int64()).to_numpy()).view(_MICROSECOND)


def _epoch_times(column: pa.ChunkedArray) -> np.ndarray:
    """Times from seconds, milli-, micro- or nanoseconds since 1970, by magnitude."""
    numbers = column.to_numpy()
    size = np.abs(numbers.astype(np.float64))
    # 20180101 is more likely a date that lost its dashes than a second of August 1970.
    good = (size < 2**63) & ~((size >= 19000101) & (size <= 21001231))
    if not good.all():
        row = int(np.argmin(good))
        raise _bad_time(row, str(numbers[row]))
    if numbers.dtype.kind != "f":
        numbers = numbers.astype(np.int64)
    units = [size < 1e11, size < 1e14, size < 1e17]
    times = np.select(units, [numbers * 1_000_000, numbers * 1_000, numbers], numbers // 1_000)
    if numbers.dtype.kind == "f":
        times = np.rint(times)
    return times.astype(np.int64).view(_MICROSECOND)


def _bad_time(row: int, text: str) -> _BadRow:
    """Says that a time cannot be read."""
    return _BadRow(
        row,
        f"time {_shortened(text)} is not like the others or not a time; write all of them as "
        "2018-10-28T20:59:00Z, as seconds, milliseconds or microseconds since 1970, or as "
        "28.10.2018 20:59:00.000",
    )


def _iso_with_zone(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(text, pa.timestamp("ns", "UTC"))


def _iso_without_zone(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(text, pa.timestamp("ns"))


def _day_first(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dukascopy's `28.10.2018 20:59:00.000`."""
    # Only dots become the dashes without which the ISO parser refuses the rearranged text.
    text = pc.replace_substring(text, "-", "?")
    text = pc.replace_substring(text, ".", "-", max_replacements=2)
    order = ((6, 10), (5, 6), (3, 5), (2, 3), (0, 2), (10, None))
    parts = [pc.utf8_slice_codeunits(text, start, stop) for start, stop in order]
    return _iso_without_zone(pc.binary_join_element_wise(*parts, ""))


def _number_text(text: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        return pc.cast(text, pa.float64())


_TIME_LAYOUTS = (_iso_with_zone, _iso_without_zone, _day_first, _number_text)


def _text_times(text: pa.ChunkedArray) -> np.ndarray:
    """Times from text; the first value decides the layout of all."""
    for layout in _TIME_LAYOUTS:
        if _parsed(layout, text.slice(0, 1)) is None:
            continue
        times = _parsed(layout, text)
        if times is None:
            row = _first_failure(layout, text)
            raise _bad_time(row, text[row].as_py())
        return _epoch_times(times) if layout is _number_text else _instants(times)
    raise _bad_time(0, text[0].as_py())


def _parsed(
    layout: Callable[[pa.ChunkedArray], pa.ChunkedArray], text: pa.ChunkedArray
) -> pa.ChunkedArray | None:
    """What a layout makes of text, None where a value does not fit it."""
    try:
        return layout(text)
    except pa.ArrowInvalid:
        return None


def _first_failure(
    layout: Callable[[pa.ChunkedArray], pa.ChunkedArray], text: pa.ChunkedArray
) -> int:
    """The first value that does not fit a layout, by bisection over prefixes."""
    return bisect.bisect_left(
        range(len(text)), True, key=lambda row: _parsed(layout, text.slice(0, row + 1)) is None
    )
