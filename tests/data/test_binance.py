"""Kline archives: fetched once, kept only when they agree with the published checksum."""

import hashlib
import io
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from dpfinjax.data import bars, binance
from dpfinjax.errors import InputError

FOLDER = "/data/spot/monthly/klines/ETHUSDT/1m"


def test_source_is_parsed_into_its_parts():
    spec = binance.parse("binance:ETHUSDT:1m:2020-01:2020-12")
    assert spec == ("ETHUSDT", "1m", "2020-01", "2020-12")
    assert spec.months == [f"2020-{month:02d}" for month in range(1, 13)]


@pytest.mark.parametrize("interval", binance.INTERVALS)
def test_every_interval_of_the_exchange_is_accepted(interval):
    assert binance.parse(f"binance:1INCHBTC:{interval}:2019-12:2020-02").months == [
        "2019-12",
        "2020-01",
        "2020-02",
    ]


def test_one_month_is_enough():
    assert binance.parse("binance:ETHUSDT:1h:2020-05:2020-05").months == ["2020-05"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("binance", "five parts"),
        ("binance:ETHUSDT:1m:2020-01", "five parts"),
        ("binance:ETHUSDT:1m:2020-01:2020-12:x", "five parts"),
        ("kraken:ETHUSDT:1m:2020-01:2020-12", "five parts"),
        ("binance:ethusdt:1m:2020-01:2020-12", "'ethusdt' is no symbol"),
        ("binance::1m:2020-01:2020-12", "'' is no symbol"),
        ("binance:../ETH:1m:2020-01:2020-12", "'../ETH' is no symbol"),
        ("binance:ETHUSDT\n:1m:2020-01:2020-12", "is no symbol"),
        ("binance:ETHUSDT:7m:2020-01:2020-12", "'7m' is none of 1s, 1m, 3m"),
        ("binance:ETHUSDT:1m:2020-13:2021-12", "'2020-13' is no month"),
        ("binance:ETHUSDT:1m:2020-00:2021-12", "'2020-00' is no month"),
        ("binance:ETHUSDT:1m:2020-1:2021-12", "'2020-1' is no month"),
        ("binance:ETHUSDT:1m:2020-01:2021-12\n", "is no month"),
        ("binance:ETHUSDT:1m:2020-02:2020-01", "2020-02 comes after 2020-01"),
    ],
)
def test_bad_sources_are_told_the_right_form(source, reason):
    form = "should be like binance:ETHUSDT:1m:2020-01:2020-12"
    with pytest.raises(InputError, match=form) as caught:
        binance.parse(source)
    assert reason in str(caught.value)


