"""Valid files, from which invalid ones are made."""

import functools
import gzip
import io
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dpfinjax.data import bars, simulate

ROWS = 12


@functools.cache
def table(rows: int = ROWS) -> bars.Bars:
    """A few simulated bars."""
    return bars.Bars(*(column[:rows] for column in simulate.bars(max(3000, rows), 1)))


def texts() -> list[bytes]:
    """The same bars in every layout of CSV that is read."""
    found = table()
    prices = list(zip(*(column.tolist() for column in found[1:]), strict=True))
    when = found.time.astype("datetime64[s]")
    seconds = when.astype(np.int64).tolist()
    iso = [f"{t}Z" for t in when]
    names = "open,high,low,close,volume"

    def lines(header, times, gap=",", end="\n", rows=prices):
        body = [gap.join([str(t), *map(str, row)]) for t, row in zip(times, rows, strict=True)]
        return (end.join(([header.replace(",", gap)] if header else []) + body) + end).encode()

    dukascopy = [f"{t[8:10]}.{t[5:7]}.{t[:4]} {t[11:19]}.000" for t in iso]
    klines = [
        f"{s * 1000},{','.join(map(str, row))},{s * 1000 + 59999},1,2,3,4,0"
        for s, row in zip(seconds, prices, strict=True)
    ]
    series = [(*row, "ab"[number % 2]) for number, row in enumerate(prices)]
    return [
        lines(f"timestamp,{names}", iso),
        lines(f"unix,{names}", seconds, ";", "\r\n"),
        lines(f"Gmt time,{names}", dukascopy, "\t"),
        b"\xef\xbb\xbf" + lines(f"Date,{names}", [s * 1_000_000 for s in seconds]),
        ("\n".join(klines) + "\n").encode(),
        lines(f"time,{names},client", iso, rows=series),
        lines(f'"time",{names}', [f'"{t}"' for t in iso]),
    ]


def parquets() -> list[bytes]:
    """The same bars as Parquet files."""
    found = table()
    columns = {name: pa.array(column) for name, column in found._asdict().items()}
    series = columns | {"client": pa.array([f"{n % 3}" for n in range(ROWS)])}
    narrow = {name: column.cast(pa.float32()) for name, column in columns.items() if name != "time"}
    narrow |= {"time": columns["time"].cast(pa.timestamp("ns", "Asia/Tokyo"))}
    whole = columns | {"time": columns["time"].cast(pa.int64())}
    decimal = columns | {"close": columns["close"].cast(pa.decimal128(38, 20), safe=False)}
    options = [
        {},
        {"compression": "zstd"},
        {"use_dictionary": False, "compression": "none"},
        {"version": "1.0", "row_group_size": 5},
        {"compression": "gzip"},
    ]
    found = []
    for content, how in zip((columns, series, narrow, whole, decimal), options, strict=True):
        out = io.BytesIO()
        pq.write_table(pa.table(content), out, **how)
        found.append(out.getvalue())
    return found


def zipped(text: bytes, name: str = "bars.csv", **options) -> bytes:
    """A zip archive of one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        archive.writestr(name, text)
    return out.getvalue()


def bar_files() -> list[bytes]:
    """Bars in every format."""
    plain = texts()
    return [
        *plain,
        *parquets(),
        *(gzip.compress(text, mtime=0) for text in plain[:2]),
        zipped(plain[4], compression=zipfile.ZIP_DEFLATED),
        zipped(plain[0]),
    ]


def files_of_series() -> list[bytes]:
    """Bars of several clients."""
    text, table = texts()[5], parquets()[1]
    return [text, table, gzip.compress(text, mtime=0), zipped(text)]


def pickles() -> list[bytes]:
    """The paper's dict with one or two images a split, in the protocols and forms that are read."""
    rng = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        label = rng.integers(8, size=(count, 1))
        content[f"{split}_culr_gaf"] = rng.uniform(-1, 1, (count, 10, 10, 4))
        content[f"{split}_onehot"] = np.eye(8)[label[:, 0]]
        content[f"{split}_ohlc"] = rng.uniform(1, 2, (count, 10, 4))
        content[f"{split}_label"] = label
    lists = {name: array.tolist() for name, array in content.items()}
    objects = content | {"train_ohlc": np.array([*content["train_ohlc"], None], object)[:2]}
    return [
        *(pickle.dumps(content, protocol) for protocol in (2, 3, 4, 5)),
        pickle.dumps(lists, 2),
        pickle.dumps(objects, 4),
    ]
