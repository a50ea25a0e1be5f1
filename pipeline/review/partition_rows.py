"""Flattens one partition of a run for the review index: a row for each image, scored label and quarantined row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.audit_sample import AUDIT_SEED, permanent_numbers_of
from pipeline.labels.flat_list import FlatList, rows_of
from pipeline.labels.kept_labels import ChoiceSettings, judged_artifact
from pipeline.labels.label_audit import facts_by_image
from pipeline.labels.label_funnel import partition_tally
from pipeline.labels.labelled_partitions import LabelledPartition, candidates, opinions, require_same_boxes
from pipeline.runtime.stage import dataset_of
from storage.artifact import Artifact
from storage.tables import FLAG, FLOAT, INT, LONG, TEXT
from tagger.audit.labels import SYMMETRIC, agreement, holds, unordered_ends
from tagger.english.predicates import canonical

DOUBLE = pa.float64()
PART_BITS = 32
"""The number of an image or label: its partition's number in the high bits, and its row in the low 32."""

IMAGES = pa.schema({
    "image": LONG, "part": INT, "row": INT, "dataset": TEXT, "image_id": LONG, "uri": TEXT, "digest": TEXT,
    "width": INT, "height": INT, "scored": INT, "kept": INT, "captions": TEXT,
})  # fmt: skip
"""`row` is the row in the partition's table `images`. `captions` holds the texts, one a line, to search in."""

SIDES = [f"{end}_{side}" for end in ("subject", "object") for side in "xywh"]
"""Columns with the places of a label's boxes."""
RELATIONS = pa.schema({
    "relation": LONG, "image": LONG, "place": INT, "subject": INT, "object": INT,
    "subject_category": TEXT, "predicate": TEXT, "object_category": TEXT,
    **dict.fromkeys(SIDES, FLOAT),
    "score": FLOAT, "probability": FLOAT, "opinion": FLOAT, "confidence": DOUBLE, "number": DOUBLE,
    "proposed": FLAG, "kept": FLAG, "reason": TEXT, "correct": FLAG,
})  # fmt: skip
"""`place` is the label's index in its image; `subject` and `object` index the image's boxes, whose sides are in pixels.
`predicate` is canonical. `probability` is the calibrated or raw score where labels have none; `opinion` is that of the
verifier, null where it has not judged a label. `confidence` decides whether a label is kept. `number` is a kept label's
place in random audits (`pipeline/labels/audit_sample.py`). `correct` says whether the dataset annotates this relation;
null for images without ground-truth relations."""

QUARANTINED = pa.schema({"part": INT, "dataset": TEXT, "image_id": LONG, "step": TEXT, "reason": TEXT, "value": TEXT})


def partition_rows(part: int, found: LabelledPartition, choice: ChoiceSettings) -> dict[str, pa.Table]:
    """The rows of `images`, `relations` and `quarantined` of a partition whose images are there.

    `part` is its number in the index; `choice` decides which labels count as kept. Raises `FatalError` when the images
    were ingested, or their boxes detected, again after they were tagged.
    """
    assert found.images is not None
    images = found.images.table("images")
    numbers = (part << PART_BITS) + np.arange(len(images), dtype=np.int64)
    relations = RELATIONS.empty_table()
    scored = kept = np.zeros(len(images), np.int32)
    if found.tagged is not None:
        require_same_boxes(found.images, found.tagged)
        relations = _relations(part, images, found.tagged, found.verified, choice)
        at = np.asarray(relations["image"]) - (part << PART_BITS)
        scored = np.bincount(at, minlength=len(images)).astype(np.int32)
        kept = np.bincount(at[np.asarray(relations["kept"])], minlength=len(images)).astype(np.int32)
    columns = {
        "image": numbers,
        "part": np.full(len(images), part, np.int32),
        "row": np.arange(len(images), dtype=np.int32),
        **{name: images[name] for name in ("dataset", "image_id", "uri", "digest")},
        **_sizes(images),
        "scored": scored,
        "kept": kept,
        "captions": _texts(images, found.captioned),
    }
    images = pa.table(columns).cast(IMAGES)
    return {"images": images, "relations": relations, "quarantined": _quarantined(part, found)}


