"""Rows taken over: of a partition in which a few images changed, only those are worked again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runtime.stage import Inputs, Output, Rejected, Stage
from storage.artifact import Artifact
from storage.changes import changes
from storage.digests import digest_file
from storage.errors import PipelineError
from storage.keys import KeyTerms
from storage.store import Store
from storage.tables import read_table, write_table


@dataclass(frozen=True)
class Kept:
    """Rows of an earlier artifact that are what the stage would make again."""

    artifact: Artifact
    image_ids: frozenset[int]
    """The images whose rows these are, or that the stage left out or rejected."""
    order: tuple[int, ...]
    """All images in the order of the new rows."""


def find_kept(stage: Stage, terms: KeyTerms, inputs: Inputs, previous: str, store: Store) -> Kept | None:
    """What can be taken over from the artifact `previous` (a key) of the same stage, version, settings and weights.

    Nothing can where a stage is not `row_wise`, or where that artifact, or what it was made from, is gone or damaged.
    """
    if not (stage.row_wise and previous):
        return None
    try:
        artifact = store.find(stage.name, previous)
        if artifact is None or not _comparable(artifact, terms, stage):
            return None
        rows = {table: inputs.table(table) for table in stage.reads}
        same: set[int] | None = None
        for table, now in rows.items():
            before = _before(artifact, inputs, table, store)
            if before is None:
                return None
            equal = _equal_rows(before, now)
            same = equal if same is None else same & equal
    except (PipelineError, OSError, pa.ArrowException):
        return None
    order = tuple(rows[stage.reads[0]]["image_id"].to_pylist())
    return Kept(artifact, frozenset(same), order) if same else None


def merge(stage: Stage, kept: Kept, made: Output, work: Path) -> Output:
    """The output of the whole partition: rows made now and rows taken over, in the order of a full computation.

    Counts are those of a full computation; facts are of the new rows alone and say so.
    """
    old = kept.artifact
    table = _merged(old.table(stage.writes), made.table, kept).cast(stage.schema)
    for name, path in made.files.items():
        write_table(_merged(old.table(path.stem), read_table(path), kept), work / name)
    put_aside = [row for row in old.rejected().to_pylist() if row["image_id"] in kept.image_ids]
    rejected = [Rejected(row["image_id"], row["reason"], row["value"]) for row in put_aside]
    went_in = kept.image_ids & {*old.table(stage.writes)["image_id"].to_pylist(), *(r.image_id for r in rejected)}
    new_in = made.rows_in if made.rows_in is not None else len(made.table)
    facts = {f"{name} (new rows)": value for name, value in made.facts.items()}
    return replace(
        made,
        table=table,
        files={name: work / name for name in made.files},
        rejected=_in_order([*rejected, *made.rejected], kept.order),
        rows_in=new_in + len(went_in),
        facts={**facts, "rows taken over": len(went_in), "images_seen": new_in},
    )


def _comparable(artifact: Artifact, terms: KeyTerms, stage: Stage) -> bool:
    """Whether the keys differ in the rows read alone, and the earlier artifact's tables are whole."""
    read = {f"inputs.{table}" for table in stage.reads}
    if any(change.term not in read for change in changes(artifact.manifest.terms, terms.as_json())):
        return False
    files = artifact.manifest.files
    return all(name.endswith(".parquet") and digest_file(artifact.file(name)) == files[name].digest for name in files)


def _before(artifact: Artifact, inputs: Inputs, table: str, store: Store) -> pa.Table | None:
    """The rows of `table` that the earlier artifact was made from."""
    stage = inputs.artifact(table).manifest.stage
    found = store.find_all(stage, artifact.manifest.upstream[table])
    return pa.concat_tables([each.table(table) for each in found.values()]) if len(found) == 1 else None


def _equal_rows(before: pa.Table, now: pa.Table) -> set[int]:
    """Ids of the images whose rows are the same, value by value; another schema makes all rows others."""
    if before.schema != now.schema:
        return set()
    old = {row["image_id"]: row for row in before.to_pylist()}
    return {row["image_id"] for row in now.to_pylist() if old.get(row["image_id"]) == row}


def _merged(old: pa.Table, new: pa.Table, kept: Kept) -> pa.Table:
    taken = old.filter(pc.is_in(old["image_id"], pa.array(kept.image_ids, pa.int64())))
    both = pa.concat_tables([taken, new.cast(taken.schema)])
    place = {image_id: number for number, image_id in enumerate(kept.order)}
    ids = both["image_id"].to_pylist()
    rows = sorted(range(len(ids)), key=lambda row: place[ids[row]])
    return both.take(pa.array(rows, pa.int64())).combine_chunks()


def _in_order(rejected: Iterable[Rejected], order: tuple[int, ...]) -> list[Rejected]:
    place = {image_id: number for number, image_id in enumerate(order)}
    return sorted(rejected, key=lambda each: place.get(each.image_id, -1))
