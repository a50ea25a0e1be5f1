"""Executing one item, a partition of a step with its key: run the stage, commit the artifact, in whichever process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import pyarrow as pa

from pipeline.runtime.incremental import find_reusable, merge
from pipeline.runtime.logs import bound, log
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from storage.artifact import Artifact
from storage.digests import digest_bytes, digest_file
from storage.disk import Disk
from storage.errors import FatalError, translate_os_errors
from storage.keys import KeyTerms
from storage.manifest import REJECTED_FILE, Counts, FileEntry, Manifest
from storage.store import Store
from storage.tables import REJECTED, table_bytes


@dataclass(frozen=True)
class WorkItem:
    """A partition of a step with its key: `terms` decide the bytes, `inputs` say where to read from."""

    step: str
    partition: str
    terms: KeyTerms
    inputs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    image_ids: tuple[int, ...] = ()
    given: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Whole artifacts that the stage is opened with."""
    previous: str = ""
    """Key of the artifact that the run had for this partition. Rows that are still valid are reused."""
    images: int = 0
    """Images of the partition; 0 for a whole-set stage."""

    @property
    def upstream(self) -> dict[str, list[str]]:
        """Keys of all artifacts that decide its bytes, by table."""
        return {name: [path.name for path in paths] for name, paths in {**self.inputs, **self.given}.items()}

    @cached_property
    def key(self) -> str:
        """The key of the artifact that this item makes."""
        return self.terms.key

    def open_inputs(self, store: Store, streams: Collection[str] = ()) -> Inputs:
        """The inputs, as artifacts on this machine's disk, except for the tables in `streams`, which stay in the store."""
        artifacts = {
            name: _in_place(store, paths) if name in streams else store.fetch_artifacts(paths)
            for name, paths in self.inputs.items()
        }
        return Inputs(artifacts, self.partition, self.image_ids)


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
    """Images processed. A training sees each of its images many times."""

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
        stack.enter_context(translate_os_errors(f"making {item.step} {item.partition}"))
        stack.enter_context(store.claim(item.key, lambda host: report(0, 1, f"another run on {host} is making it")))
        found = store.recover(stage.name, item.key)
        if found is not None:
            log.info("made by another process", extra={"fields": {"key": item.key}})
            return Record.of(item.step, item.partition, found, cached=True)
        log.info("started", extra={"fields": {"key": item.key}})
        draft = stack.enter_context(store.draft())
        work = stack.enter_context(store.scratch(item.key, stage.resumes_from)) if stage.whole else draft
        artifact = store.commit(draft, _make(stage, item, store, report, draft, work))
    if stage.whole:
        store.drop_scratch(item.key)
    record = Record.of(item.step, item.partition, artifact, cached=False)
    counts = {"rows_in": record.rows_in, "rows_out": record.rows_out, "rejected": dict(record.rejected)}
    log.info("committed", extra={"fields": {"key": item.key, "seconds": record.seconds, **counts}})
    return record


def _make(stage: Stage, item: WorkItem, store: Store, report: ReportProgress, draft: Path, work: Path) -> Manifest:
    """Run the stage, lay its files out in the draft and describe them."""
    inputs = item.open_inputs(store, stage.streams)
    began = time.monotonic()
    reusable = find_reusable(stage, item.terms, inputs, item.previous, store)
    if reusable is None:
        output = stage.run(inputs, work, report)
    else:
        made = stage.run(replace(inputs, without=reusable.image_ids), work, report)
        output = merge(stage, reusable, made, work)
    seconds = time.monotonic() - began
    files = _collect(stage, output, draft, store.disk)
    _leave_only(files, draft, store.disk)
    return Manifest(
        stage=stage.name,
        key=item.key,
        partition=item.partition,
        terms=item.terms.as_json(),
        upstream=item.upstream,
        files=files,
        schema_fingerprint=digest_bytes(stage.schema.to_string().encode()),
        counts=_count(output),
        facts={**stage.describe(inputs, output.table), **output.facts},
        seconds=round(seconds, 3),
        host=platform.node(),
        versions=_versions(),
    )


def _in_place(store: Store, paths: Sequence[Path]) -> tuple[Artifact, ...]:
    """The artifacts at these places, without their files. Raises `FatalError` for one that is gone."""
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
        if path != draft / name:
            disk.rename(path, draft / name)
        entries[name] = FileEntry(digest=digest_file(draft / name), size=os.path.getsize(draft / name))
    return entries


def _leave_only(files: Mapping[str, FileEntry], draft: Path, disk: Disk) -> None:
    """Remove whatever else the stage left in the draft."""
    for path in draft.iterdir():
        if path.name not in files:
            (disk.remove_tree if path.is_dir() else disk.remove)(path)


def _count(output: Output) -> Counts:
    rows_in = output.rows_in if output.rows_in is not None else len(output.table)
    rows_out = output.rows_out if output.rows_out is not None else len(output.table)
    reasons: Counter[str] = Counter()
    for rejected in output.rejected:
        reasons[rejected.reason] += rejected.count
    return Counts(rows_in=rows_in, rows_out=rows_out, rejected=dict(sorted(reasons.items())))


@cache
def _versions() -> dict[str, str]:
    return {name: installed_version(name) for name in ("rlip", "torch", "transformers", "spacy", "pyarrow")}


def installed_version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
