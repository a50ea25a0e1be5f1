"""Reads samples out of tars by offset: local ones by pread, others by ranged requests, with a cache of limited size.

A tar is never scanned or extracted. What is read is compared with its checksum, so that damaged bytes are never used.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from random import SystemRandom
from threading import Lock

from xxhash import xxh3_128_digest

from storage.digests import digest_bytes
from storage.errors import FatalError, RetryableError
from storage.remote import Remote
from storage.shards.sample_map import MemberPlace, SampleMap

_OF_THE_FILE = (None, errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENXIO)
"""Errors of the tar itself. Others, such as too many open files, concern this machine."""
MAX_OPEN = 32
"""Local tars that a reader keeps open."""


class DamagedSample(Exception):
    """The bytes of a sample are not those that its index states, or are missing."""


class SampleReader:
    """Reads the samples of a map. It is picklable; each process opens its own files, at most `max_open` at a time."""

    def __init__(self, samples: SampleMap, cache: RangeCache | None = None, max_open: int = MAX_OPEN) -> None:
        """`cache` keeps what was read from URLs on this machine's disk.

        Raises `FatalError` for a tar that is named by neither a path nor a URL.
        """
        for tar in samples.tars:
            if tar.startswith(("pipe:", "|", "-")):
                raise FatalError(f"{tar}: a shard is a file or a URL such as s3://bucket/file.tar, never a command")
        self.samples, self._cache, self._max_open = samples, cache, max_open
        self._open: OrderedDict[int, _LocalTar | _RemoteTar] = OrderedDict()
        self._lock, self._process = Lock(), os.getpid()

    def read(self, sample: int, extensions: Sequence[str] | None = None) -> dict[str, bytes]:
        """Returns the members of a sample by extension: all, or only those named, whose bytes alone are then read.

        Raises `DamagedSample` that names the sample, and other errors for failures of this machine or the network.
        """
        wanted = [m for m in self.samples.members(sample) if extensions is None or m.extension in extensions]
        damaged = ""
        # Wrong bytes in the cache are not trusted: the tar itself is read.
        for is_cached in (True, False):
            try:
                found = self._tar(self.samples.shard(sample)).read(wanted, is_cached)
            except OSError as error:
                raise self._meaning(sample, error) from error
            damaged = next((m.extension for m in wanted if xxh3_128_digest(found[m.extension]) != m.check), "")
            if not damaged:
                return found
        size = next(m.size for m in wanted if m.extension == damaged)
        what = "ends early" if len(found[damaged]) < size else "differs from its index"
        raise DamagedSample(f"{self._name(sample)}.{damaged}: {what}")

    def _meaning(self, sample: int, error: OSError) -> Exception:
        what = f"{self._name(sample)}: {error.strerror or error}"
        if error.errno in _OF_THE_FILE:
            return DamagedSample(what)
        if error.errno in (errno.EACCES, errno.EPERM):
            return FatalError(f"{what}; make the tar readable for this user")
        return RetryableError(f"{what}; run again when this machine has room for it")

    def require_tars(self) -> None:
        """Raises `FatalError` for a local tar that is missing or ends before its last sample."""
        for number, end in enumerate(self.samples.ends):
            tar = self.samples.tars[number]
            if "://" in tar or not end:
                continue
            size = Path(tar).stat().st_size if Path(tar).is_file() else None
            if size is None or size < end:
                what = "there is no such file" if size is None else f"its index needs {end} bytes, but it has {size}"
                raise FatalError(f"{tar}: {what}; restore the tar, or rebuild its index")

    def __reduce__(self) -> tuple[type[SampleReader], tuple[SampleMap, RangeCache | None, int]]:
        return SampleReader, (self.samples, self._cache, self._max_open)

    def _tar(self, number: int) -> _LocalTar | _RemoteTar:
        if os.getpid() != self._process:  # connections and locks of a parent process can't be used after a fork
            self._open, self._lock, self._process = OrderedDict(), Lock(), os.getpid()
        with self._lock:
            tar = self._open.pop(number, None)
            if tar is None:
                where = self.samples.tars[number]
                tar = _RemoteTar(where, self._cache) if "://" in where else _LocalTar(where)
            self._open[number] = tar
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
            return tar

    def _name(self, sample: int) -> str:
        return f"{self.samples.tars[self.samples.shard(sample)]}: {self.samples.key(sample)}"


class _LocalTar:
    """An open file, which is closed when nobody reads from it any more."""

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._size = os.fstat(self._descriptor).st_size

    def read(self, members: Sequence[MemberPlace], is_cached: bool) -> dict[str, bytes]:
        """Returns the bytes of members of one sample by extension, fewer where the tar ends. Raises OSError.

        `is_cached`: bytes may come from the cache.
        """
        # An index may state any size, which must not be allocated.
        return {
            m.extension: os.pread(self._descriptor, max(0, min(m.size, self._size - m.offset)), m.offset)
            for m in members
        }

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class _RemoteTar:
    """A file at a URL. The members of a sample are contiguous, so one request fetches them."""

    def __init__(self, url: str, cache: RangeCache | None) -> None:
        self._remote, self._file = _remote_file(url)
        self._url, self._cache = url, cache

    def read(self, members: Sequence[MemberPlace], is_cached: bool) -> dict[str, bytes]:
        """Returns the same as `_LocalTar.read`."""
        if not members:
            return {}
        start, end = min(m.offset for m in members), max(m.offset + m.size for m in members)
        data = memoryview(self._range(start, end - start, is_cached))
        return {m.extension: bytes(data[m.offset - start : m.offset - start + m.size]) for m in members}

    def _range(self, start: int, size: int, is_cached: bool) -> bytes:
        name = f"{self._url} {start} {size}"
        data = self._cache.get(name) if self._cache is not None and is_cached else None
        if data is None:
            data = self._remote.read_range(self._file, start, size)
            if self._cache is not None and len(data) == size:
                self._cache.put(name, data)
        return data


def _remote_file(url: str) -> tuple[Remote, str]:
    """Returns the connection to the bucket or host of a URL, and the path there."""
    protocol, _, rest = url.partition("://")
    root, _, path = rest.partition("/") if not rest.startswith("/") else rest.rpartition("/")
    return _connection(f"{protocol}://{root}", os.getpid()), path


@lru_cache(maxsize=16)
def _connection(url: str, process: int) -> Remote:
    """A connection of one process. A forked one needs its own."""
    return Remote(url)


SWEEP_SHARE = 0.02
"""Share of the limit that a process writes between two checks of the folder's size."""


