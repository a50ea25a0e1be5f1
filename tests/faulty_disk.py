"""A disk that stops or fails at one chosen operation, and that loses what was never synced at a power cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from storage.disk import Disk

Stop = Literal["stop", "torn write", "power cut, names lost", "power cut, bytes lost"]
"""stop: the process dies before the operation. torn write: it dies within a write, with half the bytes written. power cut:
the machine dies too; entries of folders that were not synced vanish, or files lose half the bytes that were not synced."""


class Died(BaseException):
    """The process is dead: nothing that it does from now on reaches the disk."""


class FaultyDisk(Disk):
    """Works normally up to operation number `at` (counted from 1; 0 for never), where `fault` happens.

    A fault that is a number is the errno that the operation reports once; the process continues.
    """

    def __init__(self, root: Path, at: int, fault: Stop | int) -> None:
        self.root = root
        self.at = at
        self.fault = fault
        self.done: list[str] = []
        self._dead = False
        self._bytes: dict[int, tuple[int, int]] = {}
        self._names: dict[int, set[str]] = {}
        for path in (root, *root.rglob("*")):
            (self._note_names if path.is_dir() else self._note_bytes)(path)

    def write(self, path: Path, data: bytes) -> None:
        if self._happens("write", path):
            if self.fault != "stop":
                path.write_bytes(data[: len(data) // 2])
            self._fail(path)
        path.write_bytes(data)

    def append(self, descriptor: int, data: bytes) -> None:
        if self._happens("append", self.root):
            if self.fault != "stop":
                super().append(descriptor, data[: len(data) // 2])
            self._fail(self.root)
        super().append(descriptor, data)

    def sync_file(self, path: Path) -> None:
        self._do("sync_file", path)
        self._note_bytes(path)

    def sync_folder(self, path: Path) -> None:
        self._do("sync_folder", path)
        self._note_names(path)

    def sync_all(self, files: Sequence[Path], folder: Path) -> None:
        for path in files:
            self.sync_file(path)
        self.sync_folder(folder)

    def rename(self, source: Path, target: Path) -> None:
        self._do("rename", target)
        super().rename(source, target)

    def make(self, folder: Path) -> None:
        self._do("make", folder)
        super().make(folder)

    def remove(self, path: Path) -> None:
        if self._may_remove("remove", path):
            super().remove(path)

    def remove_tree(self, folder: Path) -> None:
        if self._may_remove("remove_tree", folder):
            super().remove_tree(folder)

    def cut_power(self) -> None:
        """Reduce the disk to what survives a power cut."""
        if self.fault == "power cut, names lost":
            self._lose_names(self.root)
        elif self.fault == "power cut, bytes lost":
            for path in [p for p in self.root.rglob("*") if p.is_file()]:
                synced = self._bytes.get(path.stat().st_ino, (0, 0))
                if synced != _state(path):
                    os.truncate(path, (synced[0] + path.stat().st_size) // 2)

    def _do(self, name: str, path: Path) -> None:
        if self._happens(name, path):
            self._fail(path)

    def _may_remove(self, name: str, path: Path) -> bool:
        """Whether to remove `path`. On an errno fault the path stays, and no error is raised."""
        happens = self._happens(name, path)
        if happens and not isinstance(self.fault, int):
            self._fail(path)
        return not happens

    def _happens(self, name: str, path: Path) -> bool:
        if self._dead:
            raise Died
        self.done.append(name)
        return len(self.done) == self.at

    def _fail(self, path: Path) -> None:
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault), str(path))
        self._dead = True
        raise Died

    def _note_bytes(self, path: Path) -> None:
        self._bytes[path.stat().st_ino] = _state(path)

    def _note_names(self, folder: Path) -> None:
        self._names[folder.stat().st_ino] = {path.name for path in folder.iterdir()}

    def _lose_names(self, folder: Path) -> None:
        known = self._names.get(folder.stat().st_ino, set())
        for path in list(folder.iterdir()):
            if path.name not in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif path.is_dir():
                self._lose_names(path)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
