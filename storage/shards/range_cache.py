"""Keeps ranges of remote files on this machine's disk, the most recently used up to a size. Processes may share it."""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

SWEEP_SHARE = 0.02
"""Share of the limit that a process writes between two looks at the size of the folder."""


class RangeCache:
    """A folder of files named by what they hold. A file is whole or absent; its time is that of its last use.

    The size holds up to a few percent per process: each looks at the folder on its own, after every `SWEEP_SHARE` that it wrote.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._before_sweep = 0.0
        """Bytes that this process writes before it looks at the folder again."""
        self._has_swept = False
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
            interval = self._max_bytes * SWEEP_SHARE
            self._sweep()
            # Processes that began together would otherwise all look, and in between all write, at the same time.
            self._before_sweep = interval if self._has_swept else SystemRandom().uniform(0, interval)
            self._has_swept = True

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
        return self._folder / hashlib.sha256(name.encode()).hexdigest()
