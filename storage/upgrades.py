"""Schema evolution: older tables are read with today's columns by declared values; anything undeclared is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from storage.errors import FatalError
from storage.tables import (
    CANDIDATES,
    CAPTIONS,
    DETECTIONS,
    DROPPED,
    FINGERPRINTS,
    IMAGES,
    OVERLAP,
    RELATIONS,
    SHARD_MEMBERS,
    SPLIT,
    TRIPLETS,
)

SCHEMAS: Mapping[tuple[str, str], pa.Schema] = {
    ("ingest", "images"): IMAGES,
    ("detect", "images"): IMAGES,
    ("detect", "detections"): DETECTIONS,
    ("caption", "captions"): CAPTIONS,
    ("parse", "triplets"): TRIPLETS,
    ("tag", "candidates"): CANDIDATES,
    ("tag", "dropped"): DROPPED,
    ("tag", "relations"): RELATIONS,
    ("shard", "shards"): SHARD_MEMBERS,
    ("shard_tagger", "shards"): SHARD_MEMBERS,
    ("fingerprint", "fingerprints"): FINGERPRINTS,
    ("overlap", "overlap"): OVERLAP,
    ("split", "split"): SPLIT,
}
"""Stage and table → today's schema."""

ADDED: Mapping[str, Any] = {
    "captions.captions.match": None,
    "captions.captions.times": 1,
    "triplets.triplets.subject_count": None,
    "triplets.triplets.object_count": None,
    "triplets.triplets.subject_attributes": None,
    "triplets.triplets.object_attributes": None,
    "candidates.pairs.mention": -1,
    "candidates.pairs.prior": None,
    "candidates.pairs.support": None,
    "relations.tagger": None,
    "relations.relations.caption": -1,
    "relations.relations.calibrated": None,
    "relations.relations.posterior": None,
    "shards.digest": None,
    "shards.check": None,
    "shards.dataset": None,
    "shards.width": None,
    "shards.height": None,
    "shards.phash": None,
}
"""Columns added after the first version, as table.column.field → their value in rows that were made before."""


def is_current(schema: pa.Schema, name: str) -> bool:
    """Whether a table has today's schema. Also true for a table that no stage in `SCHEMAS` writes."""
    known = [_shape(wanted) for (_, table), wanted in SCHEMAS.items() if table == name]
    return not known or _shape(schema) in known


def upgrade(table: pa.Table, stage: str, name: str, where: str) -> pa.Table:
    """A table of an older version with today's columns. A table of a stage outside `SCHEMAS` is returned unchanged.

    Raises `FatalError` that names the column and the remedy when the table cannot be upgraded.
    """
    wanted = SCHEMAS.get((stage, name))
    if name == "shards" and "member" in table.column_names:
        table = _with_keys(table)
    if wanted is None or _shape(table.schema) == _shape(wanted):
        return table
    columns = table.combine_chunks()
    held = pa.StructArray.from_arrays(
        [columns.column(i).combine_chunks() for i in range(columns.num_columns)], fields=list(table.schema)
    )
    made = _read_as(held, pa.struct(list(wanted)), name, where, stage)
    return pa.Table.from_arrays([made.field(i) for i in range(len(wanted))], schema=wanted)


def _with_keys(index: pa.Table) -> pa.Table:
    """The index of version 2, which had one tar, `shard.tar`, and whole member names in place of key and extension."""
    names = [name.partition(".") for name in index["member"].to_pylist()]
    added = {
        "shard": ["shard.tar"] * len(names),
        "key": [key for key, _, _ in names],
        "extension": [extension for _, _, extension in names],
    }
    table = index.drop_columns(["member"])
    for name, values in added.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    return table


def _read_as(held: pa.Array, wanted: pa.DataType, path: str, where: str, stage: str) -> Any:
    """An array as another type. Missing fields get their declared values."""
    if pa.types.is_struct(wanted) and pa.types.is_struct(held.type):
        unknown = {field.name for field in held.type} - {field.name for field in wanted}
        if unknown:
            raise FatalError(
                f"{where}: column {path}.{min(unknown)} is of another version of rlip; upgrade rlip or {_again(stage)}"
            )
        children = [_field(held, field, f"{path}.{field.name}", where, stage) for field in wanted]
        return pa.StructArray.from_arrays(children, fields=list(wanted), mask=held.is_null())
    if pa.types.is_list(wanted) and pa.types.is_list(held.type):
        values = _read_as(held.flatten(), wanted.value_type, path, where, stage)
        lengths = held.value_lengths().fill_null(0).to_pylist()
        offsets = [0]
        for length in lengths:
            offsets.append(offsets[-1] + length)
        return pa.ListArray.from_arrays(offsets, values, mask=held.is_null())
    if held.type != wanted:
        raise FatalError(f"{where}: column {path} is {held.type}, but this version reads {wanted}; {_again(stage)}")
    return held


def _field(held: pa.Array, field: pa.Field, path: str, where: str, stage: str) -> Any:
    if held.type.get_field_index(field.name) >= 0:
        return _read_as(held.field(field.name), field.type, path, where, stage)
    if path not in ADDED:
        raise FatalError(f"{where}: made by an older version, without column {path}; {_again(stage)}")
    return pa.array([ADDED[path]] * len(held), field.type)


def _again(stage: str) -> str:
    return f"run its recipe again (`rlip run`): stage {stage} recomputes the table"


def _shape(kind: pa.DataType | pa.Schema) -> Any:
    """A type as nested lists, equal to those of another that differs only in names of list items, which Parquet changes."""
    if isinstance(kind, pa.Schema) or pa.types.is_struct(kind):
        return [(field.name, _shape(field.type)) for field in kind]
    return [_shape(kind.value_type)] if pa.types.is_list(kind) else str(kind)
