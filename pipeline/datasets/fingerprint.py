"""What stands for an image's content in keys and tables."""

from __future__ import annotations

import hashlib
from typing import Literal

from pipeline.datasets.record import ImageRecord
from pipeline.images import BadImage


def fingerprint(record: ImageRecord, by: Literal["bytes", "stat"] = "bytes") -> str:
    """A sha256 in hex of the file's bytes, or of its size and modification time in ns. Raises `BadImage`.

    "stat" costs no reading but takes a copied file for another one, and a file changed in place with its time kept
    for the same one.
    """
    try:
        if by == "stat":
            status = record.path.stat()
            return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
        with record.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadImage("missing file", record.path.name) from None
    except OSError as error:
        raise BadImage("unreadable file", f"{record.path.name}: {error.strerror}") from error
