"""Column lineage for other systems: the input columns of each column in a stage's tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.labels.label_overrides import OVERRIDES
from pipeline.stages.order import STAGES
from storage.tables import CANDIDATES, DETECTIONS, DROPPED, REJECTED, SHARD_STATISTICS

BESIDE: Mapping[str, pa.Schema] = {
    "candidates": CANDIDATES,
    "detections": DETECTIONS,
    "dropped": DROPPED,
    "excluded": REJECTED,
    "overrides": OVERRIDES,
    "rejected": REJECTED,
    "statistics": SHARD_STATISTICS,
}
"""Tables that a stage writes in addition to its main one, by name."""
WRITTEN: Mapping[str, tuple[str, pa.Schema]] = {stage.name: (stage.writes, stage.schema) for stage in STAGES}
"""Stage → name and schema of its main table."""

_Columns = Mapping[str, Sequence[str]]
_LISTED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SOURCES: Mapping[str, Mapping[str, _Columns]] = {
    stage: {
        table: {column: sources.split() for column, sources in columns.items()} for table, columns in tables.items()
    }
    for stage, tables in (_LISTED | {"shard_tagger": _LISTED["shard"]}).items()
}
"""Stage → table → column → columns of the tables that the stage reads, as `table.column`: `column_sources.toml`."""


def schema_of(stage: str, table: str) -> pa.Schema | None:
    """The schema of a stage's table; None if it is not declared, e.g. because an earlier version wrote it."""
    name, schema = WRITTEN.get(stage, ("", None))
    return schema if table == name else BESIDE.get(table)


def sources_of(stage: str, table: str) -> _Columns:
    """Column → its input columns; empty if none are declared."""
    return SOURCES.get(stage, {}).get(table, {})
