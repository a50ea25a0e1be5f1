"""Small stores for tests: artifacts with given rows, committed as stages commit theirs, and runs that refer to them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage.artifact import Artifact
from storage.digests import digest_bytes
from storage.keys import KeyTerms
from storage.manifest import MANIFEST, Counts, FileEntry, Manifest
from storage.runs import Run
from storage.store import Store
from storage.tables import SCHEMAS, table_bytes

TABLES = {"ingest": "images", "caption": "captions", "parse": "triplets"}
Inputs = Mapping[str, Sequence[Artifact]]


def put(
    store: Store,
    stage: str,
    partition: str = "toys/0000",
    settings: Mapping[str, Any] | None = None,
    inputs: Inputs | None = None,
    rows: Sequence[int] = (1, 2),
    version: int = 1,
) -> Artifact:
    """Commit an artifact whose table holds `rows`. Its key follows from the other arguments, as for a real stage."""
    inputs = inputs or {}
    contents = {table: [artifact.content for artifact in found] for table, found in inputs.items()}
    terms = KeyTerms(stage, version, {"partition": partition, **(settings or {})}, contents)
    name = f"{TABLES.get(stage, stage)}.parquet"
    table = pa.table({"image_id": pa.array(rows, pa.int64())})
    for column in SCHEMAS.get((stage, name.removesuffix(".parquet")), ()):
        if column.name != "image_id":
            table = table.append_column(column, pa.nulls(len(rows), column.type))
    upstream = {table: [artifact.key for artifact in found] for table, found in inputs.items()}
    return commit(store, terms, name, table_bytes(table), upstream, partition, len(rows))


def commit(
    store: Store,
    terms: KeyTerms,
    name: str,
    data: bytes,
    upstream: Mapping[str, Sequence[str]] | None = None,
    partition: str = "",
    rows: int = 0,
) -> Artifact:
    """Commit an artifact with one file."""
    with store.draft() as draft:
        (draft / name).write_bytes(data)
        manifest = Manifest(
            stage=terms.stage, key=terms.key, partition=partition, terms=terms.as_json(), upstream=upstream or {},
            files={name: FileEntry(digest=digest_bytes(data), size=len(data), rows=rows)}, schema_fingerprint="",
            counts=Counts(rows_in=rows, rows_out=rows), seconds=0.1, host="h", versions={},
        )  # fmt: skip
        return store.commit(draft, manifest)


def put_chain(store: Store, partition: str = "toys/0000", top_p: float = 0.9, rows: Sequence[int] = (1, 2)) -> Inputs:
    """Commit images, captions and triplets of one partition; captions depend on `top_p` and `rows`."""
    images = put(store, "ingest", partition)
    captions = put(store, "caption", partition, {"top_p": top_p}, {"images": [images]}, rows)
    triplets = put(store, "parse", partition, {}, {"captions": [captions]}, rows)
    return {"ingest": [images], "caption": [captions], "parse": [triplets]}


def rewrite(artifact: Artifact, **values: Any) -> None:
    """Make an artifact's manifest one that was written with other values."""
    changed = artifact.manifest.model_copy(update={**values, "seal": ""})
    (artifact.folder / MANIFEST).write_bytes(changed.as_bytes())


def record(store: Store, name: str, *chains: Inputs) -> Run:
    """Record a run that refers to the artifacts of whole chains."""
    run = Run(store, name)
    for stage in chains[0]:
        artifacts = [artifact for chain in chains for artifact in chain[stage]]
        run.record(stage, stage, {artifact.manifest.partition: artifact.key for artifact in artifacts})
    return run
