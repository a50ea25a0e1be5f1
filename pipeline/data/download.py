"""Downloads files over HTTP, and unpacks archives.

An interrupted download resumes, and a file gets its name once it is verified. Nothing is unpacked outside the target
folder, and what an interruption leaves counts as missing.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast
from urllib.parse import urlsplit

import httpx
from pydantic_core import from_json

from pipeline.data.catalogue import unpacking
from pipeline.data.datasets.annotations import is_inside
from storage.atomic import atomic_file, put_in_place, write_atomic
from storage.errors import FatalError, RetryableError, translate_os_errors
from storage.shards.scan import ENDS_EARLY, DamagedTar, entries_in, fault_of

ATTEMPTS = 6
"""Number of attempts in a row that may fail without a single new byte."""
MAX_PAUSE = 60.0
"""Seconds. Pauses between attempts double from one second up to this."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""
_MAY_PASS = {408, 425, 429}
Report = Callable[[int, int | None], None]
"""Receives the number of bytes that are done and their total, or None if the server does not state it."""


class _InterruptedError(Exception):
    """The connection broke or the server is busy; another attempt may resume from here."""


class _UnreachableError(Exception):
    """No connection could be made at all."""


@dataclass(frozen=True)
class _Version:
    """What identifies the content that a part belongs to, as the server stated it."""

    url: str
    validator: str | None
    """A strong ETag, else the time of the last change; None if the server states neither."""
    length: int | None
    """Bytes of the whole file."""
    sha256: str | None
    """The digest that the Hugging Face hub publishes for large files."""


def mirrored(url: str, mirror: str | None) -> str:
    """Map `https://host/path` to `MIRROR/host/path`; without a mirror, return the URL itself."""
    if not mirror:
        return url
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}{query}"