def _sizes(images: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Width and height in pixels. Imported images may have none: theirs is the extent of their boxes."""
    boxes = FlatList.of(images, "boxes")
    sizes = {}
    for name, start, length in (("width", "x", "w"), ("height", "y", "h")):
        extent = np.ones(len(images), np.int32)
        ends = np.ceil(boxes.numbers(start) + boxes.numbers(length)).clip(1, 2**30).astype(np.int32)
        # With plain indexing, only one of an image's boxes would count.
        np.maximum.at(extent, boxes.row, ends)
        sizes[name] = pc.coalesce(images[name], pa.array(extent))
    return sizes


def _relations(
    part: int, images: pa.Table, tagged: Artifact, verified: Artifact | None, choice: ChoiceSettings
) -> pa.Table:
    """The scored labels."""
    table = tagged.table("relations")
    labels = FlatList.of(table, "relations")
    row = rows_of(images, table)[labels.row]
    ends = dict(zip(("subject", "object"), labels.ends(), strict=True))
    boxes = FlatList.of(images, "boxes")
    texts, text = labels.coded("predicate")
    predicates = pa.array([canonical(each) for each in texts], pa.string()).take(pa.array(text))
    truths, said = facts_by_image(images, "relations"), opinions(verified, tagged)
    ids = table["image_id"].to_numpy()[labels.row].tolist()
    facts = list(zip(ids, ends["subject"].tolist(), predicates.to_pylist(), ends["object"].tolist(), strict=True))
    opinion = [said.get((i, s, o, p)) for i, s, p, o in facts] if said else [None] * len(facts)
    correct = [holds((s, p, o), truths[i]) if i in truths else None for i, s, p, o in facts]
    judged = judged_artifact(tagged, choice)
    kept = np.asarray(judged.reason.is_null())
    first_box = boxes.starts(len(images))[row]
    box = {end: first_box + index for end, index in ends.items()}
    score = labels.fields.field("score")
    columns: dict[str, Any] = {
        "relation": (part << PART_BITS) + np.arange(len(labels), dtype=np.int64),
        "image": (part << PART_BITS) + row,
        "place": np.arange(len(labels)) - labels.starts(len(table))[labels.row],
        **ends,
        "predicate": predicates,
        "score": score,
        "probability": pc.coalesce(*(labels.fields.field(name) for name in ("probability", "calibrated")), score),
        "proposed": labels.fields.field("proposed"),
        "opinion": pa.array(opinion, FLOAT),
        "confidence": judged.confidence,
        "kept": kept,
        "reason": judged.reason,
        "correct": pa.array(correct, FLAG),
    }
    for end, index in box.items():
        of_end = boxes.fields.take(pa.array(index))
        columns[f"{end}_category"] = of_end.field("category")
        columns |= {f"{end}_{side}": of_end.field(side) for side in "xywh"}
    # Only kept labels have a place in random audits.
    places = np.flatnonzero(kept)
    numbers = np.zeros(len(kept))
    numbers[places] = permanent_numbers_of(
        images["digest"].take(pa.array(row[places])).to_pylist(),
        boxes.xywh(),
        box["subject"][places],
        box["object"][places],
        predicates.take(pa.array(places)).to_pylist(),
        AUDIT_SEED,
    )
    columns["number"] = pa.array(numbers, mask=~kept)
    return pa.table([columns[name] for name in RELATIONS.names], RELATIONS.names).cast(RELATIONS)


def _texts(images: pa.Table, captioned: Artifact | None) -> pa.Array:
    """The captions of each image, one a line; null for an image without any."""
    if captioned is None:
        return pa.nulls(len(images), pa.string())
    table = captioned.table("captions")
    texts: dict[int, list[str]] = {}
    rows = rows_of(images, table)
    for row, text in FlatList.of(table, "captions").each("text"):
        texts.setdefault(int(rows[row]), []).append(text.replace("\n", " "))
    return pa.array(["\n".join(texts[row]) if row in texts else None for row in range(len(images))], pa.string())


def _quarantined(part: int, found: LabelledPartition) -> pa.Table:
    """The rows that each stage rejected, with reasons."""
    dataset = dataset_of(found.name)
    rows = [
        {"part": part, "dataset": dataset, "step": step, **{n: row[n] for n in ("image_id", "reason", "value")}}
        for step, artifact in found.steps().items()
        for row in artifact.rejected().to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINED)


BINS = 60
"""Bins of equal width from 0 to 1. They add up to the 15 of the calibration error and to the 20 of the histogram."""
EDGES = np.arange(1, BINS) / BINS
"""Where a bin ends and the next begins; a score on an edge is in the upper one."""

COUNTS = pa.schema({"part": INT, "level": TEXT, "name": TEXT, "number": LONG})
"""Rows of a `LabelTally`. Levels `audited images`, `audited given`, `audited proposed` and `audited reachable` count
what curves need besides labels: images with ground-truth relations, these relations, distinct proposals on these
images, and proposed ground-truth relations."""

SCORES = pa.schema({
    "part": INT, "measure": TEXT, "bin": INT, "kept": FLAG, "correct": FLAG, "number": LONG, "total": DOUBLE,
})  # fmt: skip
"""Labels by bin. `measure` is `score` or `probability`, over all labels, or `fact`: distinct labels of images with
ground-truth relations, by score; both directions of a symmetric predicate are one label. `total` sums the values."""


TABLES = {"images": IMAGES, "relations": RELATIONS, "quarantined": QUARANTINED, "counts": COUNTS, "scores": SCORES}
"""The tables of the index that follow from a partition alone."""


def partition_counts(part: int, found: LabelledPartition, relations: pa.Table) -> dict[str, pa.Table]:
    """The rows of `counts` and `scores`. `relations`: the partition's labels, as `partition_rows` has them."""
    tally = partition_tally(found, relations["predicate"].to_pylist(), relations["reason"].to_pylist())
    if found.images is not None and found.tagged is not None:
        tally.update({(level, None): number for level, number in _audited(found.images, found.tagged).items()})
    rows = [{"part": part, "level": level, "name": name, "number": n} for (level, name), n in tally.items()]
    scored = [_binned(part, measure, relations, measure) for measure in ("score", "probability")]
    scored.append(_binned(part, "fact", _facts(relations), "score"))
    return {"counts": pa.Table.from_pylist(rows, schema=COUNTS), "scores": pa.concat_tables(scored)}


def bins_of(values: Any) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The bin of each value, an array of any shape. Values are rounded as searches round them."""
    return np.searchsorted(EDGES, np.round(np.asarray(values, np.float64), 6), side="right").astype(np.int32)


def _binned(part: int, measure: str, labels: pa.Table, column: str) -> pa.Table:
    values = pa.array(np.asarray(labels[column], np.float64))
    table = pa.table({"bin": bins_of(values), "kept": labels["kept"], "correct": labels["correct"], "value": values})
    sums = table.group_by(["bin", "kept", "correct"]).aggregate([("value", "count"), ("value", "sum")])
    rows = len(sums)
    columns = [
        pa.array(np.full(rows, part, np.int32)), pa.array([measure] * rows, pa.string()), sums["bin"], sums["kept"],
        sums["correct"], sums["value_count"], sums["value_sum"],
    ]  # fmt: skip
    return pa.table(columns, SCORES.names).cast(SCORES)


def _facts(relations: pa.Table) -> pa.Table:
    """The distinct labels of images with ground-truth relations, each with its highest score."""
    judged = relations.filter(pc.is_valid(relations["correct"]))
    is_symmetric = pc.is_in(judged["predicate"], pa.array(sorted(SYMMETRIC))).to_numpy()
    subject, object_ = (np.asarray(judged[end], np.int64) for end in ("subject", "object"))
    first, second = unordered_ends(subject, object_, is_symmetric)
    keys = {"image": judged["image"], "first": first, "second": second, "predicate": judged["predicate"]}
    table = pa.table({**keys, **{name: judged[name] for name in ("score", "kept", "correct")}})
    highest = table.group_by(list(keys)).aggregate([("score", "max"), ("kept", "max"), ("correct", "max")])
    return pa.table({name: highest[f"{name}_max"] for name in ("score", "kept", "correct")})


def _audited(images: Artifact, tagged: Artifact) -> dict[str, int]:
    """Counts over the tagged images with ground-truth relations, by the rules of `LabelAudit`."""
    truths = facts_by_image(images.table("images"), "relations")
    audited = [image_id for image_id in tagged.table("relations")["image_id"].to_pylist() if image_id in truths]
    proposed = facts_by_image(candidates(tagged), "pairs") if audited else {}
    naive = agreement([proposed.get(image_id, set()) for image_id in audited], [truths[each] for each in audited])
    return {
        "audited images": len(audited),
        "audited given": naive.truths,
        "audited proposed": naive.kept,
        "audited reachable": naive.right,
    }
