"""Incremental reuse: when a few images of a partition changed, only those are processed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runtime.stage import Inputs, Output, Rejected, Stage
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.errors import PipelineError
from storage.keys import KeyTerms, changes
from storage.store import Store
from storage.tables import read_table, write_table


@dataclass(frozen=True)
class ReusableRows:
    """Rows of an earlier artifact that equal what the stage would produce now."""

    artifact: Artifact
    image_ids: frozenset[int]
    """The images of these rows, and unchanged images that the stage left out or rejected."""
    order: tuple[int, ...]
    """All images in the order of the new rows."""


def find_reusable(stage: Stage, terms: KeyTerms, inputs: Inputs, previous: str, store: Store) -> ReusableRows | None:
    """The rows that can be reused from the artifact `previous` (a key) of the same stage, version, settings and weights.

    None where the stage is not `row_wise`, or where that artifact, or one that it was made from, is gone or damaged.
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
            equal = _equal_rows(before, now, partial(stage.decisive, table))
            same = equal if same is None else same & equal
    except (PipelineError, OSError, pa.ArrowException):
        return None
    order = tuple(rows[stage.reads[0]]["image_id"].to_pylist())
    return ReusableRows(artifact, frozenset(same), order) if same else None


def merge(stage: Stage, reusable: ReusableRows, made: Output, work: Path) -> Output:
    """The output of the whole partition: new and reused rows, in the order of a full computation.

    Counts equal those of a full computation. Facts describe the new rows alone, and their names say so.
    """
    old = reusable.artifact
    table = _merged(old.table(stage.writes), made.table, reusable).cast(stage.schema)
    for name, path in made.files.items():
        write_table(_merged(old.table(path.stem), read_table(path), reusable), work / name)
    put_aside = [row for row in old.rejected().to_pylist() if row["image_id"] in reusable.image_ids]
    rejected = [Rejected(row["image_id"], row["reason"], row["value"]) for row in put_aside]
    went_in = reusable.image_ids & {*old.table(stage.writes)["image_id"].to_pylist(), *(r.image_id for r in rejected)}
    new_in = made.rows_in if made.rows_in is not None else len(made.table)
    facts = {f"{name} (new rows)": value for name, value in made.facts.items()}
    return replace(
        made,
        table=table,
        files={name: work / name for name in made.files},
        rejected=_in_order([*rejected, *made.rejected], reusable.order),
        rows_in=new_in + len(went_in),
        facts={**facts, "rows taken over": len(went_in), "images_seen": new_in},
    )


def _comparable(artifact: Artifact, terms: KeyTerms, stage: Stage) -> bool:
    """Whether the keys differ only in the rows read and the earlier artifact's tables are intact."""
    read = {f"inputs.{table}" for table in stage.reads}
    if any(change.term not in read for change in changes(artifact.manifest.terms, terms.as_json())):
        return False
    files = artifact.manifest.files
    return all(name.endswith(".parquet") and digest_file(artifact.file(name)) == files[name].digest for name in files)


def _before(artifact: Artifact, inputs: Inputs, table: str, store: Store) -> pa.Table | None:
    """The rows of `table` from which the earlier artifact was made."""
    stage = inputs.artifact(table).manifest.stage
    found = store.find_all(stage, artifact.manifest.upstream[table])
    return pa.concat_tables([each.table(table) for each in found.values()]) if len(found) == 1 else None


def _equal_rows(
    before: pa.Table, now: pa.Table, decisive: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> set[int]:
    """Ids of the images whose rows are equal value by value in what is decisive. Under different schemas, none are."""
    if before.schema != now.schema:
        return set()
    old = {row["image_id"]: decisive(row) for row in before.to_pylist()}
    return {row["image_id"] for row in now.to_pylist() if old.get(row["image_id"]) == decisive(row)}


def _merged(old: pa.Table, new: pa.Table, reusable: ReusableRows) -> pa.Table:
    taken = old.filter(pc.is_in(old["image_id"], pa.array(reusable.image_ids, pa.int64())))
    both = pa.concat_tables([taken, new.cast(taken.schema)])
    place = {image_id: number for number, image_id in enumerate(reusable.order)}
    ids = both["image_id"].to_pylist()
    rows = sorted(range(len(ids)), key=lambda row: place[ids[row]])
    return both.take(pa.array(rows, pa.int64())).combine_chunks()


def _in_order(rejected: Iterable[Rejected], order: tuple[int, ...]) -> list[Rejected]:
    place = {image_id: number for number, image_id in enumerate(order)}
    return sorted(rejected, key=lambda each: place.get(each.image_id, -1))
