"""Executes one item, a partition of a step with its key: looks it up, runs the stage, commits the artifact.

When a few images of a partition changed, only those are processed again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runtime.logs import bound, log
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from pipeline.runtime.wording import MISSING, UNREADABLE
from storage.artifact import Artifact
from storage.digests import digest_bytes, digest_file
from storage.disk import Disk
from storage.errors import FatalError, PipelineError, RetryableError, translate_os_errors
from storage.keys import KeyTerms, changes
from storage.manifest import REJECTED_FILE, Counts, FileEntry, Manifest
from storage.store import Store
from storage.tables import REJECTED, read_table, table_bytes, write_table

TERMS = "terms.json"
"""File in the work folder of a stage that resumes: run, step, and the terms of its key."""


@dataclass(frozen=True)
class WorkItem:
    """A partition of a step with its key: `terms` decide the bytes, `inputs` say where to read from."""

    step: str
    partition: str
    terms: KeyTerms
    inputs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    image_ids: tuple[int, ...] = ()
    uses: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Whole artifacts that the stage is opened with."""
    previous: str = ""
    """Key of the artifact that the run had for this partition. Rows that are still valid are reused."""
    images: int = 0
    """Images of the partition; 0 for a whole-set stage."""
    run: str = ""
    """Name of the run, which is part of no key."""

    @property
    def upstream(self) -> dict[str, list[str]]:
        """Keys of all artifacts that decide its bytes, by table."""
        return {name: [path.name for path in paths] for name, paths in {**self.inputs, **self.uses}.items()}

    @cached_property
    def key(self) -> str:
        """The key of the artifact that this item makes."""
        return self.terms.key

    def open_inputs(self, store: Store, streams: Collection[str] = ()) -> Inputs:
        """The inputs, as artifacts on this machine's disk, except the tables in `streams`, which stay in the store."""
        artifacts = {
            name: _in_place(store, paths) if name in streams else store.fetch_artifacts(paths)
            for name, paths in self.inputs.items()
        }
        digest = next(iter(self.terms.inputs.get("records", ())), "")
        return Inputs(artifacts, self.partition, self.image_ids, digest=digest)


@dataclass(frozen=True)
class Record:
    """What is reported about a finished item: small, JSON-able, without payload."""

    step: str
    partition: str
    key: str
    cached: bool
    rows_in: int
    rows_out: int
    rejected: Mapping[str, int]
    seconds: float
    seen: int
    """Images processed. A training run sees each of its images many times."""

    @classmethod
    def of(cls, step: str, partition: str, artifact: Artifact, cached: bool) -> Record:
        """The record of a committed artifact."""
        manifest = artifact.manifest
        counts = manifest.counts
        return cls(
            step=step,
            partition=partition,
            key=artifact.key,
            cached=cached,
            rows_in=counts.rows_in,
            rows_out=counts.rows_out,
            rejected=counts.rejected,
            seconds=manifest.seconds,
            seen=manifest.facts.get("images_seen", counts.rows_in),
        )


def execute(stage: Stage, item: WorkItem, store: Store, report: ReportProgress) -> Record:
    """Run an opened stage on an item and commit the artifact. An item that is already committed costs one lookup.

    While another process works on the same key, this one waits and then takes what the other committed.
    """
    with bound(step=item.step, partition=item.partition):
        found = store.find(stage.name, item.key)
        if found is None:
            return _claim_and_make(stage, item, store, report)
        log.info("cached", extra={"fields": {"key": item.key}})
        return Record.of(item.step, item.partition, found, cached=True)


