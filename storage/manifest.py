"""The manifest: one JSON file in each artifact that describes its content and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints, field_validator
from pydantic_core import from_json

from storage.digests import digest_file, digest_json
from storage.errors import FatalError
from storage.json_files import reason_of, require_within

MANIFEST = "manifest.json"
FORMAT = 2
"""Format 1 has no seal."""
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\z", max_length=200)]
"""A plain name: manifests may come from elsewhere, and must not name files outside their folder."""
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
REJECTED_FILE = "rejected.parquet"


class FileEntry(BaseModel):
    """One data file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    digest: Digest
    """sha256 of the bytes."""
    size: NonNegativeInt
    """Bytes."""
    rows: NonNegativeInt | None = None
    """Rows of a Parquet file."""

    def matches(self, path: Path) -> bool:
        """Whether a file is there and has these bytes, which are read."""
        return path.is_file() and path.stat().st_size == self.size and digest_file(path) == self.digest


class Counts(BaseModel):
    """How many rows went in, came out, and were quarantined, by reason. A row may lose items and still come out."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rows_in: int = 0
    rows_out: int = 0
    rejected: dict[str, int] = {}


class Manifest(BaseModel):
    """What an artifact holds (files), why it exists (terms, upstream) and how it was made (counts, facts)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

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
    """The checksum at the time of writing."""

    @field_validator("files")
    @classmethod
    def _names_data(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        if MANIFEST in files:
            raise ValueError(f"{MANIFEST} is not the name of a data file")
        return files

    def as_bytes(self) -> bytes:
        """The manifest as it is written, sealed. A manifest that was read gives the bytes that it was read from."""
        if self.format == 1:
            return self.model_dump_json(indent=1, exclude={"seal"}).encode()
        return self.model_copy(update={"seal": self.seal or self.checksum()}).model_dump_json(indent=1).encode()

    def fault(self, stage: str, key: str) -> str | None:
        """Why this is not the manifest of the artifact with that stage and key; None if it is."""
        try:
            if (self.stage, self.key, digest_json(self.terms)) != (stage, key, key):
                return "manifest of a different key"
            return None
        except ValueError as error:
            return f"manifest with invalid values: {error}"

    def checksum(self) -> str:
        """Digest of all fields but the seal."""
        # Through JSON text, so that the values are those which a reader parses.
        return digest_json(from_json(self.model_dump_json(exclude={"seal"})))

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
        require_within(data)
        values = from_json(data)
        version = values.get("format") if isinstance(values, dict) else None
        # Before validation, which would call the fields of a newer version damage.
        if isinstance(version, int) and version > FORMAT:
            raise FutureManifest(f"{name}: manifest format {version}, but this version reads {FORMAT}; upgrade rlip")
        manifest = Manifest.model_validate(values)
        if manifest.format > 1 and manifest.seal != manifest.checksum():
            raise ValueError("changed since it was written")
        return manifest
    except ValueError as error:
        raise FatalError(
            f"{name}: damaged manifest ({reason_of(error)}); remove it with `rlip store verify --repair`, then run "
            "again"
        ) from error
