"""Images in a tar without compression, read in place: nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from pipeline.data.images.refs import FileState, ImageFolder, ImagePlace, StoredImage, state_of
from storage.errors import Terminal


class TarFolder(ImageFolder):
    """The members of one tar, read in place. Its own name may stand before theirs, or be left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_as: tuple[int, int] | None = None
        self._members: dict[str, tuple[int, int, int]] = {}

    def place(self, uri: str) -> ImagePlace:
        """A member."""
        return _Member(self, uri)

    def fault(self) -> str:
        """No such file."""
        return "" if self._path.is_file() else f"no file {self._path}"

    def find(self, uri: str) -> tuple[int, int, int] | None:
        """Where a member's bytes begin, how many they are, and its time in seconds. Raises `Terminal` for a torn tar."""
        members = self._listed()
        stem = self._path.stem
        names = (uri, f"{stem}/{uri}", uri.removeprefix(f"{stem}/"))
        return next((members[name] for name in names if name in members), None)

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the tar."""
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), size, start)

    def state(self) -> FileState:
        """The tar's own."""
        return state_of(self._path)

    def _listed(self) -> dict[str, tuple[int, int, int]]:
        status = self._path.stat()
        as_it_is = (status.st_size, status.st_mtime_ns)
        if as_it_is != self._read_as:
            self._members, self._read_as = _list_tar(self._path), as_it_is
        return self._members


class _Member(StoredImage):
    def __init__(self, tar: TarFolder, uri: str) -> None:
        super().__init__(uri)
        self._tar = tar

    def read(self, most: int) -> bytes:
        start, size, _ = self._found()
        return self._tar.read(start, min(size, most))

    def is_file(self) -> bool:
        return self._tar.find(self.uri) is not None

    def size_and_time(self) -> tuple[int, int]:
        _, size, seconds = self._found()
        return size, seconds * 10**9

    def state(self) -> FileState:
        start, size, _ = self._found()
        tar = self._tar.state()
        return FileState(f"{start} {size} in {tar.text}", tar.newest_ns)

    def _found(self) -> tuple[int, int, int]:
        found = self._tar.find(self.uri)
        if found is None:
            raise FileNotFoundError(self.uri)
        return found


def _list_tar(path: Path) -> dict[str, tuple[int, int, int]]:
    """Plain files of a tar by name; links, devices and sparse files are no images. Raises `Terminal`."""
    members = {}
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                if member.isreg() and not member.issparse():
                    members[member.name.removeprefix("./")] = (member.offset_data, member.size, int(member.mtime))
                archive.members = []  # type: ignore[attr-defined] # which would hold a kilobyte a member
    except tarfile.TarError as error:
        raise Terminal(
            f"{path}: can't be read as a tar ({error}); it must be whole and without compression (gunzip it first)"
        ) from error
    return members