def _claim_and_make(stage: Stage, item: WorkItem, store: Store, report: ReportProgress) -> Record:
    with ExitStack() as stack:
        stack.enter_context(translate_os_errors(f"making {item.step} {item.partition} in {store.root}"))
        stack.enter_context(store.claim(item.key, lambda host: report(0, 1, f"another run on {host} is computing it")))
        # The process that held the claim until now may have committed the artifact.
        found = store.recover(stage.name, item.key)
        if found is not None:
            log.info("made by another process", extra={"fields": {"key": item.key}})
            return Record.of(item.step, item.partition, found, cached=True)
        log.info("started", extra={"fields": {"key": item.key}})
        draft = stack.enter_context(store.draft())
        work = stack.enter_context(store.scratch(item.key, stage.resumes_from)) if stage.whole else draft
        if stage.resumes_from:
            if not any(work.iterdir()) and (note := interrupted(type(stage), item, store)):
                report(0, 1, note)
            begun = {"run": item.run, "step": item.step, "terms": item.terms.as_json()}
            store.disk.write(work / TERMS, json.dumps(begun).encode())
        artifact = store.commit(draft, _make(stage, item, store, report, draft, work))
    if stage.whole:
        store.drop_scratch(item.key)
    record = Record.of(item.step, item.partition, artifact, cached=False)
    counts = {"rows_in": record.rows_in, "rows_out": record.rows_out, "rejected": dict(record.rejected)}
    log.info("committed", extra={"fields": {"key": item.key, "seconds": record.seconds, **counts}})
    return record


def interrupted(stage: type[Stage], item: WorkItem, store: Store) -> str:
    """What happens to the checkpoints that an interrupted execution of the run's step left; "" if there are none."""
    left = []
    for folder in store.idle_scratch():
        with suppress(OSError, ValueError):  # there is no checkpoint yet, or a crash tore the file
            (folder / stage.resumes_from).stat()
            begun = json.loads((folder / TERMS).read_bytes())
            found = changes(begun["terms"], item.terms.as_json())
            # Earlier versions did not note the run.
            if not found or (begun.get("run", item.run), begun["step"]) == (item.run, item.step):
                left.append(found)
    if not left:
        return ""
    changed = ", ".join(str(change) for change in min(left, key=len))
    scratch = f"starts from scratch, because it differs from the interrupted one: {changed}"
    return scratch if changed else "continues from its last checkpoint"


def _make(stage: Stage, item: WorkItem, store: Store, report: ReportProgress, draft: Path, work: Path) -> Manifest:
    """Run the stage, lay its files out in the draft and describe them."""
    inputs = item.open_inputs(store, stage.streams)
    began = time.monotonic()
    reusable = find_reusable(stage, item.terms, inputs, item.previous, store)
    new = stage.run(inputs if reusable is None else replace(inputs, without=reusable.image_ids), work, report)
    if stage.reads and (gone := [each for each in new.rejected if each.reason in (MISSING, UNREADABLE)]):
        raise RetryableError(
            f"{item.step} {item.partition}: on {platform.node()} {len(gone)} of the image files that ingest read can't "
            f"be read (first: {gone[0].reason}, {gone[0].value}); mount the folder or remove bad ones, then run again"
        )
    output = new if reusable is None else merge(stage, reusable, new, work)
    seconds = time.monotonic() - began
    files = _collect(stage, output, draft, store.disk)
    for path in draft.iterdir():
        if path.name not in files:  # the stage's own temporary files
            (store.disk.remove_tree if path.is_dir() else store.disk.remove)(path)
    return Manifest(
        stage=stage.name,
        key=item.key,
        partition=item.partition,
        terms=item.terms.as_json(),
        upstream=item.upstream,
        files=files,
        schema_fingerprint=digest_bytes(stage.schema.to_string().encode()),
        counts=Counts(
            rows_in=len(output.table) if output.rows_in is None else output.rows_in,
            rows_out=len(output.table) if output.rows_out is None else output.rows_out,
            rejected=dict(sorted(Counter(each.reason for each in output.rejected).items())),
        ),
        facts={**stage.describe(inputs, output.table), **output.facts},
        seconds=round(seconds, 3),
        host=platform.node(),
        versions=_versions(),
    )


@dataclass(frozen=True)
class ReusableRows:
    """Rows of an earlier artifact that equal what the stage would produce now."""

    artifact: Artifact
    image_ids: frozenset[int]
    """The images of these rows, and unchanged images that have no row, or were rejected for what they contain."""
    order: tuple[int, ...]
    """All images in the order of the new rows."""


