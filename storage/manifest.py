"""The manifest: one JSON file in each artifact that says what it holds and how it was made."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from storage.digests import digest_json
from storage.errors import FatalError

MANIFEST = "manifest.json"
FORMAT = 2
"""Format 1 has no seal."""
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A plain name: manifests may come from elsewhere, and must not name files outside their folder."""
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
    """How many rows went in, came out, and were quarantined, by reason. A row may lose items and still come out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows_in: int = 0
    rows_out: int = 0
    rejected: dict[str, int] = {}


class Manifest(BaseModel):
    """What an artifact holds (files), why it exists (terms, upstream) and how it was made (counts, facts)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    stage: str
    key: str
    partition: str = ""
    """The partition that it was first made for. Another run may use another name."""
    terms: dict[str, Any]
    upstream: dict[str, list[str]]
    """Keys of the artifacts read, by table."""
    files: dict[FileName, FileEntry]
    schema_fingerprint: str
    counts: Counts
    facts: dict[str, Any] = {}
    """Measured numbers for people. They are not part of the content."""
    seconds: float
    host: str
    versions: dict[str, str]
    seal: str = ""
    """Digest of all other fields at the time of writing. It reveals later edits."""

    def as_bytes(self) -> bytes:
        """The manifest as it is written, sealed. A manifest that was read gives the bytes that it was read from."""
        if self.format == 1:
            return self.model_dump_json(indent=1, exclude={"seal"}).encode()
        return self.model_copy(update={"seal": self.seal or self._digest()}).model_dump_json(indent=1).encode()

    @property
    def is_edited(self) -> bool:
        """Whether it was edited after it was written."""
        return self.format > 1 and self.seal != self._digest()

    def _digest(self) -> str:
        return digest_json(json.loads(self.model_dump_json(exclude={"seal"})))

    @property
    def content(self) -> str:
        """Digest of what downstream stages may read: equal content means that nothing downstream needs to run again.

        Quarantined rows are for people and do not count.
        """
        return digest_json({name: entry.digest for name, entry in self.files.items() if name != REJECTED_FILE})


class FutureManifest(FatalError):
    """A manifest that a newer version wrote. It is not damaged, but this version cannot read it."""


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Parse and check a manifest. Errors call it `name`.

    Raises `FatalError` when it is damaged and `FutureManifest` when a newer version wrote it.
    """
    try:
        manifest = Manifest.model_validate_json(data)
        _require_known(manifest.format, name)
        return manifest
    except ValueError as error:
        with suppress(ValueError):
            values = json.loads(data)
            _require_known(values.get("format") if isinstance(values, dict) else None, name)
        reason = str(error).splitlines()[0]
        raise FatalError(
            f"{name}: damaged manifest ({reason}); remove it with `rlip verify --repair`, then run again"
        ) from error


def _require_known(found: object, name: str) -> None:
    if isinstance(found, int) and found > FORMAT:
        raise FutureManifest(f"{name}: manifest format {found}, but this version reads {FORMAT}; upgrade rlip")
