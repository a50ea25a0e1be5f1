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
    """What is known of a file without reading it."""

    size: int
    """Bytes."""
    time_ns: int
    """Time of modification in ns since 1970."""
    text: str
    """Differs if the file may have changed."""
    newest_ns: int
    """Time of the last change in ns since 1970; 0 where every change alters the text."""


class ImageFolder(ABC):
    """A dataset's images by `uri`, the name relative to the folder, as annotations and tables state it."""

    is_upright = False
    """Whether images are turned as their EXIF orientation says."""

    def place(self, uri: str) -> ImageRef:
        """The file of that name, which need not exist."""
        return UprightImage(self, uri) if self.is_upright else self.stored(uri)

    def stored(self, uri: str) -> ImageRef:
        """The same file, read as its pixels are stored."""
        return StoredImage(self, uri)

    @abstractmethod
    def names(self) -> list[str]:
        """The name (`uri`) of every file in the folder and its subfolders, sorted."""

    @abstractmethod
    def read(self, uri: str, most: int) -> bytes:
        """Reads at most the first `most` bytes of a file. Raises FileNotFoundError."""

    @abstractmethod
    def state(self, uri: str) -> FileState:
        """The state of a file. Raises FileNotFoundError."""

    def fault(self) -> str:
        """Why the folder cannot be used; "" when it can."""
        return ""

    def refresh(self) -> None:  # noqa: B027 - most folders cache nothing
        """Forgets cached listings."""


class StoredImage:
    """An image file that its folder reads, because it is not on the local disk or is turned."""

    def __init__(self, folder: ImageFolder, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.name = uri.rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether the file exists."""
        try:
            self.folder.state(self.uri)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


class UprightImage(StoredImage):
    """An image that is turned as its EXIF orientation says. All others are read as their pixels are stored."""


ImageRef = Path | StoredImage
"""One image's file. Both kinds have `name` and `is_file()`."""


def read_first(place: ImageRef, most: int) -> bytes:
    """Reads at most the first `most` bytes of an image's file. Raises FileNotFoundError and other OSErrors."""
    if isinstance(place, StoredImage):
        return place.folder.read(place.uri, most)
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


def state_of(place: ImageRef) -> FileState:
    """The state that shows whether a file has changed. Raises FileNotFoundError and other OSErrors.

    For local files it includes the time of change (ctime), which cannot be set back.
    """
    if isinstance(place, UprightImage):
        state = place.folder.state(place.uri)
        return state._replace(text=f"upright {state.text}")
    if isinstance(place, StoredImage):
        return place.folder.state(place.uri)
    status = place.stat()
    text = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return FileState(status.st_size, status.st_mtime_ns, text, status.st_ctime_ns)


def uri_of(place: ImageRef, root: Path | str) -> str:
    """The name of a file relative to `root`, the folder it was found in."""
    # Tables hold no absolute paths: their digests would change whenever the data move.
    if isinstance(place, StoredImage):
        return place.uri
    return place.as_posix().removeprefix(f"{Path(root).as_posix()}/")
