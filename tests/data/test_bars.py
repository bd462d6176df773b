"""Reading and checking bars: every layout gives the same bars, every mistake is named."""

import csv
import datetime
import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpfinjax.data import bars as bars_lib
from dpfinjax.data.bars import Bars
from dpfinjax.errors import InputError

DATA = Path(os.environ.get("DPFINJAX_DATA", Path(__file__).parents[2] / "../shared/data"))
FIELDS = ("open", "high", "low", "close", "volume")
START = np.datetime64("2018-10-28T20:59:00", "us")


def made_bars(n: int = 5, seed: int = 0, step: str = "1m", start: np.datetime64 = START) -> Bars:
    """Bars whose prices have many digits."""
    rng = np.random.default_rng(seed)
    size = {"1m": 60, "1d": 86_400}[step]
    time = start + np.arange(n) * np.timedelta64(size * 1_000_000, "us")
    low = rng.uniform(90, 100, n)
    high = low + rng.uniform(1, 2, n)
    open_, close = (low + rng.uniform(0, 1, n) * (high - low) for _ in range(2))
    return Bars(time, open_, high, low, close, rng.uniform(0, 9, n))


def assert_same(got: Bars, expected: Bars) -> None:
    assert got.time.dtype == np.dtype("datetime64[us]")
    np.testing.assert_array_equal(got.time, expected.time)
    for field in FIELDS:
        column = getattr(got, field)
        assert column.dtype == np.float64
        np.testing.assert_array_equal(column, getattr(expected, field))


def iso(time: np.datetime64) -> str:
    return f"{time.astype('datetime64[s]')!s}Z"


def to_csv(bars: Bars, time=iso, header="timestamp,open,high,low,close,volume", sep=",") -> str:
    lines = [header.replace(",", sep)] if header else []
    for row in zip(*bars, strict=True):
        lines.append(sep.join([time(row[0]), *(repr(float(value)) for value in row[1:])]))
    return "\n".join(lines) + "\n"


def read_text(folder: Path, text: str | bytes, name: str = "bars.csv") -> Bars:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return bars_lib.read(path)


def epoch(unit: str):
    return lambda time: str(time.astype(f"datetime64[{unit}]").astype(np.int64))


def python_time(time: np.datetime64) -> datetime.datetime:
    return time.astype(datetime.datetime)


TIME_LAYOUTS = {
    "iso with Z": iso,
    "iso with offset": lambda t: f"{(t + np.timedelta64(2, 'h')).astype('datetime64[s]')}+02:00",
    "iso with short offset": lambda t: f"{(t - np.timedelta64(90, 'm'))}-0130",
    "iso without zone": lambda t: str(t.astype("datetime64[s]")),
    "iso without seconds": lambda t: str(t.astype("datetime64[m]")),
    "blank for T": lambda t: str(t.astype("datetime64[s]")).replace("T", " "),
    "blank for T, with Z": lambda t: iso(t).replace("T", " "),
    "microseconds": str,
    "nanoseconds": lambda t: str(t.astype("datetime64[ns]")),
    "seconds": epoch("s"),
    "milliseconds": epoch("ms"),
    "microseconds since 1970": epoch("us"),
    "nanoseconds since 1970": epoch("ns"),
    "float seconds": lambda t: epoch("s")(t) + ".0",
    "scientific": lambda t: f"{int(epoch('s')(t)):.12e}",
    "float milliseconds": lambda t: epoch("ms")(t) + ".000",
    "gmt time": lambda t: python_time(t).strftime("%d.%m.%Y %H:%M:%S.000"),
    "gmt time without milliseconds": lambda t: python_time(t).strftime("%d.%m.%Y %H:%M:%S"),
    "quoted": lambda t: f'"{iso(t)}"',
    "padded": lambda t: f"  {iso(t)} ",
}


@pytest.mark.parametrize("layout", TIME_LAYOUTS)
def test_every_time_layout_gives_the_same_bars(tmp_path, layout):
    bars = made_bars()
    assert_same(read_text(tmp_path, to_csv(bars, TIME_LAYOUTS[layout])), bars)


@pytest.mark.parametrize("layout", ["%Y-%m-%d", "%d.%m.%Y", "%Y-%m-%d 00:00"])
def test_daily_bars_need_only_a_date(tmp_path, layout):
    bars = made_bars(9, step="1d", start=np.datetime64("2019-02-25", "us"))
    text = to_csv(bars, lambda t: python_time(t).strftime(layout))
    assert_same(read_text(tmp_path, text), bars)


