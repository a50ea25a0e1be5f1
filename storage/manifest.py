"""The manifest: one JSON file in each artifact that says what it holds and how it came to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.digests import digest_json
from storage.errors import Terminal

MANIFEST = "manifest.json"
REJECTED_FILE = "rejected.parquet"


class FileEntry(BaseModel):
    """One data file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    """sha256 of the bytes."""
    size: int
    """Bytes."""
    rows: int | None = None
    """Rows of a Parquet file."""


class Counts(BaseModel):
    """How many rows went in, came out, and were put aside, by reason (a row may lose items and still come out)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows_in: int = 0
    rows_out: int = 0
    rejected: dict[str, int] = {}


class Manifest(BaseModel):
    """What an artifact holds (files), why it exists (terms, upstream) and how its making went (counts, facts)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    stage: str
    key: str
    terms: dict[str, Any]
    upstream: dict[str, list[str]]
    """Keys of the artifacts read, by table."""
    files: dict[str, FileEntry]
    schema_fingerprint: str
    counts: Counts
    facts: dict[str, Any] = {}
    """Measured numbers for people; no part of the content."""
    seconds: float
    host: str
    versions: dict[str, str]

    @property
    def content(self) -> str:
        """Digest of what stages below may read: equal content means that nothing below needs to run again.

        Rows in quarantine are for people and do not count.
        """
        return digest_json({name: entry.digest for name, entry in self.files.items() if name != REJECTED_FILE})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises `Terminal` that names the file when it is damaged or of another format."""
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        raise Terminal(f"{path}: damaged manifest ({error}); remove its folder and run again") from error
    if manifest.format != 1:
        raise Terminal(f"{path}: manifest format {manifest.format}, this version reads format 1; upgrade rlip")
    return manifest
