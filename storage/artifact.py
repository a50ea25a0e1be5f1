"""One committed artifact: a folder of data files and its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import FatalError, first_line
from storage.json_files import read_within_limit
from storage.manifest import MANIFEST, REJECTED_FILE, Manifest, parse_manifest
from storage.tables import REJECTED, is_current, read_table, upgrade

REMOVE_ARTIFACT = "remove its artifact with `rlip store verify --repair`, then run again"
"""What to do about a damaged file of an artifact."""


@dataclass(frozen=True)
class Artifact:
    """A committed artifact, read-only. `folder` is named after the artifact's key."""

    folder: Path

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest. Raises `FatalError` when it is damaged."""
        return parse_manifest(self.manifest_bytes(), str(self.folder / MANIFEST))

    def manifest_bytes(self) -> bytes:
        """The manifest as it was written."""
        return read_within_limit(self.folder / MANIFEST)

    @property
    def key(self) -> str:
        """The key, which is also the folder's name."""
        return self.folder.name

    @cached_property
    def content(self) -> str:
        """Digest of the data files that downstream stages may read."""
        return self.manifest.content

    def file(self, name: str) -> Path:
        """Path of one data file."""
        return self.folder / name

    def location(self, name: str) -> str:
        """Where ranges of one data file can be read: a path, or the URL of a remote store."""
        return str(self.file(name))

    def table(self, name: str) -> pa.Table:
        """The table `name`, e.g. `images`, with today's columns.

        Raises FileNotFoundError when the artifact has no such table, and `FatalError` for a table that is damaged or of
        a version that cannot be upgraded.
        """
        found = self._read(f"{name}.parquet")
        # The table comes first: one with today's columns needs no manifest, which a plain folder of rows lacks.
        if is_current(found.schema, name):
            return found
        manifest = self.manifest
        return upgrade(found, manifest.stage, name, f"{manifest.stage} {self.key[:12]}")

    def rejected(self) -> pa.Table:
        """Rows that were quarantined when this artifact was made."""
        if REJECTED_FILE not in self.manifest.files:
            return REJECTED.empty_table()
        return self._read(REJECTED_FILE)

    def require_whole(self) -> None:
        """Read the data files again. Raises `FatalError` if one is missing or does not match its digest."""
        for name, entry in self.manifest.files.items():
            path = self.file(name)
            if not entry.matches(path):
                raise _damaged(path, "bytes do not match the digest" if path.is_file() else "gone")

    def _read(self, name: str) -> pa.Table:
        path = self.file(name)
        try:
            return read_table(path)
        except FileNotFoundError as error:
            if name in self.manifest.files:
                raise _damaged(path, "gone") from error
            raise FileNotFoundError(f"{self.folder.parent.name} {self.key[:12]} has no {name}") from error
        except (pa.ArrowException, OSError) as error:
            # pyarrow raises an OSError without errno for bytes that it can't read; with errno, the disk failed.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _damaged(path, first_line(error)) from error


def require_schemas(manifest: Manifest, folder: Path) -> None:
    """Compare the tables in a folder with their manifest and with today's columns, reading no rows.

    Raises `FatalError` for a table with a different number of rows, or with columns that can't be read as today's.
    """
    for file, entry in manifest.files.items():
        path = folder / file
        if path.suffix != ".parquet":
            continue
        try:
            found = pq.read_metadata(path)
            schema = found.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise FatalError(f"{file} is not a table ({first_line(error)})") from error
        if entry.rows is not None and found.num_rows != entry.rows:
            raise FatalError(f"{file} has {found.num_rows:,} rows, and its manifest says {entry.rows:,}")
        if file == REJECTED_FILE and not schema.equals(REJECTED):
            raise FatalError(f"{file} does not have the columns of quarantined rows")
        upgrade(schema.empty_table(), manifest.stage, path.stem, file)


def _damaged(path: Path, what: str) -> FatalError:
    return FatalError(f"{path}: damaged ({what}); {REMOVE_ARTIFACT}")
