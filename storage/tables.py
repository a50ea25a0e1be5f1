"""Arrow schemas of the tables between stages, and their evolution. One row is one image; nested columns hold its items.

Older tables are read with today's columns by declared values (`ADDED`); anything undeclared is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import FatalError

TEXT, FLAG, INT, LONG, HASH, FLOAT = pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.uint64(), pa.float32()

BOX = pa.struct({"category": TEXT, **dict.fromkeys("xywh", FLOAT), "crowd": FLAG, "source_id": LONG})
"""One bounding box: top-left corner and size, in absolute pixels."""

ANNOTATED_RELATION = pa.struct({"subject": INT, "predicate": TEXT, "object": INT})
"""A relation of a dataset's ground truth. `subject` and `object` are indices into the image's boxes."""

IMAGE_CAPTION = pa.struct({
    "text": TEXT, "draw": INT, "seed": LONG, "log_probability": FLOAT, "source": TEXT, "match": FLOAT, "times": INT,
})  # fmt: skip
"""`match`: probability that the caption belongs to the image, null without a filter; `times`: draws that gave it."""

CAPTION = pa.struct([*IMAGE_CAPTION, pa.field("boxes", pa.list_(INT))])
"""`boxes`: indices of the box or the two boxes that it describes; null for the whole image."""

TRIPLET = pa.struct({
    **{f"{part}{form}": TEXT for part in ("subject", "predicate", "object") for form in ("", "_lemma")},
    "caption": INT,
    **{f"{part}_{end}": INT for part in ("subject", "predicate", "object") for end in ("start", "end")},
    "rule": TEXT,
    **{f"{end}_count": INT for end in ("subject", "object")},
    **{f"{end}_attributes": pa.list_(TEXT) for end in ("subject", "object")},
})  # fmt: skip
"""Words of one caption: surface forms, head lemmas, canonical predicate. Offsets count the caption's characters.

A count is 0 for a plural without a number.
"""

CANDIDATE = pa.struct({
    "subject": INT, "object": INT, "predicate": TEXT, "triplet": INT, "ambiguity": INT, "mention": INT, "prior": FLOAT,
    "support": INT,
})  # fmt: skip
"""A triplet grounded to one ordered pair of boxes.

Candidates of one `mention` (-1: none) are alternatives. A mention has `ambiguity` candidates, `support` triplets state
it, and its `prior`s sum to the number of pairs that are meant. A pair has one row per mention that may mean it.
"""

RELATION = pa.struct({
    "subject": INT, "object": INT, "predicate": TEXT, "score": FLOAT, "proposed": FLAG, "triplet": INT, "caption": INT,
    "calibrated": FLOAT, "posterior": FLOAT, "probability": FLOAT,
    "tagger_part": FLOAT, "prior_part": FLOAT, "posterior_part": FLOAT, "captions_part": FLOAT,
})  # fmt: skip
"""A scored label. `proposed` says whether the triplet (of `caption`; -1: of none) named this very pair.

`calibrated` is the probability that corresponds to the score, `posterior` that of the mention to mean this pair, and
`probability` that the relation holds of this very pair. The parts are what the tagger, boxes and names, the comparison
with the mention's other pairs, and the number of statements add to its log-odds.
"""

IMAGES = pa.schema({
    "dataset": TEXT, "split": TEXT, "image_id": LONG, "uri": TEXT, "digest": TEXT, "width": INT, "height": INT,
    "boxes": pa.list_(BOX), "relations": pa.list_(ANNOTATED_RELATION),
})  # fmt: skip
CAPTIONS = pa.schema({"image_id": LONG, "captions": pa.list_(CAPTION)})
IMAGE_CAPTIONS = pa.schema({"image_id": LONG, "captions": pa.list_(IMAGE_CAPTION)})
"""The form in which captions of whole images alone are written, so that digests stay. It is read as `CAPTIONS`."""
TRIPLETS = pa.schema({"image_id": LONG, "triplets": pa.list_(TRIPLET)})
CANDIDATES = pa.schema({"image_id": LONG, "pairs": pa.list_(CANDIDATE)})
DROPPED = pa.schema({"image_id": LONG, "triplet": INT, "reason": TEXT, "value": TEXT})
"""Triplets that led to no candidate: the index among the image's triplets, the reason, and the word."""

