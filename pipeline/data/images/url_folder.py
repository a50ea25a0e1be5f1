"""Images at an fsspec URL, such as s3://bucket/folder."""

from __future__ import annotations

from collections import OrderedDict

from pipeline.data.images.refs import FileState, ImageFolder, ImagePlace, StoredImage
from storage.errors import Terminal
from storage.remote import Entry, Remote

LISTINGS = 16
"""Folders at a URL whose listings are kept in memory."""


class UrlFolder(ImageFolder):
    """Files at a URL. What another machine's failure means, `storage.remote` says: it never becomes a missing file."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._remote: Remote | None = None
        self._listings: OrderedDict[str, dict[str, Entry]] = OrderedDict()

    def place(self, uri: str) -> ImagePlace:
        """A file there."""
        return _Remote(self, uri)

    def fault(self) -> str:
        """What keeps the URL from being read."""
        try:
            self._open().check()
        except Terminal as error:
            return str(error)
        return ""

    def refresh(self) -> None:
        """List again."""
        self._listings.clear()

    def entry(self, uri: str) -> Entry:
        """What the listing of its folder says of a file. Raises FileNotFoundError."""
        folder, _, name = uri.rpartition("/")
        if folder not in self._listings:
            self._listings[folder] = self._open().listing(folder)
            while len(self._listings) > LISTINGS:
                self._listings.popitem(last=False)
        try:
            return self._listings[folder][name]
        except KeyError:
            raise FileNotFoundError(f"{self._url}/{uri}") from None

    def read(self, uri: str, most: int) -> bytes:
        """A file, of a longer one its first `most` bytes. Raises FileNotFoundError."""
        data = self._open().read(uri, most)
        if data is None:
            raise FileNotFoundError(f"{self._url}/{uri}")
        return data

    def _open(self) -> Remote:
        if self._remote is None:
            try:
                self._remote = Remote(self._url)
            except ImportError as error:
                raise Terminal(f"{self._url}: {error}; pip install 'rlip[s3]'") from error
        return self._remote


class _Remote(StoredImage):
    def __init__(self, folder: UrlFolder, uri: str) -> None:
        super().__init__(uri)
        self._folder = folder

    def read(self, most: int) -> bytes:
        return self._folder.read(self.uri, most)

    def is_file(self) -> bool:
        try:
            self._folder.entry(self.uri)
        except FileNotFoundError:
            return False
        return True

    def size_and_time(self) -> tuple[int, int]:
        entry = self._folder.entry(self.uri)
        return entry.size, int(entry.modified * 10**9)

    def state(self) -> FileState:
        entry = self._folder.entry(self.uri)
        return FileState(f"{entry.size} {entry.token}", 0)
