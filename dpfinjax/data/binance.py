"""Monthly kline archives of the Binance exchange, downloaded once and verified."""

import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from dpfinjax.errors import InputError

BASE_URL = "https://data.binance.vision"
INTERVALS = (
    *("1s", "1m", "3m", "5m", "15m", "30m"),
    *("1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1mo"),
)

_TIMEOUT_SECONDS = 30
_CHECKSUM_BYTES = 4096
_SIMULTANEOUS_DOWNLOADS = 4


class Spec(NamedTuple):
    """Which klines to download.

    Attributes:
      symbol: The market, such as `ETHUSDT`.
      interval: The bars' length, one of `INTERVALS`.
      first_month: `YYYY-MM`.
      last_month: `YYYY-MM`, inclusive.
    """

    symbol: str
    interval: str
    first_month: str
    last_month: str

    @property
    def months(self) -> list[str]:
        """Every month from the first to the last."""
        first, last = map(_months_since_year_0, (self.first_month, self.last_month))
        return [f"{month // 12:04d}-{month % 12 + 1:02d}" for month in range(first, last + 1)]


def parse(source: str) -> Spec:
    """Reads a source such as `binance:ETHUSDT:1m:2020-01:2020-12`.

    Args:
      source: `binance:SYMBOL:INTERVAL:FIRST:LAST`, months as `YYYY-MM`, the last one inclusive.

    Returns:
      What to download.

    Raises:
      InputError: If a part is missing or not of its form.

    >>> parse("binance:ETHUSDT:1m:2020-11:2021-01").months
    ['2020-11', '2020-12', '2021-01']
    """
    parts = source.split(":")
    if len(parts) != 5 or parts[0] != "binance":
        raise _bad_source(source, "it has not these five parts")
    spec = Spec(*parts[1:])
    if not re.fullmatch("[A-Z0-9]+", spec.symbol):
        raise _bad_source(source, f"{spec.symbol!r} is no symbol of capital letters and digits")
    if spec.interval not in INTERVALS:
        raise _bad_source(source, f"{spec.interval!r} is none of {', '.join(INTERVALS)}")
    for month in (spec.first_month, spec.last_month):
        if not re.fullmatch("[0-9]{4}-(0[1-9]|1[0-2])", month):
            raise _bad_source(source, f"{month!r} is no month like 2020-01")
    if spec.first_month > spec.last_month:
        raise _bad_source(source, f"{spec.first_month} comes after {spec.last_month}")
    return spec


def _bad_source(source: str, reason: str) -> InputError:
    """Says what is wrong with a source, and its right form."""
    return InputError(
        f"data.source {source!r} should be like binance:ETHUSDT:1m:2020-01:2020-12, but {reason}"
    )


def _months_since_year_0(month: str) -> int:
    """Counts months, January of year 0 being 0."""
    return 12 * int(month[:4]) + int(month[5:]) - 1


def download(spec: Spec, base_url: str, cache_dir: str | os.PathLike[str]) -> list[Path]:
    """Downloads the monthly archives that the cache lacks; every archive returned is verified.

    An archive enters the cache only after its SHA-256 agrees with the `.CHECKSUM` file that the
    exchange publishes beside it, which is kept too. Archives in the cache are verified against it
    without the network; one that was damaged since is fetched again.

    Args:
      spec: Which market, interval and months.
      base_url: Where `/data/spot/monthly/klines` lies, over http or https; usually `BASE_URL`.
      cache_dir: Folder that keeps the archives under the address they came from; made if needed.

    Returns:
      One zip file a month, in ascending order; each holds one CSV file for `bars.read`.

    Raises:
      InputError: If the server cannot be reached, lacks a month, or sends an archive whose checksum
        is not the published one.
    """
    if not re.fullmatch("https?://[^/][!-~]*", base_url):
        raise InputError(
            f"the base URL {base_url!r} should begin with http:// or https:// and have no blanks "
            "or letters beyond ASCII"
        )
    urls = [_archive_url(spec, month, base_url) for month in spec.months]
    kept = {url: _cached_path(url, Path(cache_dir).expanduser()) for url in urls}
    lacking = {url: path for url, path in kept.items() if not _is_intact(path)}
    if lacking:
        _fetch(lacking, Path(cache_dir).expanduser())
    return list(kept.values())


