"""One committed artifact: a folder of data files and its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from storage.manifest import MANIFEST, REJECTED_FILE, Manifest, parse_manifest
from storage.tables import REJECTED, read_table
from storage.upgrades import is_current, upgrade


@dataclass(frozen=True)
class Artifact:
    """A committed artifact, read only. `folder` is named by the artifact's key."""

    folder: Path

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest. Raises `Terminal` when it is damaged."""
        return parse_manifest(self.manifest_bytes(), str(self.folder / MANIFEST))

    def manifest_bytes(self) -> bytes:
        """The manifest as it was written."""
        return (self.folder / MANIFEST).read_bytes()

    @property
    def key(self) -> str:
        """The key, which is also the folder's name."""
        return self.folder.name

    @cached_property
    def content(self) -> str:
        """Digest of the data files that stages below may read."""
        return self.manifest.content

    def file(self, name: str) -> Path:
        """Path of one data file."""
        return self.folder / name

    def table(self, name: str) -> pa.Table:
        """The table `name`, e.g. `images`, with today's columns.

        Raises FileNotFoundError when the artifact has none, `Terminal` for one of another version that can't be upgraded.
        """
        found = read_table(self.file(f"{name}.parquet"))
        if is_current(found.schema, name):
            return found
        manifest = self.manifest
        return upgrade(found, manifest.stage, name, f"{manifest.stage} {self.key[:12]}")

    def rejected(self) -> pa.Table:
        """Rows that this artifact's making put in quarantine."""
        if REJECTED_FILE not in self.manifest.files:
            return REJECTED.empty_table()
        return read_table(self.file(REJECTED_FILE))
