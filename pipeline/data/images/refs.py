"""References to image files: local paths, and images stored in a tar or at a URL."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """State of a file that shows, without reading it, whether the file has changed."""

    text: str
    """Differs if the file may have changed."""
    newest_ns: int
    """Time of the last change in ns since 1970; 0 where every change alters the text."""


class StoredImage(ABC):
    """An image file that is not on the local disk. Reading raises FileNotFoundError if it does not exist."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.name = uri.rpartition("/")[2]

    @abstractmethod
    def read(self, most: int) -> bytes:
        """Reads at most the first `most` bytes of the file."""

    @abstractmethod
    def is_file(self) -> bool:
        """Whether the file exists."""

    @abstractmethod
    def size_and_time(self) -> tuple[int, int]:
        """Size in bytes, and modification time in ns since 1970."""

    @abstractmethod
    def state(self) -> FileState:
        """The state that shows whether the file has changed."""


ImageRef = Path | StoredImage
"""One image's file. Both kinds have `name` and `is_file()`."""


class UprightImage(StoredImage):
    """An image that is turned as its EXIF orientation says. All others are read as their pixels are stored."""

    def __init__(self, uri: str, stored: ImageRef) -> None:
        super().__init__(uri)
        self._stored = stored

    def read(self, most: int) -> bytes:
        """Reads at most the first `most` bytes of the file, as they are stored."""
        return read_first(self._stored, most)

    def is_file(self) -> bool:
        """Whether the file exists."""
        return self._stored.is_file()

    def size_and_time(self) -> tuple[int, int]:
        """Size in bytes, and modification time in ns since 1970."""
        return size_and_time(self._stored)

    def state(self) -> FileState:
        """The state of the file, which differs from that of the same file when it is not turned."""
        state = state_of(self._stored)
        return state._replace(text=f"upright {state.text}")


class ImageFolder(ABC):
    """A dataset's images by `uri`, the name relative to the folder, as annotations and tables state it."""

    @abstractmethod
    def place(self, uri: str) -> ImageRef:
        """The file of that name, which need not exist."""

    @abstractmethod
    def names(self) -> list[str]:
        """The name (`uri`) of every file in the folder and its subfolders, sorted."""

    def fault(self) -> str:
        """Why the folder cannot be used; "" when it can."""
        return ""

    def refresh(self) -> None:  # noqa: B027 - most folders cache nothing
        """Forgets cached listings."""


def read_first(place: ImageRef, most: int) -> bytes:
    """Reads at most the first `most` bytes of an image's file. Raises FileNotFoundError and other OSErrors."""
    if isinstance(place, StoredImage):
        return place.read(most)
    with _open_regular(place) as file:
        # read() allocates as much memory as it is asked for.
        return file.read(min(os.fstat(file.fileno()).st_size, most))


def _open_regular(path: Path) -> BufferedReader:
    """Opens a regular file for reading. Pipes, which could block forever, folders and devices raise an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def size_and_time(place: ImageRef) -> tuple[int, int]:
    """Size of an image's file in bytes, and its modification time in ns since 1970. Raises OSErrors."""
    if isinstance(place, StoredImage):
        return place.size_and_time()
    status = place.stat()
    return status.st_size, status.st_mtime_ns


def state_of(place: ImageRef) -> FileState:
    """The state that shows whether a file has changed. Raises FileNotFoundError and other OSErrors.

    For local files it includes the time of change (ctime), which cannot be set back.
    """
    if isinstance(place, StoredImage):
        return place.state()
    status = place.stat()
    text = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return FileState(text, status.st_ctime_ns)


def uri_of(place: ImageRef, root: Path | str) -> str:
    """The name of a file relative to `root`, the folder it was found in."""
    # Tables hold no absolute paths: their digests would change whenever the data move.
    if isinstance(place, StoredImage):
        return place.uri
    return place.as_posix().removeprefix(f"{Path(root).as_posix()}/")