def _archive_url(spec: Spec, month: str, base_url: str) -> str:
    """Where the exchange keeps one month."""
    folder = f"{base_url.rstrip('/')}/data/spot/monthly/klines/{spec.symbol}/{spec.interval}"
    return f"{folder}/{spec.symbol}-{spec.interval}-{month}.zip"


def _cached_path(url: str, cache_dir: Path) -> Path:
    """Where the cache keeps an archive: two servers never share a file."""
    try:
        address = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise InputError(f"{url} is no address ({error}); check data.binance_url") from None
    host = address.netloc.rpartition("@")[2]
    parts = [re.sub("[^A-Za-z0-9.-]", "_", part) for part in [host, *address.path.split("/")]]
    return cache_dir.joinpath(*(part for part in parts if part.strip(".")))


def _checksum_path(archive: Path) -> Path:
    """The published checksum beside an archive."""
    return archive.with_name(f"{archive.name}.CHECKSUM")


def _is_intact(archive: Path) -> bool:
    """Whether the cache holds an archive that agrees with its checksum."""
    try:
        published = _checksum_path(archive).read_text("ascii", "replace")
        return published.split()[:1] == [_sha256(archive)]
    except OSError:
        return False


def _sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(wanted: dict[str, Path], cache_dir: Path) -> None:
    """Downloads archives into the cache."""
    # All checksums come first: a month that does not exist is told before megabytes are fetched.
    digests = {url: _published_digest(url) for url in wanted}
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".download-", dir=cache_dir, ignore_cleanup_errors=True
        ) as staging:
            archives = _download_all(list(wanted), Path(staging))
            for url, path in wanted.items():
                _keep(archives[url], digests[url], url, path)
    except OSError as error:
        raise InputError(f"the cache folder {cache_dir} cannot be written ({error})") from None


def _download_all(urls: list[str], staging: Path) -> dict[str, Path]:
    """Downloads URLs side by side, with TFDS's progress bar."""
    manager = tfds.download.DownloadManager(
        download_dir=staging, max_simultaneous_downloads=_SIMULTANEOUS_DOWNLOADS
    )
    try:
        paths = manager.download({url: url for url in urls})
    except (OSError, tfds.download.DownloadError) as error:
        raise InputError(f"downloading {urls[0]} to {urls[-1]} failed: {error}") from None
    return {url: Path(path) for url, path in paths.items()}


def _keep(archive: Path, digest: str, url: str, path: Path) -> None:
    """Moves a verified archive and its checksum into the cache."""
    actual = _sha256(archive)
    if actual != digest:
        raise InputError(
            f"{url} has SHA-256 {actual}, but its .CHECKSUM file says {digest}; it was not kept, "
            "download it again later"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    checksum = archive.with_name("CHECKSUM")
    checksum.write_text(f"{digest}  {path.name}\n")
    os.replace(checksum, _checksum_path(path))
    os.replace(archive, path)


def _published_digest(url: str) -> str:
    """The SHA-256 in the `.CHECKSUM` file beside an archive."""
    name = url.rpartition("/")[2]
    text = _get(f"{url}.CHECKSUM")
    if text is None and _get(url, method="HEAD") is None:
        raise InputError(f"there are no klines {name.removesuffix('.zip')}: {url} does not exist")
    if text is None:
        raise InputError(f"{url} has no .CHECKSUM file beside it, so it cannot be verified")
    match = re.fullmatch(r"([0-9a-f]{64})\s+\*?(\S+)\s*", text)
    if match is None or match[2] != name:
        raise InputError(f"{url}.CHECKSUM should hold a SHA-256 and the name {name}, but does not")
    return match[1]


def _get(url: str, method: str = "GET") -> str | None:
    """A short text from the network, None where it does not exist."""
    # TFDS's manager retries for minutes where no server answers; asking for the checksum first, and
    # with a timeout, tells that at once.
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            return response.read(_CHECKSUM_BYTES).decode("ascii", "replace")
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.NOT_FOUND:
            return None
        raise InputError(f"{url} answered HTTP {error.code} ({error.reason})") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{url} cannot be reached ({reason}); check network and address") from None
