"""Lists the members of an untrusted WebDataset tar, without extracting anything."""

from __future__ import annotations

import math
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

PICKLED = frozenset({"pyd", "pickle", "pkl", "pth", "pt", "joblib", "dill"})
"""Extensions of formats that run code when they are decoded."""
_NAME = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)")
"""WebDataset's rule: the key ends at the first dot of the file name, the rest is the extension."""
_OTHER_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
"""Spaces that Python does not call printable. Japanese file names and those of macOS screenshots have them."""
MAX_NAME = 1024
MAX_HEADER = 2**20
"""Maximum bytes of all headers of an entry. One may claim that its extension is as long as the tar."""
MAX_GLOBALS = 100
"""Entries of the global headers, each of which `tarfile` applies to every member that follows."""


@dataclass(frozen=True)
class Member:
    """A plain file in a tar: its key and extension, and where its bytes are."""

    key: str
    extension: str
    offset: int
    size: int


@dataclass(frozen=True)
class Refused:
    """An entry of a tar that is refused, and why."""

    name: str
    reason: str
    damaged: bool = False
    """Whether the tar is damaged here, so that nothing behind this place is listed."""


def scan_tar(path: Path) -> Iterator[Member | Refused]:
    """Yields the entries of a tar in order. Folders, and files that are hidden or lack an extension, are in no sample.

    An entry is refused if it is a link, a device or sparse, has an absolute name or one with "..", is pickled, or has
    the name of an earlier member of its sample or the key of an earlier sample. Damage ends the listing with a refusal:
    a header that can't be read, or an entry that extends beyond the tar.
    """
    keys: set[str] = set()
    before: set[str] = set()
    key, is_repeated = "", False
    try:
        for info in entries_of(path):
            if info.isdir():
                continue
            if reason := fault_of(info):
                yield Refused(info.name, reason)
                continue
            match = _NAME.fullmatch(info.name.removeprefix("./"))
            if match is None:
                continue
            extension = match[2].lower()
            if match[1] != key:
                key, before = match[1], set()
                is_repeated = key in keys
                keys.add(key)
            if is_repeated:
                yield Refused(info.name, "has the key of an earlier sample")
            elif extension in before:
                yield Refused(info.name, "has the name of an earlier member of its sample")
            elif PICKLED.intersection(extension.split(".")):
                yield Refused(info.name, "is pickled: decoding it could run any code")
            else:
                before.add(extension)
                yield Member(key, extension, info.offset_data, info.size)
    except DamagedTar as damage:
        yield Refused(damage.name, damage.reason, damaged=True)


class DamagedTar(Exception):
    """A tar is damaged at the entry `name`, "" where its header can't be read."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.name, self.reason = name, reason


def entries_of(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yields the entries of a tar in order, from its headers alone. Raises `DamagedTar`."""
    with path.open("rb") as file:
        yield from entries_in(file, os.path.getsize(path))


def entries_in(file: IO[bytes], size: float = math.inf) -> Iterator[tarfile.TarInfo]:
    """Like `entries_of`, for an open tar of `size` bytes, from which an entry may be read before the next one."""
    try:
        # "r:" refuses compressed tars, whose members can't be read by offset.
        with tarfile.open(fileobj=cast(IO[bytes], headers := _Headers(file)), mode="r:") as tar:
            # Not every type states its bytes in `size`, but the next entry must come later, or this never ends.
            while (info := tar.next()) is not None and info.size >= 0 and tar.offset > info.offset:
                headers.begin()
                tar.members = []  # type: ignore[attr-defined] # saves a kilobyte of memory per member
                if len(tar.pax_headers) > MAX_GLOBALS:
                    raise tarfile.ReadError(f"a global header of {len(tar.pax_headers)} entries")
                if info.isreg() and not info.issparse() and info.offset_data + info.size > size:
                    raise DamagedTar(info.name, ENDS_EARLY)
                yield info
            # Past the first header, `tarfile` takes one that it can't read for the end, which is zeros or no bytes.
            if info is not None or headers.last.strip(b"\0"):
                raise tarfile.ReadError("a header can't be read")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise DamagedTar("", f"the tar is damaged: {error}") from error


ENDS_EARLY = "extends beyond the tar"


class _Headers:
    """A tar of which only headers are read, so that a huge stated size or an endless file takes no memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._asked = 0
        self.last = b""  # what was read last

    def begin(self) -> None:
        """Counts what is read from here on towards the next entry."""
        self._asked = 0

    def read(self, size: int) -> bytes:
        """Reads bytes. Raises `tarfile.ReadError` when one entry asks for more than `MAX_HEADER`."""
        self._asked += size
        if self._asked > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self._asked} bytes or more")
        self.last = self._file.read(size)
        return self.last

    def seek(self, place: int) -> int:
        """Moves to a place in the tar."""
        return self._file.seek(place)

    def tell(self) -> int:
        """The place in the tar."""
        return self._file.tell()


def fault_of(info: tarfile.TarInfo) -> str:
    """Why an entry is refused; "" when it is a plain file."""
    if info.issym() or info.islnk():
        return f"is a link to {info.linkname!r}"
    if info.issparse():
        return "is a sparse file"
    if not info.isreg():
        return "is a device or pipe"
    if not math.isfinite(info.mtime):
        return "has a time that is not a number"
    if len(info.name) > MAX_NAME:
        return f"has a name of more than {MAX_NAME} characters"
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts:
        return "has a name that leads out of its folder"
    if not _OTHER_SPACE.sub(" ", info.name).isprintable():
        return "has a name that can't be printed"
    return ""
