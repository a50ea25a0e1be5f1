"""Content digests: sha256 of bytes, files, folders and canonical JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, so equal values give equal bytes, even for file names that aren't UTF-8.

    Raises ValueError on NaN.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Python holds undecodable bytes of file names as lone surrogates, which strict UTF-8 refuses.
    return text.encode("utf-8", "surrogatepass")


def digest_bytes(data: bytes) -> str:
    """sha256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_path(path: Path) -> str:
    """sha256 of a file, or of the relative names and digests of the files in a folder, without hidden ones."""
    if path.is_file():
        return digest_file(path)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return digest_json({name: digest_file(path / name) for name in names if not name.startswith(".")})
