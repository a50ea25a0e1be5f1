"""An artifact whose tables are read once, for work on one partition that looks at them several times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from storage.artifact import Artifact
from storage.manifest import Manifest


@dataclass(frozen=True)
class HeldArtifact(Artifact):
    """The artifact `of`, which keeps the tables that it has read in memory for as long as this object lives."""

    of: Artifact

    @property
    def manifest(self) -> Manifest:
        """The manifest."""
        return self.of.manifest

    def file(self, name: str) -> Path:
        """Path of one data file."""
        return self.of.file(name)

    def table(self, name: str) -> pa.Table:
        """The table `name`, as `Artifact.table` gives it."""
        if name not in self._held:
            self._held[name] = super().table(name)
        return self._held[name]

    @cached_property
    def _held(self) -> dict[str, pa.Table]:
        return {}


def held(artifact: Artifact) -> HeldArtifact:
    """The same artifact, which reads each table once."""
    return HeldArtifact(artifact.folder, artifact)