def test_offset_may_change_with_daylight_saving(tmp_path):
    times = ["2019-03-31T01:59:00+01:00", "2019-03-31T03:00:00+02:00"]
    text = "time,open,high,low,close\n" + "".join(f"{t},1,2,1,2\n" for t in times)
    expected = np.array(["2019-03-31T00:59", "2019-03-31T01:00"], "datetime64[us]")
    np.testing.assert_array_equal(read_text(tmp_path, text).time, expected)


def test_epoch_units_may_change_within_a_file(tmp_path):
    bars = made_bars(4)
    units = iter(["s", "ms", "us", "us"])
    assert_same(read_text(tmp_path, to_csv(bars, lambda t: epoch(next(units))(t))), bars)


def test_fractions_of_a_second_are_kept(tmp_path):
    text = "time,open,high,low,close\n1514764800.25,1,1,1,1\n1514764800.5,1,1,1,1\n"
    expected = np.array(["2018-01-01T00:00:00.25", "2018-01-01T00:00:00.5"], "datetime64[us]")
    np.testing.assert_array_equal(read_text(tmp_path, text).time, expected)


def test_times_before_1970_are_read(tmp_path):
    text = "date,open,high,low,close\n1928-01-03,1,1,1,1\n1969-12-31,1,1,1,1\n"
    assert read_text(tmp_path, text).time[0] == np.datetime64("1928-01-03")
    text = "unix,open,high,low,close\n-1325376000,1,1,1,1\n-86400,1,1,1,1\n"
    assert read_text(tmp_path, text).time[1] == np.datetime64("1969-12-31")


@pytest.mark.parametrize(
    "header",
    [
        "TIMESTAMP,OPEN,HIGH,LOW,CLOSE,VOLUME",
        "Gmt time,Open,High,Low,Close,Volume",
        " Date , Open,High ,Low, Close ,Volume",
        "Datetime,OPEN,high,low,close,Volume",
        "open_time,open,high,low,close,volume",
        "Open time,open,high,low,close,volume",
        "unix,open,high,low,close,volume",
        "Unix Timestamp,open,high,low,close,volume",
        '"time","open","high","low","close","volume"',
    ],
)
def test_column_names_may_be_of_any_case_and_custom(tmp_path, header):
    bars = made_bars()
    assert_same(read_text(tmp_path, to_csv(bars, header=header)), bars)


def test_columns_may_stand_in_any_order_among_others(tmp_path):
    bars = made_bars(3)
    lines = ["symbol,close,volume,low,unix,high,note,open,date"]
    for time, open_, high, low, close, volume in zip(*bars, strict=True):
        numbers = [repr(float(x)) for x in (close, volume, low, high, open_)]
        cells = ["ETH", *numbers[:3], epoch("ms")(time), numbers[3], "é, ok", numbers[4], "?"]
        lines.append(",".join(f'"{cell}"' for cell in cells))
    assert_same(read_text(tmp_path, "\n".join(lines)), bars)


def test_missing_volume_is_zero(tmp_path):
    bars = made_bars(3)
    without = bars._replace(volume=np.zeros(3))
    head = "timestamp,open,high,low,close"
    text = to_csv(bars)
    no_column = "\n".join(line.rpartition(",")[0] for line in text.splitlines())
    assert no_column.startswith(head)
    assert_same(read_text(tmp_path, no_column), without)
    for word in ("", "nan", "NULL"):
        empty = "\n".join(f"{line.rpartition(',')[0]},{word}" for line in text.splitlines()[1:])
        assert_same(read_text(tmp_path, f"{head},volume\n{empty}\n"), without)


@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_separator_line_end_and_byte_order_mark_do_not_matter(tmp_path, sep, end, mark, pack):
    bars = made_bars()
    text = mark + to_csv(bars, sep=sep).replace("\n", end)
    assert_same(read_text(tmp_path, pack(text.encode()), "no_extension"), bars)


def test_blank_lines_are_skipped(tmp_path):
    bars = made_bars(3)
    text = "\n\n" + to_csv(bars).replace("\n", "\n\n") + "\n"
    assert_same(read_text(tmp_path, text), bars)


def test_no_line_end_at_the_end_is_needed(tmp_path):
    bars = made_bars(3)
    assert_same(read_text(tmp_path, to_csv(bars).rstrip("\n")), bars)


def test_concatenated_gzip_members_are_one_file(tmp_path):
    bars = made_bars(40)
    text = to_csv(bars).encode()
    assert_same(read_text(tmp_path, gzip.compress(text[:500]) + gzip.compress(text[500:])), bars)


