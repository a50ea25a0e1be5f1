"""An artifact whose tables are read once, for work on one partition that looks at them several times."""

from __future__ import annotations

from functools import cached_property

import pyarrow as pa

from storage.artifact import Artifact


class HeldArtifact(Artifact):
    """An artifact that keeps the tables it has read in memory for as long as it lives itself."""

    def table(self, name: str) -> pa.Table:
        """The table `name`, as `Artifact.table` gives it."""
        if name not in self._held:
            self._held[name] = super().table(name)
        return self._held[name]

    @cached_property
    def _held(self) -> dict[str, pa.Table]:
        return {}
