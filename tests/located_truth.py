"""Judges labels on detected boxes by relations that are given between other boxes of the same images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.data.datasets.record import Box, overlap
from pipeline.labels.kept_labels import KeptLabels
from tagger.audit.labels import SYMMETRIC, Agreement, Fact, agreement
from tagger.english.predicates import canonical

SAME_OBJECT = 0.5
"""IoU from which a detected box counts as a given one of its category, as in HICO-DET and COCO's AP50."""


def located_agreement(images: pa.Table, kept: KeptLabels, given: pa.Table, least: float = SAME_OBJECT) -> Agreement:
    """Compares the kept labels of `images` with the relations of `given`, a table of the same images (by `uri`).

    Each given box belongs to at most one detected box of its category: of all pairs with an IoU of at least `least`, those with
    the highest come first. A relation of a box that no detection found can't be reached, but counts as true. Only images with
    given relations are judged. With `given` for `images`, this is the audit of labels on given boxes.
    """
    truths = {row["uri"]: row for row in given.to_pylist() if row["relations"]}
    judged = [row for row in images.to_pylist() if row["uri"] in truths]
    found = [{(r.subject, r.predicate, r.object) for r in kept.get(row["image_id"], ())} for row in judged]
    facts = [_facts(truths[row["uri"]], _places(row["boxes"], truths[row["uri"]]["boxes"], least)) for row in judged]
    lost = [_facts(truth, {}) for uri, truth in truths.items() if uri not in {row["uri"] for row in judged}]
    return agreement([*found, *(set() for _ in lost)], [*facts, *lost], SYMMETRIC)


def _places(
    detected: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]], least: float
) -> Mapping[int, int]:
    """Index of a given box → index of the detected one that it is."""
    ours, theirs = list(_boxes(detected)), list(_boxes(given))
    near = [
        (-iou, theirs_at, ours_at)
        for theirs_at, truth in enumerate(theirs)
        for ours_at, box in enumerate(ours)
        if truth.category == box.category and (iou := overlap(truth, box)) >= least
    ]
    places: dict[int, int] = {}
    for _, theirs_at, ours_at in sorted(near):
        if theirs_at not in places and ours_at not in places.values():
            places[theirs_at] = ours_at
    return places


def _facts(truth: Mapping[str, Any], places: Mapping[int, int]) -> set[Fact]:
    """The given relations between detected boxes. A given box that none was found for gets an index that no label has."""
    return {
        (
            places.get(r["subject"], -1 - r["subject"]),
            canonical(r["predicate"]),
            places.get(r["object"], -1 - r["object"]),
        )
        for r in truth["relations"]
    }


def _boxes(rows: Iterable[Mapping[str, Any]]) -> Iterable[Box]:
    return (Box(row["category"], row["x"], row["y"], row["w"], row["h"]) for row in rows)
