"""An append-only file of JSON lines: appended lines are on disk, and other processes read only new ones."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from storage.disk import LOCAL, Disk
from storage.errors import FatalError, translate_os_errors

MAX_LINE = 1 << 16
"""Maximum bytes of a line, including its checksum and line break."""
_CHECKSUM = re.compile(rb', "(.{8})": "(.{8})"\}', re.DOTALL)
_CHECKSUM_SIZE = 25


class Line(NamedTuple):
    """A line of the file. `text` is None if the line can't be trusted; `fault` says why."""

    number: int
    text: bytes | None
    fault: str = ""


class NewLines(NamedTuple):
    """The lines appended since the last read."""

    lines: list[Line]
    afresh: bool
    """Whether the file was replaced or truncated, so that these are all of its lines."""
    torn: bool
    """Whether an incomplete line of a dead process follows. It is read once another line follows it."""


class LineLog:
    """Appends lines, each a JSON object, to a file and reads them, each once.

    A line ends with a checksum of what precedes it in the line, as the object's last field. A line that does not match
    it is not returned. Lines of earlier versions have none.

    A lock of the file admits one writer at a time and keeps readers out while it writes. The kernel frees the lock of a
    process that dies. The next writer ends the line that such a process left incomplete, so it doesn't spoil the next.
    """

    def __init__(self, path: Path, disk: Disk = LOCAL) -> None:
        self.path = path
        self._disk = disk
        self._inode = -1
        self._offset = 0
        self._lines = 0

    def append(self, lines: Sequence[bytes]) -> None:
        """Append objects, each one line of JSON with at least one field, in one write. They then survive power cuts.

        Raises `FatalError` for a full or unwritable disk and for a line with more than `MAX_LINE` bytes,
        `RetryableError` for a failing disk. The file then has none of the lines.
        """
        checked = [_with_checksum(line) for line in lines]
        data = b"".join(line + b"\n" for line in checked)
        if not data:
            return
        if any(len(line) >= MAX_LINE or b"\n" in line for line in checked):
            raise FatalError(
                f"{self.path}: a line has at most {MAX_LINE:,} bytes and no line break; nothing was written"
            )
        with translate_os_errors(f"writing {self.path}"):
            self._disk.make_durable(self.path.parent)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                size = os.fstat(descriptor).st_size
                # A process that died in its write left a line without an end.
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                try:
                    self._disk.append(descriptor, b"\n" + data if torn else data)
                    self._disk.sync_file(self.path)
                    # The name of a new file survives a power cut only once its folder is synced.
                    if size == 0:
                        self._disk.sync_folder(self.path.parent)
                except OSError as error:
                    with suppress(OSError):
                        # A caller whose append failed may repeat it, so none of its lines may stay.
                        os.ftruncate(descriptor, size)
                    if error.errno == errno.EFBIG:
                        raise FatalError(
                            f"{self.path} can't grow further ({error.strerror}); raise the file size limit"
                        ) from error
                    raise
            finally:
                os.close(descriptor)

    def read_new(self) -> NewLines:
        """The lines since the last call. Raises `FatalError` for a file that can't be read."""
        with translate_os_errors(f"reading {self.path}"), self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            status = os.fstat(file.fileno())
            afresh = (status.st_ino, True) != (self._inode, status.st_size >= self._offset)
            if afresh:
                self._inode, self._offset, self._lines = status.st_ino, 0, 0
            file.seek(self._offset)
            lines = list(self._whole_lines(file))
            return NewLines(lines, afresh, torn=self._offset < status.st_size)

    def _whole_lines(self, file: BinaryIO) -> Iterator[Line]:
        while piece := file.readline(MAX_LINE):
            size, too_long = len(piece), False
            while not piece.endswith(b"\n"):
                piece = file.readline(MAX_LINE)
                # The line is not finished, so it is read again with the next call.
                if not piece:
                    return
                size, too_long = size + len(piece), True
            self._offset += size
            self._lines += 1
            if too_long:
                yield Line(self._lines, None, f"longer than {MAX_LINE:,} bytes")
            elif not _is_whole(piece[:-1]):
                yield Line(self._lines, None, "changed since it was written")
            else:
                yield Line(self._lines, piece[:-1])


def _with_checksum(line: bytes) -> bytes:
    head = line.removesuffix(b"}")
    return head + b', "checksum": "%08x"}' % zlib.crc32(head)


def _is_whole(line: bytes) -> bool:
    """Whether the checksum at the end, if any, matches what precedes it. What looks like a checksum must match, too."""
    found = _CHECKSUM.fullmatch(line[-_CHECKSUM_SIZE:])
    return found is None or (found[1], found[2]) == (b"checksum", b"%08x" % zlib.crc32(line[:-_CHECKSUM_SIZE]))