def download(
    url: str,
    path: Path,
    digest: str | None = None,
    report: Report = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download `url` to `path`. Resumes from `<path>.part` if an earlier download stopped there.

    The part is used only if the server says that the file is still the same (If-Range). `digest` is "md5:..." or
    "sha256:..."; without it, the length and, from the Hugging Face hub, the published sha256 are checked. Raises
    `FatalError` if a person must act (no such file, no network, full disk, wrong digest) and `RetryableError` if the
    server fails again and again.
    """
    with translate_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _Part.opened(path) as part:
        _fetch_all(url, part, report, sleep)
        _require_digest(url, part, digest)
        with translate_os_errors(f"writing {path}"):
            put_in_place(part.path, path)
        part.forget()


def require_digest(path: Path, digest: str) -> None:
    """Check a file against "md5:..." or "sha256:...". Raises `FatalError` if it differs; the file stays."""
    if difference := _difference(path, digest):
        raise FatalError(f"{path}: {difference}; remove it and run again")


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise `FatalError` if the disk of `folder` has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FatalError(
            f"disk full: {what} needs {needed / 2**30:.1f} GiB more in {folder}, which has {free / 2**30:.1f} GiB "
            "free; free some space or choose another folder with --root"
        )


def _fetch_all(url: str, part: _Part, report: Report, sleep: Callable[[float], None]) -> None:
    """Fetch what the part lacks, with growing pauses between attempts that fail."""
    failures, received = 0, False
    while True:
        before = part.size()
        try:
            _fetch(url, part, report)
            return
        except _UnreachableError as error:
            if not received:
                raise FatalError(
                    f"{url}: no connection to {urlsplit(url).netloc} ({error}); check the network and the proxy "
                    "settings (https_proxy), or name a mirror with --mirror or RLIP_MIRROR (docs/datasets.md)"
                ) from error
            reason = str(error)
        except _InterruptedError as error:
            reason = str(error)
        grown = part.size() > before
        received = received or grown
        failures = 1 if grown else failures + 1
        if failures == ATTEMPTS:
            raise RetryableError(
                f"{url}: gave up after {ATTEMPTS} attempts ({reason}); {part.path} keeps the partial download"
            )
        sleep(min(2.0 ** (failures - 1), MAX_PAUSE))


def _fetch(url: str, part: _Part, report: Report) -> None:
    """Request the rest of a file once and append it to the part. Raises `_InterruptedError` and `_UnreachableError`."""
    done = part.resumes_at(url)
    version = part.version
    if version is not None and done == version.length:
        return
    # A server that compressed the file would state another length and number other bytes.
    headers = {"User-Agent": "rlip", "Accept-Encoding": "identity"}
    if done and version is not None and version.validator is not None:
        headers |= {"Range": f"bytes={done}-", "If-Range": version.validator}
    with (
        _explain_network_errors(url),
        httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT) as response,
    ):
        if response.status_code == 416:
            part.restart(None)
            raise _InterruptedError("the file is shorter than the partial download; starting over")
        response.raise_for_status()
        if response.status_code != 206:
            done = 0
            part.restart(_version_of(url, response))
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.restart(None)
            raise _InterruptedError("the server sent a different range than requested")
        total = part.version.length if part.version is not None else None
        if total is not None:
            require_space(part.path.parent, total - done, url)
        report(done, total)
        for chunk in response.iter_raw():
            part.append(chunk)
            done += len(chunk)
            report(done, total)


def _version_of(url: str, response: httpx.Response) -> _Version:
    tag, length = response.headers.get("ETag"), response.headers.get("Content-Length")
    # A weak ETag promises equal meaning, not equal bytes, so that no range may rest on it (RFC 9110, 13.1.5).
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    linked = (each.headers.get("X-Linked-ETag", "").strip('"') for each in response.history)
    sha256 = next((each for each in linked if re.fullmatch(r"[0-9a-f]{64}", each)), None)
    return _Version(url, validator, None if length is None else int(length), sha256)


def _require_digest(url: str, part: _Part, digest: str | None) -> None:
    if digest is None and part.version is not None and part.version.sha256 is not None:
        digest = f"sha256:{part.version.sha256}"
    if digest is not None and (difference := _difference(part.path, digest)):
        part.discard()
        raise FatalError(
            f"{url}: the download is not the published file ({difference}); nothing was kept. Run again; if it fails "
            "again, the file changed or a proxy alters it: download it from its official page (`rlip data list`)"
        )


def _difference(path: Path, digest: str) -> str:
    """Describes how a file differs from "md5:..." or "sha256:..."; "" if it doesn't."""
    kind, _, wanted = digest.partition(":")
    with translate_os_errors(f"writing {path}"), path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    return "" if found == wanted else f"its {kind} is {found}, but {wanted} is published"


@contextmanager
def _explain_network_errors(url: str) -> Iterator[None]:
    """Turn the errors of a connection into those of this module."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        answer = f"{error.response.status_code} {error.response.reason_phrase}"
        if error.response.status_code >= 500 or error.response.status_code in _MAY_PASS:
            raise _InterruptedError(f"the server answered {answer}") from error
        what = "no such file on the server" if error.response.status_code in (404, 410) else "the server refused"
        raise FatalError(
            f"{url}: {what} ({answer}); `rlip data list` names the official page, which says where the file is now"
        ) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise FatalError(
            f"{url}: this address, or one that the server redirects to, is invalid ({error}); check --mirror and "
            "RLIP_MIRROR, or download the file from its official page (`rlip data list`)"
        ) from error
    except (httpx.ConnectError, httpx.ProxyError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FatalError(
                f"{url}: the server's certificate is not valid ({error}); check the clock and the proxy, or name the "
                "file of trusted certificates in SSL_CERT_FILE"
            ) from error
        raise _UnreachableError(str(error)) from error
    except httpx.TransportError as error:
        raise _InterruptedError(str(error) or type(error).__name__) from error


class _Part:
    """The file `<path>.part` with what arrived so far, and `<path>.part.json` with the version that it belongs to."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self._file = file
        self._about = path.with_name(f"{path.name}.part.json")
        self.version: _Version | None = None
        with suppress(OSError, ValueError, TypeError):
            self.version = _Version(**from_json(self._about.read_bytes()))

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[_Part]:
        """Open the part of `path` for this process alone. Raises `FatalError` if another process is writing it."""
        place = path.with_name(f"{path.name}.part")
        with translate_os_errors(f"writing {place}"):
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FatalError(f"{place}: another process is downloading it; wait for it to end") from None
            except OSError:
                pass  # on a file system without locks, nothing keeps two downloads of one file apart
            yield cls(path, file)

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def resumes_at(self, url: str) -> int:
        """The number of bytes that can be kept: 0 if they came from another URL or their version is unknown."""
        version = self.version
        if version is None or version.url != url or version.validator is None:
            return 0
        return self.size() if version.length is None or self.size() <= version.length else 0

    def restart(self, version: _Version | None) -> None:
        """Drop what arrived; what follows belongs to `version`."""
        with translate_os_errors(f"writing {self.path}"):
            if self.size():
                self._file.truncate(0)
            self.version = version
            if version is None:
                self._about.unlink(missing_ok=True)
            else:
                write_atomic(self._about, json.dumps(asdict(version)).encode())

    def append(self, data: bytes) -> None:
        with translate_os_errors(f"writing {self.path}"):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

    def forget(self) -> None:
        """Remove the note about the version, once the part has its final name."""
        self._about.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the part and its note."""
        self.path.unlink(missing_ok=True)
        self.forget()


_CHUNK = 1 << 20


def unpack(archive: Path, folder: Path, report: Report = lambda done, total: None) -> None:
    """Unpack a .zip or .tar.gz into `folder` and remove the archive.

    Files appear in `folder` only once all are unpacked; those that exist there under other names stay. Raises
    `FatalError` for a member that would end outside the folder, a damaged archive (which is removed) and a full disk.
    """
    aside = unpacking(archive)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with _explained(archive):
            aside.mkdir(parents=True)
            (_unpack_zip if archive.suffix == ".zip" else _unpack_tar)(archive, aside, report)
            # One call for all files: images come by the hundred thousand, and a sync of each would take hours.
            os.sync()
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    with _explained(archive):  # what is moved only in part counts as missing, as long as `aside` exists
        # A rename of the whole folder can't merge it into one that exists, so each file is moved.
        shutil.copytree(aside, folder, copy_function=os.replace, dirs_exist_ok=True)
        shutil.rmtree(aside)
    archive.unlink()


def gunzip(archive: Path, path: Path, report: Report = lambda done, total: None) -> None:
    """Decompress a .gz file to `path`, which only appears whole, and remove the archive. Raises as `unpack` does."""
    total = archive.stat().st_size
    with _explained(archive):
        require_space(archive.parent, total, f"unpacking {archive}")
        with (
            archive.open("rb") as packed,
            gzip.open(packed) as source,
            atomic_file(path) as aside,
            aside.open("wb") as target,
        ):
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                report(packed.tell(), total)
    archive.unlink()


def _unpack_zip(archive: Path, aside: Path, report: Report) -> None:
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            _require_plain(archive, member.filename, "is a link" if stat.S_ISLNK(member.external_attr >> 16) else "")
        total = sum(member.file_size for member in members)
        require_space(aside, total, f"unpacking {archive}")
        done = 0
        for member in members:
            if not member.is_dir():
                with packed.open(member) as source:
                    _write(source, aside / member.filename, member.file_size)
                done += member.file_size
                report(done, total)


def _unpack_tar(archive: Path, aside: Path, report: Report) -> None:
    total = archive.stat().st_size
    require_space(aside, total, f"unpacking {archive}")
    with archive.open("rb") as packed, gzip.open(packed) as source:
        for member in entries_in(cast(IO[bytes], source)):
            _require_plain(archive, member.name, "" if member.isdir() else fault_of(member))
            if not member.isdir():
                _write(source, aside / member.name, member.size)
                report(packed.tell(), total)


def _require_plain(archive: Path, name: str, fault: str) -> None:
    if not is_inside(name) or "\\" in name:
        fault = "would lie outside the folder"
    if fault:
        raise FatalError(
            f"{archive}: member {name!r} {fault}, so nothing was unpacked; this is not the published archive: remove "
            "it, and download it from its official page (`rlip data list`)"
        )


def _write(source: IO[bytes] | gzip.GzipFile, path: Path, size: int) -> None:
    """Writes the next `size` bytes of `source`. Raises EOFError where it has fewer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        while size:
            chunk = source.read(min(size, _CHUNK))
            if not chunk:
                raise EOFError(f"{path.name} {ENDS_EARLY}")
            target.write(chunk)
            size -= len(chunk)


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Turn errors of reading an archive, which is removed if damaged, into `FatalError`, and those of the disk."""
    try:
        with translate_os_errors(f"unpacking {archive}"):
            yield
    except (zipfile.BadZipFile, DamagedTar, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        archive.unlink(missing_ok=True)
        raise FatalError(f"{archive}: was damaged ({error}) and has been removed; run again to download it") from error