def klines(bars: Bars, unit: str) -> str:
    step = np.timedelta64(59_999, "ms")
    return "".join(
        ",".join([epoch(unit)(time), *(repr(float(x)) for x in row), epoch(unit)(time + step)])
        + ",12.5,7,3.25,6.5,0\n"
        for time, *row in zip(*bars, strict=True)
    )


KLINE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
    "taker_buy_quote_volume,ignore\n"
)


def zipped(**files: str | bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize("header", ["", KLINE_HEADER], ids=["headerless", "header"])
@pytest.mark.parametrize("pack", [str.encode, lambda text: zipped(klines=text)])
def test_binance_klines_are_read_as_they_come(tmp_path, unit, header, pack):
    bars = made_bars()
    assert_same(read_text(tmp_path, pack(header + klines(bars, unit))), bars)


def write_parquet(path: Path, bars: Bars, **columns) -> Path:
    data = {"Timestamp": pa.array(bars.time), **{f: getattr(bars, f) for f in FIELDS}} | columns
    pq.write_table(pa.table(data), path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
        pa.timestamp("ms", "UTC"),
        pa.timestamp("ns", "America/New_York"),
    ],
    ids=str,
)
def test_parquet_timestamps_of_every_kind_are_utc(tmp_path, kind):
    bars = made_bars()
    time = pa.array(bars.time, pa.timestamp("us", "UTC" if kind.tz else None)).cast(kind)
    assert_same(bars_lib.read(write_parquet(tmp_path / "x", bars, Timestamp=time)), bars)


@pytest.mark.parametrize(
    "to_column",
    [
        lambda time: pa.array(time.astype("datetime64[s]").astype(np.int64)),
        lambda time: pa.array(time.astype("datetime64[s]").astype(np.int32)),
        lambda time: pa.array(time.astype("datetime64[s]").astype(np.uint64)),
        lambda time: pa.array(time.astype("datetime64[ms]").astype(np.int64)),
        lambda time: pa.array(time.astype("datetime64[ns]").astype(np.int64)),
        lambda time: pa.array(time.astype("datetime64[s]").astype(np.float64)),
        lambda time: pa.array([iso(t) for t in time]),
        lambda time: pa.array([iso(t) for t in time], pa.large_string()),
        lambda time: pa.array([iso(t) for t in time]).dictionary_encode(),
        lambda time: pa.array([TIME_LAYOUTS["gmt time"](t) for t in time]),
    ],
)
def test_parquet_times_may_be_numbers_or_text(tmp_path, to_column):
    bars = made_bars()
    path = write_parquet(tmp_path / "x", bars, Timestamp=to_column(bars.time))
    assert_same(bars_lib.read(path), bars)


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
def test_parquet_dates_are_midnights(tmp_path, kind):
    bars = made_bars(4, step="1d", start=np.datetime64("2020-02-27", "us"))
    time = pa.array(bars.time.astype("datetime64[D]")).cast(kind)
    assert_same(bars_lib.read(write_parquet(tmp_path / "x", bars, Timestamp=time)), bars)


def test_parquet_numbers_may_be_integers_decimals_or_floats(tmp_path):
    bars = made_bars(3)._replace(**{f: np.array([2.0, 3, 4]) for f in FIELDS})
    columns = {
        "open": pa.array([2, 3, 4], pa.int16()),
        "high": pa.array([2, 3, 4], pa.float32()),
        "low": pa.array([2, 3, 4], pa.decimal128(9, 2)),
    }
    assert_same(bars_lib.read(write_parquet(tmp_path / "x", bars, **columns)), bars)


def test_parquet_row_groups_and_missing_volumes_are_read(tmp_path):
    bars = made_bars(7)
    volume = pa.array([1.0, None, float("nan"), 4.0, 5.0, None, 7.0])
    table = pa.table({"time": bars.time, **{f: getattr(bars, f) for f in FIELDS[:4]}})
    pq.write_table(table.append_column("Volume", volume), tmp_path / "x", row_group_size=2)
    assert_same(
        bars_lib.read(tmp_path / "x"), bars._replace(volume=np.array([1.0, 0, 0, 4, 5, 0, 7]))
    )