class Exchange:
    """A little exchange on 127.0.0.1 that counts what it is asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.status: dict[str, int] = {}
        self.requests: list[str] = []
        exchange = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                exchange.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{handler.command} {handler.path.rpartition('/')[2]}")
        body = self.files.get(handler.path)
        handler.send_response(self.status.get(handler.path, 404 if body is None else 200))
        handler.send_header("Content-Length", str(len(body or b"")))
        handler.end_headers()
        if body and handler.command == "GET":
            handler.wfile.write(body)

    def publish(self, month: str, unit: str = "ms") -> bytes:
        name = f"ETHUSDT-1m-{month}"
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.csv", klines(month, unit))
        self.files[f"{FOLDER}/{name}.zip"] = stream.getvalue()
        digest = hashlib.sha256(stream.getvalue()).hexdigest()
        self.files[f"{FOLDER}/{name}.zip.CHECKSUM"] = f"{digest}  {name}.zip\n".encode()
        return stream.getvalue()

    def archives_fetched(self) -> list[str]:
        return [request for request in self.requests if request.endswith(".zip")]


def klines(month: str, unit: str, n: int = 3) -> str:
    opened = np.arange(n) * np.timedelta64(1, "m") + np.datetime64(month, unit)
    rows = opened.astype(np.int64)
    return "".join(
        f"{row},{i + 1}.5,9,1,{i + 2},{i}.25,{row},1,1,1,1,0\n" for i, row in enumerate(rows)
    )


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = Exchange()
    thread = threading.Thread(target=exchange.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield exchange
    exchange.server.shutdown()
    exchange.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def spec(first: str = "2020-01", last: str = "2020-02") -> binance.Spec:
    return binance.parse(f"binance:ETHUSDT:1m:{first}:{last}")


def files_under(folder) -> list[str]:
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() or "download" in path.name
    )


def test_months_arrive_in_order_and_are_bars(exchange, tmp_path):
    published = [exchange.publish(month) for month in ("2020-01", "2020-02")]
    paths = binance.download(spec(), exchange.url, tmp_path / "cache")
    assert [path.name for path in paths] == ["ETHUSDT-1m-2020-01.zip", "ETHUSDT-1m-2020-02.zip"]
    assert [path.read_bytes() for path in paths] == published
    table = bars.read(paths)
    expected = ["2020-01-01T00:02", "2020-02-01T00:00"]
    np.testing.assert_array_equal(table.time[2:4], np.array(expected, "datetime64[us]"))
    np.testing.assert_array_equal(table.close, [2, 3, 4, 2, 3, 4])


def test_microsecond_archives_join_millisecond_archives(exchange, tmp_path):
    exchange.publish("2024-12", "ms")
    exchange.publish("2025-01", "us")
    paths = binance.download(spec("2024-12", "2025-01"), exchange.url, tmp_path)
    expected = np.array(["2024-12-01", "2025-01-01"], "datetime64[us]")
    np.testing.assert_array_equal(bars.read(paths).time[[0, 3]], expected)


def test_a_second_run_asks_for_nothing(exchange, tmp_path):
    exchange.publish("2020-01")
    first = binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    assert exchange.archives_fetched() == ["GET ETHUSDT-1m-2020-01.zip"]
    exchange.requests.clear()
    assert binance.download(spec(last="2020-01"), f"{exchange.url}/", tmp_path) == first
    assert exchange.requests == []


def test_only_months_that_are_lacking_are_fetched(exchange, tmp_path):
    for month in ("2020-01", "2020-02", "2020-03"):
        exchange.publish(month)
    binance.download(spec("2020-02", "2020-02"), exchange.url, tmp_path)
    exchange.requests.clear()
    assert len(binance.download(spec("2020-01", "2020-03"), exchange.url, tmp_path)) == 3
    assert sorted(exchange.archives_fetched()) == [
        "GET ETHUSDT-1m-2020-01.zip",
        "GET ETHUSDT-1m-2020-03.zip",
    ]


def test_an_archive_damaged_in_the_cache_is_fetched_again(exchange, tmp_path):
    published = exchange.publish("2020-01")
    (path,) = binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    path.write_bytes(published[:-1])
    exchange.requests.clear()
    (path,) = binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    assert path.read_bytes() == published
    assert exchange.archives_fetched() == ["GET ETHUSDT-1m-2020-01.zip"]


def test_two_servers_never_share_the_cache(exchange, tmp_path):
    exchange.publish("2020-01")
    binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    other = exchange.url.replace("127.0.0.1", "localhost")
    exchange.requests.clear()
    binance.download(spec(last="2020-01"), other, tmp_path)
    assert len(exchange.archives_fetched()) == 1


def test_a_corrupted_archive_is_named_with_both_digests_and_not_kept(exchange, tmp_path):
    published = exchange.publish("2020-01")
    exchange.publish("2020-02")
    bad = published[:40] + bytes([published[40] ^ 1]) + published[41:]
    exchange.files[f"{FOLDER}/ETHUSDT-1m-2020-01.zip"] = bad
    digests = [hashlib.sha256(data).hexdigest() for data in (bad, published)]
    sentence = rf"2020-01\.zip has SHA-256 {digests[0]}, but .* says {digests[1]}"
    with pytest.raises(InputError, match=sentence):
        binance.download(spec(), exchange.url, tmp_path)
    assert not any(data == bad for data in (p.read_bytes() for p in tmp_path.rglob("*.zip")))
    assert "ETHUSDT-1m-2020-01.zip" not in files_under(tmp_path)
    exchange.publish("2020-01")
    assert len(binance.download(spec(), exchange.url, tmp_path)) == 2


def test_a_missing_month_is_named_before_any_archive_is_fetched(exchange, tmp_path):
    exchange.publish("2020-01")
    with pytest.raises(InputError, match=r"no klines ETHUSDT-1m-2020-02: .* does not exist"):
        binance.download(spec(), exchange.url, tmp_path / "cache")
    assert not any(request.startswith("GET") for request in exchange.archives_fetched())
    assert files_under(tmp_path) == []


def test_a_month_without_checksum_is_refused(exchange, tmp_path):
    exchange.publish("2020-01")
    del exchange.files[f"{FOLDER}/ETHUSDT-1m-2020-01.zip.CHECKSUM"]
    with pytest.raises(InputError, match=r"2020-01\.zip has no \.CHECKSUM file beside it"):
        binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    assert files_under(tmp_path) == []


def test_an_archive_that_vanishes_after_its_checksum_is_named(exchange, tmp_path):
    exchange.publish("2020-01")
    del exchange.files[f"{FOLDER}/ETHUSDT-1m-2020-01.zip"]
    with pytest.raises(InputError, match=r"downloading .*2020-01\.zip.* failed: .*404"):
        binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    "checksum",
    [b"", b"<html>sign in</html>", b"\xff" * 80, b"0" * 64 + b"  other.zip\n", b"0" * 63 + b"  x"],
)
def test_a_checksum_file_of_another_form_is_refused(exchange, tmp_path, checksum):
    exchange.publish("2020-01")
    exchange.files[f"{FOLDER}/ETHUSDT-1m-2020-01.zip.CHECKSUM"] = checksum
    with pytest.raises(InputError, match=r"CHECKSUM should hold a SHA-256 and the name ETHUSDT"):
        binance.download(spec(last="2020-01"), exchange.url, tmp_path)


def test_a_server_error_is_told_at_once(exchange, tmp_path):
    exchange.publish("2020-01")
    exchange.status[f"{FOLDER}/ETHUSDT-1m-2020-01.zip.CHECKSUM"] = 503
    with pytest.raises(InputError, match=r"2020-01\.zip\.CHECKSUM answered HTTP 503"):
        binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    assert exchange.requests == ["GET ETHUSDT-1m-2020-01.zip.CHECKSUM"]


def test_an_unreachable_server_is_told(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot be reached \(.*; check network and address"):
        binance.download(spec(), f"http://127.0.0.1:{port}", tmp_path)


@pytest.mark.parametrize(
    "base_url", ["", "data.binance.vision", "ftp://x", "file:///etc", "http://"]
)
def test_base_url_must_be_http(tmp_path, base_url):
    with pytest.raises(InputError, match="should begin with http:// or https://"):
        binance.download(spec(), base_url, tmp_path)


def test_a_cache_folder_that_is_a_file_is_refused(exchange, tmp_path):
    exchange.publish("2020-01")
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"the cache folder .*cache cannot be written"):
        binance.download(spec(last="2020-01"), exchange.url, tmp_path / "cache")


def test_dots_in_an_address_never_leave_the_cache(exchange, tmp_path):
    body = exchange.publish("2020-01")
    for name in ("ETHUSDT-1m-2020-01.zip", "ETHUSDT-1m-2020-01.zip.CHECKSUM"):
        exchange.files[f"/../../x{FOLDER}/{name}"] = exchange.files[f"{FOLDER}/{name}"]
        exchange.files[f"/x{FOLDER}/{name}"] = exchange.files[f"{FOLDER}/{name}"]
    (path,) = binance.download(spec(last="2020-01"), f"{exchange.url}/../../x", tmp_path / "a")
    assert path.resolve().is_relative_to(tmp_path / "a")
    assert path.read_bytes() == body


def test_nothing_but_archives_and_checksums_stays_in_the_cache(exchange, tmp_path):
    exchange.publish("2020-01")
    binance.download(spec(last="2020-01"), exchange.url, tmp_path)
    name = "ETHUSDT-1m-2020-01.zip"
    assert files_under(tmp_path) == [name, f"{name}.CHECKSUM"]


def test_tensorflow_is_not_needed(exchange, tmp_path, monkeypatch):
    # None makes every import of it fail, also where it is installed.
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    exchange.publish("2020-01")
    assert binance.download(spec(last="2020-01"), exchange.url, tmp_path)