RELATIONS = pa.schema({"image_id": LONG, "tagger": TEXT, "relations": pa.list_(RELATION)})
"""`tagger` is the digest of the tagger that made the scores."""

OPINION = pa.struct({"subject": INT, "predicate": TEXT, "object": INT, "probability": FLOAT})
"""What a verifier says of a kept label, by boxes and canonical predicate: the probability that it holds."""

OPINIONS = pa.schema({"image_id": LONG, "verifier": TEXT, "opinions": pa.list_(OPINION)})
"""Second opinions on kept labels, which are nobody's verdicts. `verifier` identifies the labeller that gave them."""

DETECTED_BOX = pa.struct({"category": TEXT, "score": FLOAT, **dict.fromkeys("xywh", FLOAT)})
"""One box that a network found: top-left corner and size, in absolute pixels."""

DETECTED_PAIR = pa.struct({"subject": INT, "object": INT, "predicate": TEXT, "score": FLOAT})
"""One relation that a network found. `subject` and `object` are indices of the image's boxes; object -1: none."""

DETECTIONS = pa.schema({
    "image_id": LONG, "uri": TEXT, "width": INT, "height": INT,
    "boxes": pa.list_(DETECTED_BOX), "pairs": pa.list_(DETECTED_PAIR),
})  # fmt: skip
"""What a network found in images, best pairs first. `image_id` is null for images that belong to no dataset.

Scores of detected boxes are here, in the order of the boxes of `images`: in that table they would change all its bytes.
"""

DETECTIONS_FILE = "detections.parquet"
"""The file of such a table."""

REJECTED = pa.schema({"image_id": LONG, "stage": TEXT, "reason": TEXT, "value": TEXT})
"""Quarantined rows: what was rejected, by which stage, why, and the offending value as text."""

SHARD_MEMBERS = pa.schema({
    "shard": TEXT, "key": TEXT, "extension": TEXT, "offset": LONG, "size": LONG, "digest": TEXT, "check": TEXT,
    "dataset": TEXT, "image_id": LONG, "width": INT, "height": INT, "phash": HASH,
})  # fmt: skip
"""The index of tar shards, one row per member: the tar, where the member's bytes lie in it, and their sha256.

`check` is the 128-bit XXH3 of the bytes, which every read is compared with: it takes a tenth of the time of a sha256.

Members with the same `key` make up a sample. `dataset` to `phash` describe its image; they are null in the index of a
tar that another program wrote. Only the member that holds the image has a `phash`.
"""

SHARD_STATISTICS = pa.schema({"shard": TEXT, "kind": TEXT, "name": TEXT, "count": LONG})
"""What a tar holds, so that it need not be read: counts by kind "total" (names images, images without relations,
boxes, relations), "object" (category names), "predicate" (canonical predicates) and "surface" (predicates in the words
of captions and datasets)."""

FINGERPRINTS = pa.schema({"dataset": TEXT, "image_id": LONG, "digest": TEXT, "phash": HASH})
"""How a test image is recognised: sha256 of its bytes, and its perceptual hash, null without structure."""

OVERLAP = pa.schema({
    "dataset": TEXT, "image_id": LONG, "test_dataset": TEXT, "test_image_id": LONG, "how": TEXT, "distance": INT,
})  # fmt: skip
"""Training images that are also test images. `how` is "same bytes", "same image id" or "near-duplicate".

`distance` counts the bits in which the perceptual hashes of a near-duplicate differ; it is null for the others.
"""

SPLIT = pa.schema({"subject": TEXT, "predicate": TEXT, "object": TEXT, "instances": LONG, "unseen": FLAG})
"""Triplets by name, with canonical predicates: `instances` in the training sets, and whether training excludes them."""