def test_several_files_are_one_table(tmp_path):
    bars = made_bars(10)
    paths = [tmp_path / "a.csv", tmp_path / "b.parquet", tmp_path / "c.csv.gz"]
    parts = [Bars(*(column[part] for column in bars)) for part in np.split(np.arange(10), [4, 7])]
    paths[0].write_text(to_csv(parts[0]))
    write_parquet(paths[1], parts[1])
    paths[2].write_bytes(gzip.compress(to_csv(parts[2]).encode()))
    assert_same(bars_lib.read(paths), bars)
    assert_same(bars_lib.read([str(path) for path in paths]), bars)
    assert_same(bars_lib.read(str(paths[0])), parts[0])
    with pytest.raises(
        InputError, match=r"b\.parquet, row 1: time .* does not come after .*21:08:00Z"
    ):
        bars_lib.read([paths[0], paths[2], paths[1]])
    with pytest.raises(InputError, match=r"a\.csv, line 2: time .* does not come after"):
        bars_lib.read([paths[0], paths[0]])


def test_files_may_not_share_a_bar(tmp_path):
    bars = made_bars(3)
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, part in zip(paths, (slice(0, 2), slice(1, 3)), strict=True):
        path.write_text(to_csv(Bars(*(column[part] for column in bars))))
    with pytest.raises(
        InputError, match=r"b\.csv, line 2: time 2018-10-28T21:00:00Z does not come"
    ):
        bars_lib.read(paths)


def test_an_empty_list_of_files_is_refused():
    with pytest.raises(InputError, match="list of bar files is empty"):
        bars_lib.read([])


# A slow reader and a slow checker, obviously right, against the fast ones.


def slow_read(text: str) -> Bars:
    rows = list(csv.DictReader(io.StringIO(text)))
    time = [datetime.datetime.fromisoformat(row["timestamp"]).replace(tzinfo=None) for row in rows]
    numbers = {field: np.array([float(row[field]) for row in rows]) for field in FIELDS}
    return Bars(np.array(time, "datetime64[us]"), **numbers)


prices = st.floats(1e-12, 1e12, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.lists(prices, min_size=4, max_size=4), st.floats(0, 1e300)), min_size=1
    ),
    steps=st.lists(st.integers(1, 10**9), min_size=50, max_size=50),
    style=st.sampled_from([repr, "{:.17e}".format, " {!r} ".format]),
)
def test_fast_reader_agrees_with_the_csv_module(tmp_path_factory, rows, steps, style):
    rows = rows[: len(steps)]
    lines = ["timestamp,open,high,low,close,volume"]
    for second, ((a, b, c, d), volume) in zip(np.cumsum(steps), rows, strict=False):
        low, open_, close, high = sorted((a, b, c, d))
        time = iso(START + np.timedelta64(int(second), "s"))
        lines.append(",".join([time, *map(style, (open_, high, low, close, volume))]))
    text = "\n".join(lines)
    assert_same(read_text(tmp_path_factory.mktemp("csv"), text), slow_read(text))


def slow_first_bad_row(bars: Bars) -> int | None:
    for i, (time, open_, high, low, close, volume) in enumerate(zip(*bars, strict=True)):
        fine = all(np.isfinite(x) and x > 0 for x in (open_, high, low, close))
        fine = fine and low <= open_ <= high and low <= close <= high
        fine = fine and np.isfinite(volume) and volume >= 0 and not np.isnat(time)
        if not fine or (i > 0 and not time > bars.time[i - 1]):
            return i
    return None


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    blows=st.lists(
        st.tuples(
            st.integers(0, 11),
            st.sampled_from(FIELDS),
            st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 89.0, 103.0, 95.0, 1e-300]),
        ),
        max_size=3,
    ),
    time_blows=st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from([-61, -60, 0, 60, 61, None])), max_size=2
    ),
)
def test_checker_agrees_with_a_loop(n, seed, blows, time_blows):
    bars = made_bars(n, seed)
    for row, field, value in blows:
        getattr(bars, field)[row % n] = value
    for row, seconds in time_blows:
        shift = np.timedelta64("NaT", "s") if seconds is None else np.timedelta64(seconds, "s")
        bars.time[row % n] += shift
    row = slow_first_bad_row(bars)
    if row is None:
        bars_lib.check(bars, "made")
    else:
        with pytest.raises(InputError, match=rf"^made, row {row + 1}: "):
            bars_lib.check(bars, "made")
        with pytest.raises(InputError, match=rf"^place {row}: "):
            bars_lib.check(bars, lambda bad: f"place {bad}")


