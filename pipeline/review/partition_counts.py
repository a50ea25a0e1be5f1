"""Counts one partition for the overview: its funnel, and its labels by score. What is shown is sums of these counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.flat_list import FlatList
from pipeline.labels.label_funnel import LabelTally, partition_tally
from pipeline.labels.labelled_partitions import candidates
from pipeline.review.partition_rows import PartitionArtifacts
from storage.artifact import Artifact
from tagger.audit.labels import SYMMETRIC
from tagger.english.predicates import canonical

BINS = 60
"""Bins of equal width from 0 to 1. They add up to the 15 of the calibration error and to the 20 of the histogram."""
EDGES = np.arange(1, BINS) / BINS
"""Where a bin ends and the next begins; a score on an edge is in the upper one."""

COUNTS = pa.schema([("part", pa.int32()), ("level", pa.string()), ("name", pa.string()), ("number", pa.int64())])
"""Rows of a `LabelTally`. Levels `audited images`, `audited given`, `audited proposed` and `audited reachable` count what
the curves need beside the labels: images with given relations, these relations, distinct proposals on these images, and
those of the given relations that are proposed."""

SCORES = pa.schema(
    [
        ("part", pa.int32()),
        ("measure", pa.string()),
        ("bin", pa.int32()),
        ("kept", pa.bool_()),
        ("correct", pa.bool_()),
        ("number", pa.int64()),
        ("total", pa.float64()),
    ]
)
"""Labels by bin. `measure` is `score` or `probability`, over all labels, or `fact`: distinct labels of images with given
relations, by score, where both directions of a symmetric predicate are one label. `total` sums the binned values."""


@dataclass(frozen=True)
class PartitionCounts:
    """The counts of one partition, in the schemas above."""

    counts: pa.Table
    scores: pa.Table


def partition_counts(part: int, found: PartitionArtifacts, relations: pa.Table) -> PartitionCounts:
    """Counts a partition. `relations`: its labels, as `partition_rows` has them."""
    judged = relations["reason"].to_pylist()
    tally = partition_tally(found.images, found.captions, found.triplets, found.tagged, judged)
    if found.tagged is not None:
        tally.numbers.update(_audited(found.images, found.tagged))
    rows = [{"part": part, "level": level, "name": name, "number": number} for level, name, number in tally.rows()]
    scored = [_binned(part, measure, relations, measure) for measure in ("score", "probability")]
    scored.append(_binned(part, "fact", _facts(relations), "score"))
    return PartitionCounts(pa.Table.from_pylist(rows, schema=COUNTS), pa.concat_tables(scored))


def tally_of(rows: list[dict[str, Any]]) -> LabelTally:
    """The sum of rows of `COUNTS`."""
    return LabelTally.of_rows((row["level"], row["name"], row["number"]) for row in rows)


def bins_of(values: Any) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The bin of each value, an array of any shape."""
    return np.searchsorted(EDGES, np.asarray(values, np.float64), side="right").astype(np.int32)


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
    """The distinct labels of images with given relations, each with its highest score."""
    judged = relations.filter(pc.is_valid(relations["correct"]))
    ends = np.asarray(judged["subject"], np.int64), np.asarray(judged["object"], np.int64)
    turned = np.isin(np.asarray(judged["predicate"].to_pylist(), object), list(SYMMETRIC)) & (ends[1] < ends[0])
    first, second = np.where(turned, ends[1], ends[0]), np.where(turned, ends[0], ends[1])
    keys = {"image": judged["image"], "first": first, "second": second, "predicate": judged["predicate"]}
    table = pa.table({**keys, **{name: judged[name] for name in ("score", "kept", "correct")}})
    highest = table.group_by(list(keys)).aggregate([("score", "max"), ("kept", "max"), ("correct", "max")])
    return pa.table({name: highest[f"{name}_max"] for name in ("score", "kept", "correct")})


def _audited(images: Artifact, tagged: Artifact) -> dict[str, int]:
    """Counts over the tagged images with given relations, by the rules of `LabelAudit`."""
    rows = images.table("images")
    ids = tagged.table("relations")["image_id"]
    given = _distinct(rows, "relations", within=ids)
    audited = {image_id for image_id, *_ in given}
    proposed = {fact for fact in _distinct(candidates(tagged), "pairs") if fact[0] in audited} if audited else set()
    return {
        "audited images": len(audited),
        "audited given": len(given),
        "audited proposed": len(proposed),
        "audited reachable": len(given & proposed),
    }


def _distinct(table: pa.Table, column: str, within: pa.ChunkedArray | None = None) -> set[tuple[int, int, str, int]]:
    """Image id and fact of the items of a nested column, canonical and in one direction where that is the same."""
    items = FlatList.of(table, column)
    ids = table["image_id"].to_pylist()
    wanted = None if within is None else set(within.to_pylist())
    found = set()
    places = zip(
        items.row.tolist(), items.values("subject"), items.values("predicate"), items.values("object"), strict=True
    )
    for row, subject, name, other in places:
        if wanted is not None and ids[row] not in wanted:
            continue
        predicate = canonical(name)
        if predicate in SYMMETRIC and other < subject:
            subject, other = other, subject
        found.add((ids[row], subject, predicate, other))
    return found
