"""Downloads files over HTTP: an interrupted download resumes, and a file gets its name once it is verified."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic_core import from_json

from storage.atomic import put_in_place, write_atomic
from storage.errors import FatalError, RetryableError

ATTEMPTS = 6
"""Number of attempts in a row that may fail without a single new byte."""
MAX_PAUSE = 60.0
"""Seconds. Pauses between attempts double from one second up to this."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""
_CHUNK = 1 << 20
_MAY_PASS = {408, 425, 429}
_UNREACHABLE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
_FULL = {errno.ENOSPC, errno.EDQUOT}

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
    with _explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _Part.opened(path) as part:
        _fetch_all(url, part, report, sleep)
        _require_digest(url, part, digest)
        with _explain_disk_errors(path):
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
            raise RetryableError(f"{url}: gave up after {ATTEMPTS} attempts ({reason}); {part.path} keeps what arrived")
        sleep(min(2.0 ** (failures - 1), MAX_PAUSE))


def _fetch(url: str, part: _Part, report: Report) -> None:
    """Request the rest of a file once and append it to the part. Raises `_InterruptedError` and `_UnreachableError`."""
    start = part.resumes_at(url)
    version = part.version
    if version is not None and start == version.length:
        return
    redirects = _Redirects()
    with _explain_network_errors(url, part):
        request = Request(url, headers={"User-Agent": "rlip", "Accept-Encoding": "identity"})
        if start and version is not None and version.validator is not None:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", version.validator)
        response = build_opener(redirects).open(request, timeout=TIMEOUT)
    with response:
        if response.status != 206:
            start = 0
            part.restart(_version_of(url, response, redirects.sha256))
        elif not _continues(response.headers.get("Content-Range"), start):
            part.restart(None)
            raise _InterruptedError("the server sent another range than the one requested")
        total = part.version.length if part.version is not None else None
        if total is not None:
            require_space(part.path.parent, total - start, url)
        _copy(url, response, part, start, total, report)


def _copy(url: str, response: BinaryIO, part: _Part, done: int, total: int | None, report: Report) -> None:
    report(done, total)
    while True:
        with _explain_network_errors(url, part):
            chunk = response.read(_CHUNK)
        if not chunk:
            break
        part.append(chunk)
        done += len(chunk)
        report(done, total)
    if total is not None and done > total:
        part.restart(None)
        raise _InterruptedError(f"{done} bytes arrived where {total} were announced")
    if total is not None and done < total:
        raise _InterruptedError(f"the connection ended after {done} of {total} bytes")


def _continues(content_range: str | None, start: int) -> bool:
    return re.match(rf"bytes {start}-", content_range or "") is not None


def _version_of(url: str, response: Any, sha256: str | None) -> _Version:
    headers = response.headers
    tag, length = headers.get("ETag"), headers.get("Content-Length")
    # A weak ETag promises equal meaning, not equal bytes, so that no range may rest on it (RFC 9110, 13.1.5).
    validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    return _Version(url, validator, int(length) if re.fullmatch(r"[0-9]{1,18}", length or "") else None, sha256)


def _require_digest(url: str, part: _Part, digest: str | None) -> None:
    if digest is None and part.version is not None and part.version.sha256 is not None:
        digest = f"sha256:{part.version.sha256}"
    if digest is not None and (difference := _difference(part.path, digest)):
        part.discard()
        raise FatalError(
            f"{url}: what arrived is not the published file ({difference}); nothing was kept. Run again; if it fails "
            "again, the file changed or a proxy alters it: download it from its official page (`rlip data list`)"
        )


def _difference(path: Path, digest: str) -> str:
    """Describes how a file differs from "md5:..." or "sha256:..."; "" if it doesn't."""
    kind, _, wanted = digest.partition(":")
    with _explain_disk_errors(path), path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    return "" if found == wanted else f"its {kind} is {found}, but {wanted} is published"


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, and notes the sha256 that the Hugging Face hub states only in the redirect itself."""

    sha256: str | None = None

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        tag = str(headers.get("X-Linked-ETag") or "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", tag):
            self.sha256 = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _explain_network_errors(url: str, part: _Part) -> Iterator[None]:
    """Turn the errors of a connection into those of this module."""
    try:
        yield
    except HTTPError as error:
        if error.code == 416:
            part.restart(None)
            raise _InterruptedError("the file is shorter than what arrived of it; starting over") from error
        if error.code >= 500 or error.code in _MAY_PASS:
            raise _InterruptedError(f"the server answered {error.code} {error.reason}") from error
        what = "no such file on the server" if error.code in (404, 410) else "the server refused"
        raise FatalError(
            f"{url}: {what} ({error.code} {error.reason}); `rlip data list` names the official page, which says where "
            "the file is now"
        ) from error
    except URLError as error:
        raise _classified(url, error.reason) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise FatalError(
            f"{url}: this address, or one that the server redirects to, is invalid ({error}); check --mirror and "
            "RLIP_MIRROR, or download the file from its official page (`rlip data list`)"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _classified(url, error) from error


def _classified(url: str, reason: object) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return FatalError(
            f"{url}: the server's certificate is not valid ({reason.verify_message}); check the clock and the proxy, "
            "or name the file of trusted certificates in SSL_CERT_FILE"
        )
    unreachable = isinstance(reason, socket.gaierror) or (isinstance(reason, OSError) and reason.errno in _UNREACHABLE)
    what = (reason.strerror or str(reason) or type(reason).__name__) if isinstance(reason, OSError) else str(reason)
    return (_UnreachableError if unreachable else _InterruptedError)(what or type(reason).__name__)


@contextmanager
def _explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the disk into a `FatalError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise FatalError(f"disk full while writing {path}; free some space and run again: it resumes") from error
        raise FatalError(
            f"{path}: can't be written ({error.strerror}); change its permissions or choose another folder with --root"
        ) from error


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
        with _explain_disk_errors(place):
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
        with _explain_disk_errors(self.path):
            if self.size():
                self._file.truncate(0)
            self.version = version
            if version is None:
                self._about.unlink(missing_ok=True)
            else:
                write_atomic(self._about, json.dumps(asdict(version)).encode())

    def append(self, data: bytes) -> None:
        with _explain_disk_errors(self.path):
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
