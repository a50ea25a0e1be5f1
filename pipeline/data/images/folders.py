"""From where a data set says that its images lie to the files: a local folder, tars, or a URL."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator

from pipeline.data.images.refs import ImageFolder, ImagePlace
from pipeline.data.images.tar_folder import TarFolder
from pipeline.data.images.url_folder import UrlFolder


def _root(value: Any) -> Path | str:
    if isinstance(value, str | Path):
        return value if isinstance(value, str) and "://" in value else Path(value)
    raise ValueError("a folder, a .tar file, or a URL that fsspec knows")


ImageRoot = Annotated[Path | str, PlainValidator(_root)]
"""A folder (whose subfolders may be tars of their names), a `.tar` file, or a URL such as s3://bucket/folder."""


class LocalFolder(ImageFolder):
    """A folder of the disk; what would lie in a subfolder that isn't there may lie in a tar of its name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tars: dict[str, TarFolder | None] = {}

    def place(self, uri: str) -> ImagePlace:
        """The file, or the member of the tar that stands for its folder."""
        first, slash, _ = uri.partition("/")
        if slash:
            if first not in self._tars:
                archive = self._root / f"{first}.tar"
                packed = not (self._root / first).is_dir() and archive.is_file()
                self._tars[first] = TarFolder(archive) if packed else None
            tar = self._tars[first]
            if tar is not None:
                return tar.place(uri)
        return self._root / uri

    def fault(self) -> str:
        """No such folder."""
        return "" if self._root.is_dir() else f"no folder {self._root}"

    def refresh(self) -> None:
        """Look for tars again."""
        self._tars.clear()


@lru_cache(maxsize=64)
def open_folder(root: Path | str) -> ImageFolder:
    """The folder of images at a root; one a process, so that listings are shared."""
    if isinstance(root, str) and "://" in root:
        return UrlFolder(root)
    return TarFolder(Path(root)) if Path(root).suffix == ".tar" else LocalFolder(Path(root))