MISTAKES = {
    "high below low": (
        "2018-01-01T00:01:00Z,2,1,3,2,0",
        "high 1.0 is below low 3.0; high must be the highest price",
    ),
    "high below open": ("2018-01-01T00:01:00Z,4,3,1,2,0", "high 3.0 is below open 4.0"),
    "high below close": ("2018-01-01T00:01:00Z,2,3,1,4,0", "high 3.0 is below close 4.0"),
    "low above open": ("2018-01-01T00:01:00Z,1,9,2,3,0", "low 2.0 is above open 1.0"),
    "low above close": ("2018-01-01T00:01:00Z,3,9,2,1,0", "low 2.0 is above close 1.0"),
    "zero price": ("2018-01-01T00:01:00Z,0,1,0,1,0", "open 0.0 is not a price"),
    "negative price": ("2018-01-01T00:01:00Z,1,1,-1,1,0", "low -1.0 is not a price"),
    "infinite price": ("2018-01-01T00:01:00Z,1,inf,1,1,0", "high inf is not a price"),
    "negative volume": ("2018-01-01T00:01:00Z,1,1,1,1,-2", "volume -2.0 is not a volume"),
    "infinite volume": ("2018-01-01T00:01:00Z,1,1,1,1,inf", "volume inf is not a volume"),
    "duplicate time": (
        "2018-01-01T00:00:00Z,1,1,1,1,0",
        "time 2018-01-01T00:00:00Z repeats the row before; each time may occur once",
    ),
    "descending time": (
        "2017-12-31T23:59:00Z,1,1,1,1,0",
        "time 2017-12-31T23:59:00Z comes before 2018-01-01T00:00:00Z of the row before",
    ),
    "text in a price": ("2018-01-01T00:01:00Z,1,abc,1,1,0", "high 'abc' is not a number"),
    "decimal comma": ('2018-01-01T00:01:00Z,1,"1,5",1,1,0', "high '1,5' is not a number"),
    "text in a volume": ("2018-01-01T00:01:00Z,1,1,1,1,many", "volume 'many' is not a number"),
    "long text": (
        f"2018-01-01T00:01:00Z,1,1,{'x' * 999},1,0",
        r"low 'x{80}\.\.\.' is not a number",
    ),
    "empty price": ("2018-01-01T00:01:00Z,1,,1,1,0", "high is missing"),
    "nan price": ("2018-01-01T00:01:00Z,1,nan,1,1,0", "high is missing"),
    "text for a time": ("yesterday,1,1,1,1,0", "time 'yesterday' is not like the others"),
    "empty time": (",1,1,1,1,0", "time '' is not like the others"),
    "no such day": ("2018-02-30T00:00:00Z,1,1,1,1,0", "time '2018-02-30T00:00:00Z' is not"),
    "zone forgotten once": ("2018-01-01T00:01:00,1,1,1,1,0", "time '2018-01-01T00:01:00' is not"),
    "a column too few": ("2018-01-01T00:01:00Z,1,1,1,1", "5 columns; every row should have 6"),
    "a column too many": ("2018-01-01T00:01:00Z,1,1,1,1,0,7", "7 columns; every row should have 6"),
    "not UTF-8": (b"2018-01-01T00:01:00Z,1,1,\xff,1,0", "not UTF-8 text"),
    "zero byte": (b"2018-01-01T00:01:00Z,1,1,\0,1,0", "a zero byte"),
}


