"""An object store in memory that stops or fails at a chosen operation, as S3 and the network do."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from fsspec.implementations.memory import MemoryFileSystem

T = TypeVar("T")

Fault = Literal["stop", "answer lost", "conflict"]
"""stop: the process dies within the operation. answer lost: the operation succeeds but seems to time out. conflict: S3
reports another conditional put in progress (409) for a conditional put, and 503 for any other operation."""


class Dead(BaseException):
    """The process is dead: nothing that it does from now on reaches the object store."""


class FaultyFiles(MemoryFileSystem):
    """Works normally, but `fault` happens in `times` operations from number `at` on (counted from 1; 0 for never)."""

    cachable = False

    def __init__(self, at: int = 0, fault: Fault = "stop", times: int = 1) -> None:
        super().__init__()
        self.at, self.fault, self.times = at, fault, times
        self.asked: list[str] = []

    def put_file(self, lpath: str, rpath: str, **settings: Any) -> None:
        data = Path(lpath).read_bytes()
        self._do("put_file", lambda: super(FaultyFiles, self).pipe_file(rpath, data))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **settings: Any) -> None:
        name = "create" if mode == "create" else "pipe_file"
        self._do(name, lambda: super(FaultyFiles, self).pipe_file(path, value, mode=mode))

    def cat_file(self, path: str, *given: Any, **settings: Any) -> bytes:
        return self._do("cat_file", lambda: super(FaultyFiles, self).cat_file(path, *given, **settings))

    def get_file(self, rpath: str, lpath: str, **settings: Any) -> None:
        self._do("get_file", lambda: super(FaultyFiles, self).get_file(rpath, lpath, **settings))

    def find(self, path: str, **settings: Any) -> Any:
        return self._do("find", lambda: super(FaultyFiles, self).find(path, **settings))

    def rm_file(self, path: str) -> None:
        self._do("rm_file", lambda: super(FaultyFiles, self)._rm(path))

    def _do(self, name: str, action: Callable[[], T]) -> T:
        self.asked.append(name)
        if not self.at or not self.at <= len(self.asked) < self.at + self.times:
            return action()
        if self.fault == "stop":
            self.times = 10**9
            raise Dead
        if self.fault == "answer lost":
            action()
        raise self._error(name)

    def _error(self, name: str) -> Exception:
        if self.fault == "answer lost":
            return TimeoutError("Read timeout on endpoint URL")
        if name == "create":
            return OSError(errno.EIO, "ConditionalRequestConflict")
        return OSError(errno.EBUSY, "Please reduce your request rate.")
