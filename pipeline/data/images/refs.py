"""References to image files: a local path, or an image stored in a tar or at a URL."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class ImageFolder(ABC):
    """A data set's images by `uri`, the name relative to the folder, as annotations and tables state it."""

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
    if isinstance(place, StoredImage):
        return place.uri
    return place.as_posix().removeprefix(f"{Path(root).as_posix()}/")
