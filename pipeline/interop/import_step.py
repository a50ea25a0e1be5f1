"""Commits imported rows as a step of a run, in place of the step's stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.digests import digest_bytes, digest_json
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.runs import Run
from storage.tables import table_bytes


class ImportStep:
    """Commits partitions as artifacts of the step's stage, then records them in the run."""

    def __init__(self, run: Run, name: str, table: str, schema: pa.Schema) -> None:
        """Raises `FatalError` if the run already has the step."""
        if run.keys(name):
            raise FatalError(
                f"run {run.name!r} already has a step {name!r}; import --as another run, or rlip store rm it"
            )
        self.name = name
        self._run, self._table, self._schema = run, table, schema
        self._keys: dict[str, str] = {}

    def put(
        self, partition: str, rows: Sequence[dict[str, Any]], rejects: Iterable[Rejected], rows_in: int | None = None
    ) -> None:
        """Commits a partition under a key that is derived from its content."""
        rejects = list(rejects)
        table = pa.Table.from_pylist(list(rows), schema=self._schema)
        made = _Given(self.name, self._table, table, rejects, rows_in)
        reasons = digest_json([[reject.image_id, reject.reason, reject.value] for reject in rejects])
        content = {"imported": digest_bytes(table_bytes(table)), "rejected": reasons, "rows in": rows_in}
        terms = KeyTerms(self.name, made.version, content, {})
        item = WorkItem(self.name, partition, terms)
        self._keys[partition] = execute(made, item, self._run.store, lambda done, total, note="": None).key

    def record(self) -> bool:
        """Records the step in the run. Returns False, and records nothing, if no partition was committed."""
        if self._keys:
            self._run.record(self.name, self.name, self._keys)
        return bool(self._keys)


class _Given(Stage):
    """A stage that returns a given table."""

    version = 0

    def __init__(
        self, name: str, writes: str, table: pa.Table, rejects: Sequence[Rejected], rows_in: int | None
    ) -> None:
        super().__init__(Settings())
        self.name, self.writes, self.schema = name, writes, table.schema  # type: ignore[misc]
        self._output = Output(table, rejected=rejects, rows_in=rows_in)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Returns the given table."""
        return self._output