def find_reusable(stage: Stage, terms: KeyTerms, inputs: Inputs, previous: str, store: Store) -> ReusableRows | None:
    """Rows that can be reused from the artifact `previous` (a key) of the same stage, version, settings and weights.

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
        lost = {row["image_id"] for row in artifact.rejected().to_pylist() if row["reason"] in (MISSING, UNREADABLE)}
    except (PipelineError, OSError, pa.ArrowException):
        return None
    order = tuple(rows[stage.reads[0]]["image_id"].to_pylist())
    return ReusableRows(artifact, frozenset(same - lost), order) if same else None


def merge(stage: Stage, reusable: ReusableRows, new: Output, work: Path) -> Output:
    """The output of the whole partition: new and reused rows, in the order of a full computation.

    Counts equal those of a full computation. Facts describe the new rows alone, and their names say so.
    """
    old = reusable.artifact
    table = _merged(old.table(stage.writes), new.table, reusable).cast(stage.schema)
    for name, path in new.files.items():
        write_table(_merged(old.table(path.stem), read_table(path), reusable), work / name)
    rejected = [
        Rejected(row["image_id"], row["reason"], row["value"])
        for row in old.rejected().to_pylist()
        if row["image_id"] in reusable.image_ids
    ]
    reused = reusable.image_ids & {
        *old.table(stage.writes)["image_id"].to_pylist(),
        *(each.image_id for each in rejected),
    }
    new_in = new.rows_in if new.rows_in is not None else len(new.table)
    facts = {f"{name} (new rows)": value for name, value in new.facts.items()}
    place = {image_id: number for number, image_id in enumerate(reusable.order)}
    return replace(
        new,
        table=table,
        files={name: work / name for name in new.files},
        rejected=sorted([*rejected, *new.rejected], key=lambda each: place.get(each.image_id, -1)),
        rows_in=new_in + len(reused),
        facts={**facts, "rows reused": len(reused), "images_seen": new_in},
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
    places = pc.index_in(both["image_id"], value_set=pa.array(reusable.order, pa.int64()))
    return both.take(pc.sort_indices(places)).combine_chunks()


def _in_place(store: Store, paths: Sequence[Path]) -> tuple[Artifact, ...]:
    """The artifacts at these places, without their files. Raises `FatalError` for one that is missing."""
    found: dict[str, Artifact] = {}
    for stage in {path.parent.name for path in paths}:
        found |= store.find_all(stage, [path.name for path in paths if path.parent.name == stage])
    for path in paths:
        if path.name not in found:
            raise FatalError(f"artifact {path.name[:12]} vanished from the store; run again")
    return tuple(found[path.name] for path in paths)


def _collect(stage: Stage, output: Output, draft: Path, disk: Disk) -> dict[str, FileEntry]:
    """Bring the table, further files and quarantined rows into the draft and describe each file."""
    tables: dict[str, pa.Table] = {f"{stage.writes}.parquet": output.table.cast(stage.schema)}
    if output.rejected:
        rows = [
            {"image_id": r.image_id, "stage": stage.name, "reason": r.reason, "value": r.value[:500]}
            for r in output.rejected
        ]
        tables[REJECTED_FILE] = pa.Table.from_pylist(rows, schema=REJECTED)
    entries = {}
    for name, table in tables.items():
        data = table_bytes(table)
        disk.write(draft / name, data)
        entries[name] = FileEntry(digest=digest_bytes(data), size=len(data), rows=len(table))
    for name, path in output.files.items():
        # The work folder of a partition is the draft itself.
        if path != draft / name:
            disk.rename(path, draft / name)
        entries[name] = FileEntry(digest=digest_file(draft / name), size=os.path.getsize(draft / name))
    return entries


@cache
def _versions() -> dict[str, str]:
    return {name: installed_version(name) for name in ("rlip", "torch", "transformers", "spacy", "pyarrow")}


def installed_version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