class RangeCache:
    """A folder of files named by what they hold. A file is whole or absent; its time is that of its last use.

    The limit may be exceeded by a few percent per process: each checks the folder on its own, every `SWEEP_SHARE`.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        # Random, since processes that start together would otherwise all check at the same time.
        self._before_sweep = SystemRandom().uniform(0, max_bytes * SWEEP_SHARE)
        """Bytes that this process writes before it checks the folder again."""
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> bytes | None:
        """The bytes that were put under a name, if they are still here."""
        path = self._place(name)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keeps bytes under a name. A full or read-only disk is no error, since the cache only saves work."""
        path = self._place(name)
        aside = path.with_name(f".{uuid.uuid4().hex}")
        try:
            aside.write_bytes(data)
            aside.replace(path)
        except OSError:
            with suppress(OSError):
                aside.unlink()
            return
        self._before_sweep -= len(data)
        if self._before_sweep <= 0:
            self._sweep()
            self._before_sweep = self._max_bytes * SWEEP_SHARE

    def _sweep(self) -> None:
        """Removes the files that were unused for longest, until all fit the limit."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        size = sum(each[1] for each in found)
        for _, bytes_, path in sorted(found):
            if size <= self._max_bytes * (1 - SWEEP_SHARE):
                return
            with suppress(OSError):
                Path(path).unlink()
            size -= bytes_

    def _place(self, name: str) -> Path:
        return self._folder / digest_bytes(name.encode())
