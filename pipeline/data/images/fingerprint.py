"""What stands for an image's content in keys and tables."""

from __future__ import annotations

import hashlib
from typing import Literal

from pipeline.data.datasets.record import ImageRecord
from pipeline.data.images.opening import BadImage, open_regular
from pipeline.data.images.refs import ImagePlace, StoredImage

MOST_READ = 2**30
"""Bytes of a file elsewhere that are read at most; no image is as long."""


def fingerprint(record: ImageRecord, by: Literal["bytes", "stat"] = "bytes", data: bytes | None = None) -> str:
    """A sha256 in hex of the file's bytes, or of its size and modification time in ns. Raises `BadImage`.

    `data` are the file's bytes where they were read already.

    "stat" costs no reading but takes a copied file for another one, and a file changed in place with its time kept
    for the same one.
    """
    try:
        if by == "stat":
            size, time_ns = _size_and_time(record.path)
            return hashlib.sha256(f"{size} {time_ns}".encode()).hexdigest()
        if data is not None:
            return hashlib.sha256(data).hexdigest()
        if isinstance(record.path, StoredImage):
            return hashlib.sha256(record.path.read(MOST_READ)).hexdigest()
        with open_regular(record.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadImage("missing file", record.path.name) from None
    except OSError as error:
        raise BadImage("unreadable file", f"{record.path.name}: {error.strerror}") from error


def _size_and_time(place: ImagePlace) -> tuple[int, int]:
    if isinstance(place, StoredImage):
        return place.size_and_time()
    status = place.stat()
    return status.st_size, status.st_mtime_ns