METRICS = pa.schema({"step": LONG, "name": TEXT, "value": pa.float64()})
"""Numbers that a whole-set stage measured (losses by step, scores at the end)."""


def table_bytes(table: pa.Table) -> bytes:
    """`table` as Parquet bytes, with settings under which equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=3, write_statistics=False, store_schema=False)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def write_table(table: pa.Table, path: Path) -> None:
    """Write `table` as a Parquet file."""
    path.write_bytes(table_bytes(table))


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a Parquet file. With `schema`, cast to it; raises ValueError (e.g. ArrowInvalid) for other columns."""
    table = pq.read_table(path)
    return table if schema is None else table.cast(schema)


SCHEMAS: Mapping[tuple[str, str], pa.Schema] = {
    ("ingest", "images"): IMAGES,
    ("detect", "images"): IMAGES,
    ("detect", "detections"): DETECTIONS,
    ("caption", "captions"): CAPTIONS,
    ("parse", "triplets"): TRIPLETS,
    ("tag", "candidates"): CANDIDATES,
    ("tag", "dropped"): DROPPED,
    ("tag", "relations"): RELATIONS,
    ("verify", "opinions"): OPINIONS,
    ("shard", "shards"): SHARD_MEMBERS,
    ("shard_tagger", "shards"): SHARD_MEMBERS,
    ("evaluate", "detections"): DETECTIONS,
    ("fingerprint", "fingerprints"): FINGERPRINTS,
    ("overlap", "overlap"): OVERLAP,
    ("split", "split"): SPLIT,
}
"""Stage and table → today's schema."""

ADDED: Mapping[str, Any] = {
    "captions.captions.times": 1,
    "candidates.pairs.mention": -1,
    "relations.relations.caption": -1,
    "captions.captions.match": None,
    "captions.captions.boxes": None,
    "relations.tagger": None,
    **{f"triplets.triplets.{end}_{name}": None for end in ("subject", "object") for name in ("count", "attributes")},
    **{f"candidates.pairs.{name}": None for name in ("prior", "support")},
    **{f"relations.relations.{name}": None for name in ("calibrated", "posterior", "probability")},
    **{f"relations.relations.{name}_part": None for name in ("tagger", "prior", "posterior", "captions")},
    **{f"shards.{name}": None for name in ("digest", "check", "dataset", "width", "height", "phash")},
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
    upgraded = _read_as(held, pa.struct(list(wanted)), name, where, stage)
    return pa.Table.from_arrays([upgraded.field(i) for i in range(len(wanted))], schema=wanted)


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
                f"{where}: column {path}.{min(unknown)} is from another version of rlip; upgrade rlip or "
                f"{_again(stage)}"
            )
        children = [_field(held, field, f"{path}.{field.name}", where, stage) for field in wanted]
        return pa.StructArray.from_arrays(children, fields=list(wanted), mask=held.is_null())
    if pa.types.is_list(wanted) and pa.types.is_list(held.type):
        values = _read_as(held.flatten(), wanted.value_type, path, where, stage)
        lengths = held.value_lengths().fill_null(0).to_pylist()
        # Recounted: `flatten` leaves out the items behind missing lists, which the held offsets still count.
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
        raise FatalError(f"{where}: written by an older version, without column {path}; {_again(stage)}")
    return pa.array([ADDED[path]] * len(held), field.type)


def _again(stage: str) -> str:
    return f"run its recipe again (`rlip run`): stage {stage} recomputes the table"


def _shape(kind: pa.DataType | pa.Schema) -> Any:
    """A type as nested lists, in which names of list items, which Parquet changes, don't count."""
    if isinstance(kind, pa.Schema) or pa.types.is_struct(kind):
        return [(field.name, _shape(field.type)) for field in kind]
    return [_shape(kind.value_type)] if pa.types.is_list(kind) else str(kind)
