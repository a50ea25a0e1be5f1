"""Column lineage for other systems: the input columns of each column in a stage's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def _same(table: str, *columns: str) -> _Columns:
    """Columns copied unchanged."""
    return {column: (f"{table}.{column}",) for column in columns}


def _from(sources: str, *columns: str) -> _Columns:
    """Columns that all come from the same input columns, which `sources` separates by spaces."""
    return {column: tuple(sources.split()) for column in columns}


_IDENTITY = ("dataset", "split", "image_id", "uri", "digest", "width", "height")
_IMAGE = "images.uri images.digest"
"""The bytes of an image, which tables hold as a location and a digest."""
_LABELLED = f"{_IMAGE} images.boxes images.relations relations.relations"
_MEMBERS = "shards.shard shards.offset shards.size shards.digest"
"""The bytes of a tar, which tables hold as locations."""
_SHARDS = {
    **_same("images", "dataset", "image_id", "width", "height"),
    **_from("images.dataset images.image_id", "shard", "key"),
    **_from(_IMAGE, "extension", "phash"),
    **_from(_LABELLED, "offset", "size", "digest", "check"),
}
_PACKED: Mapping[str, _Columns] = {
    "shards": _SHARDS,
    "statistics": {
        **_from("images.dataset images.image_id", "shard"),
        **_from("images.boxes images.relations relations.relations", "kind", "name", "count"),
    },
    "excluded": {
        **_same("images", "image_id"),
        **_from(
            "images.dataset images.image_id images.digest fingerprints.digest fingerprints.phash", "reason", "value"
        ),
    },
    "overrides": {
        **_same("images", "image_id"),
        **_from("images.digest images.boxes relations.relations", "subject", "predicate", "object", "holds"),
    },
}

SOURCES: Mapping[str, Mapping[str, _Columns]] = {
    "ingest": {},
    "detect": {
        "images": {**_same("images", *_IDENTITY, "relations"), **_from(_IMAGE, "boxes")},
        "detections": {**_same("images", "image_id", "uri", "width", "height"), **_from(_IMAGE, "boxes")},
    },
    "fingerprint": {"fingerprints": {**_same("images", "dataset", "image_id"), **_from(_IMAGE, "digest", "phash")}},
    "caption": {"captions": {**_same("images", "image_id"), **_from(f"{_IMAGE} images.boxes", "captions")}},
    "parse": {"triplets": {**_same("captions", "image_id"), **_from("captions.captions", "triplets")}},
    "shard_tagger": _PACKED,
    "train_tagger": {"tagger": _from(_MEMBERS, "value")},
    "import_tagger": {},
    "tag": {
        "relations": {
            **_same("images", "image_id"),
            **_from(f"{_IMAGE} images.width images.height images.boxes triplets.triplets", "relations"),
        },
        "candidates": {
            **_same("images", "image_id"),
            **_from("images.width images.height images.boxes triplets.triplets", "pairs"),
        },
        "dropped": {
            **_same("images", "image_id"),
            **_from("images.boxes triplets.triplets", "triplet", "reason", "value"),
        },
    },
    "verify": {
        "opinions": {
            **_same("images", "image_id"),
            **_from(f"{_IMAGE} images.width images.height images.boxes relations.relations", "opinions"),
        },
    },
    "split": {
        "split": _from("images.boxes images.relations", "subject", "predicate", "object", "instances", "unseen"),
    },
    "shard": _PACKED,
    "overlap": {
        "overlap": {
            **_same("shards", "dataset", "image_id"),
            **_from("fingerprints.dataset", "test_dataset"),
            **_from("fingerprints.image_id", "test_image_id"),
            **_from("shards.digest shards.phash fingerprints.digest fingerprints.phash", "how", "distance"),
        },
    },
    "pretrain": {"weights": _from(f"{_MEMBERS} {_IMAGE} images.boxes images.relations", "value")},
    "evaluate": {
        "scores": _from(f"{_IMAGE} images.boxes images.relations split.unseen", "value"),
        "detections": {**_same("images", "image_id", "uri", "width", "height"), **_from(_IMAGE, "boxes", "pairs")},
    },
}
"""Stage → table → column → columns of the tables that the stage reads, as `table.column`.

Columns without an entry have no source column: they come from weights, settings, annotation files or counting.
"""


def schema_of(stage: str, table: str) -> pa.Schema | None:
    """The schema of a stage's table; None if it is not declared, e.g. because an earlier version wrote it."""
    name, schema = WRITTEN.get(stage, ("", None))
    return schema if table == name else BESIDE.get(table)


def sources_of(stage: str, table: str) -> _Columns:
    """Column → its input columns; empty if none are declared."""
    return SOURCES.get(stage, {}).get(table, {})
