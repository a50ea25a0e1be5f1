"""A disk that stops or fails at one chosen operation, and that loses what was never synced at a power cut."""

import os
import shutil
from pathlib import Path
from threading import Lock
from typing import Literal

from storage.disk import Disk

Stop = Literal["stop", "torn write", "power cut, names lost", "power cut, bytes lost"]
"""stop: the process dies before the operation. torn write: it dies within a write or removal, which is half done. power
cut: the machine dies too; entries of unsynced folders vanish, or files lose half their unsynced bytes."""


class Died(BaseException):
    """The process is dead: nothing that it does from now on reaches the disk."""


class NoSync(Disk):
    """A disk without syncs, since it need not outlive the test. It notes what was to be synced."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.folders: list[Path] = []

    def sync_file(self, path: Path) -> None:
        self.files.append(path)

    def sync_folder(self, path: Path) -> None:
        self.folders.append(path)


class FaultyDisk(Disk):
    """A disk whose system calls work up to number `at` (counted from 1; 0 for never), where `fault` happens.

    A fault that is a number is the errno that the call reports once; the process continues. Threads may share it. It
    notes what is synced, which need not outlive the test.
    """

    def __init__(self, root: Path, at: int, fault: Stop | int) -> None:
        self.root = root
        self.at = at
        self.fault = fault
        self.done: list[str] = []
        """Names of the calls so far."""
        self._dead = False
        self._lock = Lock()
        self._bytes: dict[int, tuple[int, int]] = {}
        self._names: dict[int, set[str]] = {}
        for path in (root, *root.rglob("*")):
            self._note(path)

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            self._do("create", path)
        return super().open(path, flags)

    def write_some(self, descriptor: int, data: bytes) -> int:
        if self._happens("write"):
            if self.fault != "stop":
                super().write_some(descriptor, data[: len(data) // 2])
            self._fail(self.root)
        return super().write_some(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._do("fsync folder" if path.is_dir() else "fsync", path)
        self._note(path)

    def rename(self, source: Path, target: Path) -> None:
        self._do("rename", target)
        super().rename(source, target)

    def mkdir(self, folder: Path) -> None:
        self._do("mkdir", folder)
        super().mkdir(folder)

    def unlink(self, path: Path) -> None:
        self._do("unlink", path)
        super().unlink(path)

    def rmtree(self, folder: Path) -> None:
        if self._happens("rmtree"):
            if self.fault != "stop":
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                for path in files[: len(files) // 2]:
                    path.unlink()
            self._fail(folder)
        super().rmtree(folder)

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
        if self._happens(name):
            self._fail(path)

    def _happens(self, name: str) -> bool:
        with self._lock:
            if self._dead:
                raise Died
            self.done.append(name)
            return len(self.done) == self.at

    def _fail(self, path: Path) -> None:
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault), str(path))
        self._dead = True
        raise Died

    def _note(self, path: Path) -> None:
        """Remember what of a file or folder is on the disk."""
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[inode] = {inside.name for inside in path.iterdir()}
        else:
            self._bytes[inode] = _state(path)

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


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip a bit of the byte at `place` of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
