"""Resolves the images of a dataset to files in a local folder, in tars, or at a URL."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from pydantic import PlainValidator

from pipeline.data.images.refs import FileState, ImageFolder, ImageRef, StoredImage, read_first, state_of
from storage.errors import FatalError, translate_os_errors
from storage.local_store import is_store
from storage.shards.scan import DamagedTar, entries_of, fault_of

if TYPE_CHECKING:
    from storage.remote import Remote


def _root(value: Any) -> Path | str:
    if isinstance(value, str | Path):
        return value if isinstance(value, str) and "://" in value else Path(value)
    raise ValueError(f"{value!r} is not a folder, a .tar file, or a URL that fsspec supports; set one of these")


ImageRoot = Annotated[Path | str, PlainValidator(_root)]
"""A folder (with subfolders or tars named after them), a `.tar` file, or a URL such as s3://bucket/folder."""


class UprightRoot(str):
    """The root of images read upright, as their EXIF orientation says: no annotation states boxes in raw pixels.

    The root says so: a column in `images` tables would change their bytes, and everything below would be recomputed.
    """


class LocalFolder(ImageFolder):
    """A local folder. A tar may replace the subfolder of its name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tars: dict[str, TarFolder | None] = {}

    def stored(self, uri: str) -> ImageRef:
        """The file, or the member of the tar that replaces its folder."""
        first, slash, _ = uri.partition("/")
        if slash:
            if first not in self._tars:
                archive = self._root / f"{first}.tar"
                packed = not (self._root / first).is_dir() and archive.is_file()
                self._tars[first] = TarFolder(archive) if packed else None
            tar = self._tars[first]
            if tar is not None:
                return tar.stored(uri)
        return self._root / uri

    def names(self) -> list[str]:
        """Every file below the folder and folders that it links to, except hidden ones and those of a store, whose
        reports contain images too. Tars in it count as files.

        Raises `FatalError` or `RetryableError` for a subfolder that can't be listed.
        """
        found = []
        for folder, inner, files in os.walk(self._root, onerror=_refuse, followlinks=True):
            here = Path(folder)
            if here != self._root and is_store(here):
                inner.clear()
                continue
            inner[:] = [name for name in inner if not name.startswith(".") and not _leads_back(here / name)]
            found += [(here / name).relative_to(self._root).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)

    def read(self, uri: str, most: int) -> bytes:
        return read_first(self.stored(uri), most)

    def state(self, uri: str) -> FileState:
        """The state of a file."""
        return state_of(self.stored(uri))

    def fault(self) -> str:
        if self._root.is_file():
            return f"{self._root} is a file; name a folder, or an uncompressed .tar"
        return "" if self._root.is_dir() else f"no folder {self._root}"

    def refresh(self) -> None:
        """Forgets which subfolders are tars."""
        self._tars.clear()


def _refuse(error: OSError) -> NoReturn:
    with translate_os_errors("listing images"):
        raise error


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and any(folder.samefile(outer) for outer in folder.parents)


def locate_image(folders: Mapping[str, Path | str], row: Mapping[str, Any]) -> ImageRef:
    """Locates the image file of a row of the `images` table. `folders` maps each dataset to its images root."""
    uri: str = row["uri"]
    if uri.startswith("/") or ".." in PurePosixPath(uri).parts:
        return StoredImage(_Nowhere(), uri)
    return open_folder(folders[row["dataset"]]).place(uri)


class _Nowhere(ImageFolder):
    """Holds the images whose names lead out of their folder: all are missing. Tables may come from elsewhere."""

    def names(self) -> list[str]:
        return []

    def read(self, uri: str, most: int) -> bytes:
        raise FileNotFoundError(uri)

    def state(self, uri: str) -> FileState:
        raise FileNotFoundError(uri)


@lru_cache(maxsize=64, typed=True)
def open_folder(root: Path | str) -> ImageFolder:
    """Opens the folder of images at a root, once per process so that listings are shared."""
    is_url, is_tar = isinstance(root, str) and "://" in root, Path(root).suffix == ".tar"
    folder = UrlFolder(str(root)) if is_url else TarFolder(Path(root)) if is_tar else LocalFolder(Path(root))
    folder.is_upright = isinstance(root, UprightRoot)
    return folder


class TarFolder(ImageFolder):
    """The members of one tar, read in place. Member names may start with the name of the tar or omit it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_as: tuple[int, int] | None = None
        self._members: dict[str, tuple[int, int, int]] = {}

    def names(self) -> list[str]:
        """Every plain file in the tar. Raises `FatalError` for a damaged tar."""
        return sorted(self._listed())

    def fault(self) -> str:
        return "" if self._path.is_file() else f"no file {self._path}"

    def read(self, uri: str, most: int) -> bytes:
        """Reads the beginning of a member. Raises `FatalError` for a damaged tar."""
        start, size, _ = self._find(uri)
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), min(size, most), start)

    def state(self, uri: str) -> FileState:
        """The state of a member and of the tar itself. Raises `FatalError` for a damaged tar."""
        start, size, seconds = self._find(uri)
        tar = state_of(self._path)
        return FileState(size, seconds * 10**9, f"{start} {size} in {tar.text}", tar.newest_ns)

    def _find(self, uri: str) -> tuple[int, int, int]:
        """Offset and size in bytes of a member, and its time in seconds."""
        members, stem = self._listed(), self._path.stem
        for name in (uri, f"{stem}/{uri}", uri.removeprefix(f"{stem}/")):
            if name in members:
                return members[name]
        raise FileNotFoundError(uri)

    def _listed(self) -> dict[str, tuple[int, int, int]]:
        status = self._path.stat()
        current = (status.st_size, status.st_mtime_ns)
        if current != self._read_as:
            self._members, self._read_as = _list_tar(self._path), current
        return self._members


def _list_tar(path: Path) -> dict[str, tuple[int, int, int]]:
    """Lists the plain files of a tar by name; links, devices and sparse files are skipped. Raises `FatalError`."""
    members = {}
    try:
        for member in entries_of(path):
            if not fault_of(member):
                members[member.name.removeprefix("./")] = (member.offset_data, member.size, int(member.mtime))
    except DamagedTar as error:
        raise FatalError(
            f"{path}: can't be read as a tar ({error}); it must be complete and uncompressed (gunzip it first)"
        ) from error
    return members


LISTINGS = 1024
"""Number of folders at a URL whose listings are cached in memory, at 400 bytes a file: the images of Objects365
alternate between 51 folders."""


class UrlFolder(ImageFolder):
    """Files at a URL. `storage.remote` classifies remote failures, so that none is mistaken for a missing file."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._listing = lru_cache(LISTINGS)(lambda folder: self._remote.listing(folder))

    def names(self) -> list[str]:
        return sorted(self._remote.listing(""))

    def read(self, uri: str, most: int) -> bytes:
        data = self._remote.read(uri, most)
        if data is None:
            raise FileNotFoundError(f"{self._url}/{uri}")
        return data

    def state(self, uri: str) -> FileState:
        """The state of a file, by the listing of its folder."""
        folder, _, name = uri.rpartition("/")
        entry = self._listing(folder).get(name)
        if entry is None:
            raise FileNotFoundError(f"{self._url}/{uri}")
        return FileState(entry.size, int(entry.modified * 10**9), f"{entry.size} {entry.token}", 0)

    def fault(self) -> str:
        try:
            self._remote.check()
        except FatalError as error:
            return str(error)
        return ""

    def refresh(self) -> None:
        self._listing.cache_clear()

    @cached_property
    def _remote(self) -> Remote:
        from storage.remote import Remote  # with fsspec, which local folders do without

        return Remote(self._url)