LATER = {
    "rule": "2018-01-01T00:02:00Z,1,1,1,1,0\n2018-01-01T00:03:00Z,1,1,2,1,-1\n",
    "text": "2018-01-01T00:02:00Z,1,1,broken,1,0\n",
    "columns": "2018-01-01T00:02:00Z,1,1\n",
    "time": "later,1,1,1,1,0\n",
    "null": "2018-01-01T00:02:00Z,,1,1,1,0\n",
    "bytes": "2018-01-01T00:02:00Z,1,1,\0,1,0\n",
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_first_bad_row_is_named_by_its_line(tmp_path, mistake, later):
    row, sentence = MISTAKES[mistake]
    row = row if isinstance(row, bytes) else row.encode()
    head, first = b"timestamp,open,high,low,close,volume\n", b"2018-01-01T00:00:00Z,1,1,1,1,0\n"
    # A later mistake of every kind, so that no kind may be looked for before the others.
    rest = row + b"\n" + LATER[later].encode()
    with pytest.raises(InputError, match=rf"bars\.csv, line 3: {sentence}"):
        read_text(tmp_path, head + first + rest)
    with pytest.raises(InputError, match=rf"bars\.csv, line 5: {sentence}"):
        read_text(tmp_path, gzip.compress(b"\n" + head + b"\n" + first + rest))
    if "repeats" not in sentence and "comes before" not in sentence and "forgotten" not in mistake:
        with pytest.raises(InputError, match=rf"bars\.csv, line 2: {sentence}"):
            read_text(tmp_path, zipped(x=head + rest))


@pytest.mark.parametrize("row", [0, 1, 7, 99])
@pytest.mark.parametrize("layout", ["iso with Z", "seconds", "gmt time"])
def test_first_time_of_another_layout_is_found_wherever_it_is(tmp_path, row, layout):
    lines = to_csv(made_bars(100), TIME_LAYOUTS[layout]).splitlines()
    for bad in (row, 99):
        lines[1 + bad] = "never," + lines[1 + bad].partition(",")[2]
    with pytest.raises(InputError, match=f"line {row + 2}: time 'never' is not"):
        read_text(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("time", ["20180101", "nan", "inf", "1e30", "28-10-2018", "10/28/2018"])
def test_what_only_looks_like_a_time_is_refused(tmp_path, time):
    with pytest.raises(InputError, match=r"line 2: time .* is not like the others or not a time"):
        read_text(tmp_path, f"time,open,high,low,close\n{time},1,1,1,1\n")


def test_bad_parquet_rows_are_named_by_row(tmp_path):
    bars = made_bars(6)
    bars.high[3] = 1.0
    with pytest.raises(InputError, match=r"x, row 4: high 1.0 is below"):
        bars_lib.read(write_parquet(tmp_path / "x", bars))
    low = pa.array([1.0, 1, None, 1, 1, 1])
    with pytest.raises(InputError, match=r"x, row 3: low is missing"):
        bars_lib.read(write_parquet(tmp_path / "x", bars, low=low))
    time = pa.array([*map(iso, bars.time[:4]), "never", iso(bars.time[5])])
    with pytest.raises(InputError, match=r"x, row 5: time 'never' is not"):
        bars_lib.read(write_parquet(tmp_path / "x", made_bars(6), Timestamp=time))


def test_parquet_columns_of_other_types_are_refused(tmp_path):
    bars = made_bars(2)
    with pytest.raises(InputError, match="column 'open' is string; open should be numbers"):
        bars_lib.read(write_parquet(tmp_path / "x", bars, open=pa.array(["1", "2"])))
    with pytest.raises(InputError, match="time is of type bool; it should be a timestamp"):
        bars_lib.read(write_parquet(tmp_path / "x", bars, Timestamp=pa.array([True, False])))


FILES = {
    "empty": (b"", "is empty; it should hold a table of bars"),
    "blank": (b"\n  \n\n", "is empty; it should hold a table of bars"),
    "empty gzip": (gzip.compress(b""), "is empty; it should hold a table of bars"),
    "header only": (b"time,open,high,low,close\n", "has a header and no bars"),
    "header only, no line end": (b"time,open,high,low,close", "has a header and no bars"),
    "no close": (
        b"time,open,high,low\n1,1,1,1\n",
        "has no column close but 'time, open, high, low'",
    ),
    "no time": (b"when,open,high,low,close\n1,1,1,1,1\n", "has no column time but 'when, open"),
    "nothing fits": (
        b"a,b\n1,2\n",
        "has no column open or high or low or close or time but 'a, b'",
    ),
    "two opens": (b"time,open,Open,high,low,close\n1,1,1,1,1,1\n", "has 2 columns 'open'"),
    "no header": (b"1,1,1,1,1,1\n", "has 6 columns without a header"),
    "utf-16": ("time,open,high,low,close\n".encode("utf-16"), "line 1: not UTF-8 text"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1: not UTF-8 text"),
    "unclosed quote": (b'time,open,high,low,close\n1,1,1,1,"1\n2,2,2,2,2\n', "line "),
    "cut gzip": (gzip.compress(b"time,open" * 99)[:-12], "is cut short or damaged"),
    "gzip head": (b"\x1f\x8b\x08", "is cut short or damaged"),
    "cut zip": (zipped(a="time,open")[:-30], "is cut short or damaged"),
    "zip of two": (zipped(a="x", b="y"), "holds 2 files; a zip of bars holds one CSV file"),
    "zip of none": (zipped(), "holds 0 files"),
    "cut parquet": (b"PAR1\x15\x04", "is not a readable Parquet file"),
}


@pytest.mark.parametrize("name", FILES)
def test_unreadable_files_are_told_in_one_sentence(tmp_path, name):
    data, sentence = FILES[name]
    with pytest.raises(InputError, match=rf"bars\.csv,? {sentence}") as caught:
        read_text(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_parquet_without_rows_is_refused(tmp_path):
    bars = Bars(*(column[:0] for column in made_bars(1)))
    with pytest.raises(InputError, match="has columns and no bars"):
        bars_lib.read(write_parquet(tmp_path / "x", bars))


def test_gzip_cut_anywhere_is_refused(tmp_path):
    data = gzip.compress(to_csv(made_bars(50)).encode())
    for size in range(2, len(data), 23):
        with pytest.raises(InputError, match="is cut short or damaged"):
            read_text(tmp_path, data[:size])


def test_gzip_with_a_flipped_bit_is_refused(tmp_path):
    text = to_csv(made_bars(50)).encode()
    data = bytearray(gzip.compress(text))
    data[-6] ^= 1
    with pytest.raises(InputError, match="is cut short or damaged"):
        read_text(tmp_path, bytes(data))
    data = bytearray(zipped(x=text))
    data[len(data) // 2] ^= 255
    with pytest.raises(InputError, match="is cut short or damaged"):
        read_text(tmp_path, bytes(data))


def test_encrypted_zip_is_refused(tmp_path):
    data = bytearray(zipped(x="time,open"))
    for start in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
        data[start] |= 1
    with pytest.raises(InputError, match="is encrypted; unpack it first"):
        read_text(tmp_path, bytes(data))


def test_missing_file_and_directory_are_told_apart(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv does not exist"):
        bars_lib.read(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="is a directory"):
        bars_lib.read(tmp_path)


def test_columns_of_unequal_length_are_refused():
    bars = made_bars(3)
    with pytest.raises(InputError, match="equally long"):
        bars_lib.check(bars._replace(volume=bars.volume[:2]), "made")


def made_twin(folder: Path) -> Path:
    path = folder / "ethusd_1m.csv.gz"
    path.write_bytes(gzip.compress(to_csv(made_bars(3000)).encode()))
    return path


@pytest.fixture(params=["made", "real"])
def minutes(request, tmp_path) -> Path:
    if request.param == "made":
        return made_twin(tmp_path)
    path = DATA / "ethusd_1m.csv.gz"
    return path if path.exists() else pytest.skip(f"{path} is not there")


def test_minute_bars_agree_with_the_csv_module(minutes):
    bars = bars_lib.read(minutes)
    with gzip.open(minutes, "rt") as file:
        head = [next(file) for _ in range(2001)]
    assert_same(Bars(*(column[:2000] for column in bars)), slow_read("".join(head)))
    with gzip.open(minutes) as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    assert len(bars.time) == lines - 1


@pytest.mark.parametrize(
    ("name", "bars", "first", "last"),
    [
        ("ethusd_1m", 1_464_148, "2016-03-09T16:04", "2019-12-31T23:56"),
        ("ethusd_1h", 50_458, "2018-05-25T09:00", "2024-02-25T21:00"),
        ("eurusd_1m", 186_348, "2017-01-02T07:00", "2017-06-30T20:58"),
        ("eurusd_1h", 53_160, "2017-07-03T00:00", "2026-03-23T23:00"),
        ("eurusd_1m_financialvision", 4_501, "2018-10-28T20:59", "2018-10-31T23:59"),
    ],
)
def test_real_files_hold_what_their_readme_says(name, bars, first, last):
    path = DATA / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    time = bars_lib.read(path).time
    assert len(time) == bars
    np.testing.assert_array_equal(time[[0, -1]], np.array([first, last], "datetime64[us]"))


CLIENTS = {"anna": 0, "Bo": 1, "7": 2}


def interleaved(counts=(5, 3, 4), seed=0):
    """Series that start at one time, and their rows in time's order as one table by name."""
    series = {
        name: made_bars(n, seed + s) for (name, s), n in zip(CLIENTS.items(), counts, strict=True)
    }
    rows = [(*row, name) for name, bars in series.items() for row in zip(*bars, strict=True)]
    order = np.random.default_rng(seed).permutation(len(rows))
    return series, sorted((rows[i] for i in order), key=lambda row: row[0])


def with_client(rows, header="timestamp,open,high,low,close,volume,Client"):
    lines = [
        ",".join([iso(t), *(repr(float(v)) for v in values), name]) for t, *values, name in rows
    ]
    return "\n".join([header, *lines]) + "\n"


def assert_same_series(got, expected):
    assert list(got) == sorted(expected)
    for name, bars in expected.items():
        assert_same(got[name], bars)


@pytest.mark.parametrize("counts", [(5, 3, 4), (1, 1, 1), (20, 1, 9)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_of_several_series_may_interleave(tmp_path, counts, seed):
    series, rows = interleaved(counts, seed)
    path = tmp_path / "bars.csv"
    path.write_text(with_client(rows))
    assert_same_series(bars_lib.read_by(path, "client"), series)
    path.write_bytes(gzip.compress(with_client(rows).encode()))
    assert_same_series(bars_lib.read_by(path, "CLIENT "), series)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_series_are_read_from_parquet(tmp_path, kind):
    series, rows = interleaved()
    time, *prices, names = zip(*rows, strict=True)
    table = {"time": np.array(time)} | dict(zip(FIELDS, map(np.array, prices), strict=True))
    table["client"] = pa.array(names).cast(kind)
    pq.write_table(pa.table(table), tmp_path / "bars.parquet")
    assert_same_series(bars_lib.read_by(tmp_path / "bars.parquet", "client"), series)


def test_whole_numbers_may_name_series(tmp_path):
    series, rows = interleaved()
    numbers = {name: 10 * place for name, place in CLIENTS.items()}
    text = with_client([(*row, str(numbers[name])) for *row, name in rows])
    (tmp_path / "bars.csv").write_text(text)
    time, *prices, names = zip(*rows, strict=True)
    table = {"time": np.array(time)} | dict(zip(FIELDS, map(np.array, prices), strict=True))
    table["client"] = np.array([numbers[name] for name in names])
    pq.write_table(pa.table(table), tmp_path / "bars.parquet")
    expected = {str(numbers[name]): bars for name, bars in series.items()}
    for file in ("bars.csv", "bars.parquet"):
        assert_same_series(bars_lib.read_by(tmp_path / file, "client"), expected)


def test_series_go_on_in_the_next_file(tmp_path):
    series, rows = interleaved((6, 6, 6))
    middle = START + np.timedelta64(3, "m")
    later = [row for row in rows if row[0] >= middle]
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, part in zip(paths, ([r for r in rows if r[0] < middle], later), strict=True):
        path.write_text(with_client(part))
    assert_same_series(bars_lib.read_by(paths, "client"), series)
    with pytest.raises(InputError, match=r"a\.csv, line \d+: time .* does not come after"):
        bars_lib.read_by(paths[::-1], "client")


def test_clients_that_are_fractions_are_refused(tmp_path):
    series, rows = interleaved()
    time, *prices, names = zip(*rows, strict=True)
    table = {"time": np.array(time)} | dict(zip(FIELDS, map(np.array, prices), strict=True))
    table["client"] = np.arange(len(names)) % len(series) + 0.0
    pq.write_table(pa.table(table), tmp_path / "bars.parquet")
    with pytest.raises(InputError, match="client is of type double; it should be text or whole"):
        bars_lib.read_by(tmp_path / "bars.parquet", "client")


@pytest.mark.parametrize(
    ("line", "old", "new", "sentence"),
    [
        (4, ",anna", ",", r"bars\.csv, line 4: client is missing"),
        (4, ",anna", ", ", r"bars\.csv, line 4: client is missing"),
        (4, ",anna", ",NaN", r"bars\.csv, line 4: client is missing"),
        (4, ",anna", ",null", r"bars\.csv, line 4: client is missing"),
        (4, ",anna", ",7.0", r"bars\.csv, line 4: client is 7\.0; .* a whole number like 7"),
        (4, "T21:00", "T20:59", r"bars\.csv, line 4: time .* repeats the row before"),
        (5, "2018-", "2017-", r"bars\.csv, line 5: time .* comes before"),
        (4, ",anna", ",anna,1", r"bars\.csv, line 4: 8 columns"),
    ],
)
def test_a_mistake_in_a_series_is_named_by_its_line(tmp_path, line, old, new, sentence):
    lines = with_client([(*row, "anna") for row in zip(*made_bars(5), strict=True)]).splitlines()
    lines.insert(2, lines[1].replace("anna", "Bo"))  # another's row at the same time
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    (tmp_path / "bars.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=sentence):
        bars_lib.read_by(tmp_path / "bars.csv", "client")


def test_a_file_without_the_column_is_refused_by_name(tmp_path):
    for text in (to_csv(made_bars()), to_csv(made_bars(), header="")):
        (tmp_path / "bars.csv").write_text(text)
        with pytest.raises(InputError, match=r"bars\.csv .*'client'"):
            bars_lib.read_by(tmp_path / "bars.csv", "client")


def test_one_series_reads_as_without_its_column(tmp_path):
    bars = made_bars()
    path = tmp_path / "bars.csv"
    path.write_text(with_client([(*row, "anna") for row in zip(*bars, strict=True)]))
    assert_same(bars_lib.read(path), bars)
    assert bars_lib.is_own_column("Open Time")
    assert not bars_lib.is_own_column("client")
