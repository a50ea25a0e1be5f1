"""An image's file, wherever it lies: a path of this machine, or something that is read in another way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """What tells, without reading it, whether a file is as it was."""

    text: str
    """Another text means that the file may have changed."""
    newest_ns: int
    """When it last changed, in ns since 1970; 0 where nothing can change unseen."""


class StoredImage(ABC):
    """An image's file that is no file of the local disk. Reading raises FileNotFoundError where there is none."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.name = uri.rpartition("/")[2]

    @abstractmethod
    def read(self, most: int) -> bytes:
        """The file's bytes, of a longer one its first `most`."""

    @abstractmethod
    def is_file(self) -> bool:
        """Whether it is there."""

    @abstractmethod
    def size_and_time(self) -> tuple[int, int]:
        """Bytes, and when it was written in ns since 1970."""

    @abstractmethod
    def state(self) -> FileState:
        """What tells whether it is as it was."""


ImageRef = Path | StoredImage
"""One image's file. Both kinds have `name` and `is_file()`."""


class ImageFolder(ABC):
    """A data set's images by `uri`, the name relative to the folder, as annotations and tables state it."""

    @abstractmethod
    def place(self, uri: str) -> ImageRef:
        """The file of that name, which need not be there."""

    def fault(self) -> str:
        """Why the folder can't be used; "" when it can."""
        return ""

    def refresh(self) -> None:  # noqa: B027 - most folders remember nothing
        """Forget what was listed."""


def state_of(place: ImageRef) -> FileState:
    """What tells whether a file is as it was. Raises FileNotFoundError and other OSErrors.

    Of local files the time of change (ctime) is part of it, which nobody can set back.
    """
    if isinstance(place, StoredImage):
        return place.state()
    status = place.stat()
    text = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return FileState(text, status.st_ctime_ns)


def uri_of(place: ImageRef, root: Path | str) -> str:
    """The name of a file relative to the folder that it was found in."""
    if isinstance(place, StoredImage):
        return place.uri
    return place.as_posix().removeprefix(f"{Path(root).as_posix()}/")
