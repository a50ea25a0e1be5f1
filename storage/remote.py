"""Files at an fsspec URL. Each operation retries what may pass; each error is a `FatalError` or a `RetryableError`."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from storage.errors import FatalError, PipelineError, RetryableError, translate_os_errors
from storage.secrets import redacted, require_no_secret

T = TypeVar("T")

PAUSES = (0.2, 1.0, 4.0)
"""Seconds between tries, each randomised by half so that workers do not all retry at once."""

_S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"total_max_attempts": 1}},
    "skip_instance_cache": True,
}
"""Leaves retries to us alone, and uses the endpoint and credentials that the environment names now."""
_OF_THE_WRITER = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_CHUNK = 2**20
_AT_ONCE = 512
"""Number of small files requested together."""


@dataclass(frozen=True)
class Entry:
    """A file as reported by a listing."""

    size: int
    """Bytes."""
    token: str
    """Changes when the file is rewritten."""
    modified: float
    """Unix time, by the remote clock."""


class Remote:
    """Files under a URL, named by relative paths. On S3 a file appears whole or not at all, as the last writer put it.

    Raises `FatalError` for an unusable address or credentials, and `RetryableError` when all retries have failed.
    """

    def __init__(
        self, url: str, filesystem: fsspec.AbstractFileSystem | None = None, pauses: Sequence[float] = PAUSES
    ) -> None:
        require_no_secret(url)
        self.url = url.rstrip("/")
        if not self.url or self.url.endswith(":"):
            raise FatalError(
                f"{url!r} is not a complete address; name a folder, or a bucket and a folder in it, e.g. "
                "s3://bucket/folder"
            )
        self._pauses = pauses
        protocol = self.url.partition("://")[0]
        self._is_s3 = protocol in ("s3", "s3a")
        try:
            with translate_remote_errors(self.url):
                found, root = fsspec.core.url_to_fs(self.url, **(_S3_OPTIONS if self._is_s3 else {}))
        except (FileNotFoundError, TypeError) as error:  # a TypeError where a protocol needs more than an address
            raise FatalError(f"{self.url}: {error}") from error
        self._files: fsspec.AbstractFileSystem = filesystem or found
        if self._is_s3:
            # s3fs retries by itself, on top of botocore.
            self._files.retries = 1
        self._root = root.rstrip("/")

    @property
    def renames(self) -> bool:
        """Whether files are on a disk, where a rename makes a file appear at once."""
        return "file" in self._files.protocol

    def check(self) -> None:
        """Check that the URL can be reached. Raises `FatalError` for a bucket that does not exist."""
        bucket = self._root.partition("/")[0]
        try:
            self._do(lambda: self._files.call_s3("head_bucket", Bucket=bucket) if self._is_s3 else None)
        except FileNotFoundError as error:
            raise FatalError(
                f"{self.url}: there is no bucket {bucket!r}; create it (aws s3 mb s3://{bucket}) or name another"
            ) from error

    def listing(self, folder: str) -> dict[str, Entry]:
        """Every file below a folder, by its path relative to the folder, from one listing."""

        def ask() -> Mapping[str, Mapping[str, Any]]:
            # fsspec remembers listings, but other machines write here, too.
            self._files.invalidate_cache()
            with suppress(FileNotFoundError):
                found: Mapping[str, Mapping[str, Any]] = self._files.find(self._path(folder), detail=True)
                return found
            return {}

        start = self._path(folder)
        # s3fs lists the folder itself if its first file appears during the listing.
        found = {path: info for path, info in self._do(ask).items() if info["type"] != "directory"}
        return {posixpath.relpath(path, start): _entry(info) for path, info in found.items()}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""

        def ask() -> list[Mapping[str, Any]]:
            self._files.invalidate_cache()
            with suppress(FileNotFoundError):
                return list(self._files.ls(self._path(folder), detail=True))
            return []

        found = self._do(ask)
        return sorted(posixpath.basename(i["name"].rstrip("/")) for i in found if i["type"] == "directory")

    def read(self, path: str, most: int | None = None) -> bytes | None:
        """Bytes of a small file, or its first `most` bytes; None where there is no file."""

        def ask() -> bytes:
            try:
                return bytes(self._files.cat_file(self._path(path), end=most))
            except OSError as error:
                if most is None or error.errno != errno.EINVAL:
                    raise
                return bytes(self._files.cat_file(self._path(path)))  # S3 rejects a range of an empty file

        return self._found(ask)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """Bytes of a file from `start` on, fewer where it ends. Raises FileNotFoundError where there is none.

        Raises `FatalError` when the server sends more than it was asked for.
        """

        def ask() -> bytes:
            try:
                return bytes(self._files.cat_file(self._path(path), start=start, end=start + size))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return b""  # S3 rejects a range beyond the end

        data = self._do(ask) if size else b""
        if len(data) > size:
            raise FatalError(
                f"{self.url}: the server ignores range requests; copy the tars to this machine, or use a server that "
                "supports them"
            )
        return data

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Path → bytes of small files, many requested at once, without missing files."""
        wanted, found = list(paths), {}
        for start in range(0, len(wanted), _AT_ONCE):
            chunk = {self._path(path): path for path in wanted[start : start + _AT_ONCE]}
            for full, data in self._do(lambda chunk=chunk: self._cat(list(chunk))).items():  # type: ignore[misc]
                found[chunk[full]] = data
        return found

    def write(self, path: str, data: bytes) -> None:
        """Write a small file, or replace it."""
        self._do(lambda: self._put(path, data, "overwrite"))

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file unless one exists. Returns whether this call wrote it, even by a try that seemed to fail.

        On S3 the put carries If-None-Match: of two writers one wins.
        """
        try:
            self._do(lambda: self._put(path, data, "create"))
        except FileExistsError:
            return self.read(path) == data
        return True

    def upload(self, local: Path, path: str) -> None:
        """Copy a local file to `path`."""

        def put() -> None:
            self._make_room(self._path(path))
            self._files.put_file(str(local), self._path(path))

        self._do(put)

    def download(self, path: str, local: Path) -> None:
        """Copy `path` to a local file. Raises FileNotFoundError where there is none."""

        def get() -> None:
            try:
                self._files.get_file(self._path(path), str(local))
            except OSError as error:
                if error.errno not in _OF_THE_WRITER:
                    raise
                # The source is only read, so it is this machine's disk that is full or read-only.
                with translate_os_errors(f"copying {self.url}/{path} to {local}"):
                    raise

        self._do(get)

    def digest(self, path: str) -> tuple[int, str] | None:
        """Size and sha256 of a file's bytes, read again; None where there is none."""

        def ask() -> tuple[int, str]:
            digest, size = hashlib.sha256(), 0
            with self._files.open(self._path(path), "rb", block_size=8 * _CHUNK) as file:
                while data := file.read(_CHUNK):
                    digest.update(data)
                    size += len(data)
            return size, digest.hexdigest()

        return self._found(ask)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files in the given order. A missing file is not an error."""
        for path in paths:
            with suppress(FileNotFoundError):
                self._do(lambda path=path: self._files.rm_file(self._path(path)))  # type: ignore[misc]

    def _cat(self, paths: list[str]) -> dict[str, bytes]:
        # With "omit", a failed request would pass for a missing file.
        found = self._files.cat(paths, on_error="return")
        for data in found.values():
            if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                raise data
        return {path: data for path, data in found.items() if isinstance(data, bytes)}

    def _put(self, path: str, data: bytes, mode: str) -> None:
        full = self._path(path)
        self._make_room(full)
        if self.renames:
            aside = f"{full}.{uuid.uuid4().hex[:8]}.new"
            self._files.pipe_file(aside, data)
            if mode == "create":
                self._link(aside, full)
            else:
                self._files.mv(aside, full)
        else:
            self._files.pipe_file(full, data, mode=mode)

    def _link(self, aside: str, full: str) -> None:
        """Gives a file its name, unless one exists. Where a disk has no links, two writers may both believe so."""
        try:
            os.link(aside, full)  # unlike a rename, a link replaces no file
        except OSError as error:
            if isinstance(error, FileExistsError) or Path(full).exists():
                Path(aside).unlink()
                raise FileExistsError(full) from error
            self._files.mv(aside, full)
        else:
            Path(aside).unlink()

    def _make_room(self, full: str) -> None:
        """Make the folder of a file. Not on S3: it has no folders, and the call would create a missing bucket."""
        if not self._is_s3:
            self._files.makedirs(posixpath.dirname(full), exist_ok=True)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _found(self, ask: Callable[[], T]) -> T | None:
        with suppress(FileNotFoundError):
            return self._do(ask)
        return None

    def _do(self, action: Callable[[], T]) -> T:
        def once() -> T:
            with translate_remote_errors(self.url):
                return action()

        return retry(once, self._pauses)


def _entry(info: Mapping[str, Any]) -> Entry:
    modified = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    return Entry(info["size"], str(info.get("ETag") or seconds), seconds)


_FULL = {errno.ENOSPC, errno.EDQUOT}
_LASTING = {
    errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOTEMPTY,
    errno.ENOTDIR, errno.EISDIR, getattr(errno, "EREMCHG", errno.ENOENT),
}  # fmt: skip
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_SILENT = {"HTTPClientError", "ConnectionError", "ClientError"}
"""Classes of botocore and aiohttp for missing or bad answers, by name since the packages may not be installed."""


def retry(action: Callable[[], T], pauses: Sequence[float] = PAUSES) -> T:
    """Call `action`, and again after each pause while it raises `RetryableError`. It must be harmless to repeat."""
    for pause in pauses:
        try:
            return action()
        except RetryableError:
            time.sleep(pause * random.uniform(0.5, 1.5))
    return action()


@contextmanager
def translate_remote_errors(url: str) -> Iterator[None]:
    """Turn errors of fsspec libraries, except FileNotFoundError and FileExistsError, into ours."""
    try:
        yield
    except (PipelineError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        meaning = _meaning(error, url)
        if meaning is None:
            raise
        raise meaning from error


def _meaning(error: Exception, url: str) -> PipelineError | None:
    """`FatalError`, `RetryableError`, or None for an error that is unrelated to the remote side."""
    names = {kind.__name__ for kind in type(error).__mro__}
    detail = f"{type(error).__name__}: {error}"
    if names & _NO_CREDENTIALS:
        return FatalError(f"{url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return FatalError(f"{url}: not allowed ({error}); check the credentials and their permissions")
    if isinstance(error, OSError) and error.errno in _FULL:
        return FatalError(f"{url}: disk full ({error}); free space and run again: nothing is lost")
    if isinstance(error, OSError) and error.errno in _LASTING:
        return FatalError(f"{url}: refused ({detail})")
    if isinstance(error, OSError | TimeoutError):
        return RetryableError(_unreached(url, detail))
    if isinstance(error, ImportError):
        return FatalError(f"{url}: {error}; for S3: pip install 'rlip[s3]'")
    if isinstance(error, ValueError | NotImplementedError):
        return FatalError(f"{url}: {str(error) or 'not a store'}; name a folder, s3://bucket/folder or another address")
    if type(error).__module__.startswith(("botocore", "aiohttp")):
        return RetryableError(_unreached(url, detail)) if names & _SILENT else FatalError(f"{url}: {detail}")
    return None


def _unreached(url: str, detail: str) -> str:
    source = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    hint = (
        f"; the endpoint is {redacted(os.environ[source])}, set by {source}" if source and url.startswith("s3") else ""
    )
    return f"{url} can't be reached ({detail}{hint})"
