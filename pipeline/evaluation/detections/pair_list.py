"""Reads JSON lists of pairs {image, box_h, box_o, object_coco80, verb, score} of a person and a COCO category."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.data.datasets.annotations import as_four_numbers, as_id, as_number, shown
from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.evaluation.detections.content import DetectionColumns, DetectionsContent

PAIR_FIELDS = ("image", "box_h", "box_o", "object_coco80", "verb", "score")


def read_pair_list(content: DetectionsContent, entries: Iterable[Any], predicates: Sequence[str]) -> None:
    """Reads pairs, whose boxes are (left, top, right, bottom) and whose `verb` is a place in `predicates`."""
    names = list(COCO_CATEGORIES.values())
    content.objects = {name: code for code, name in enumerate(names)}
    content.predicates = {name: code for code, name in enumerate(predicates)}
    places: dict[str, int] = {}
    numbers, row = [], []
    for position, entry in enumerate(entries):
        found = _pair_of(entry)
        if found is None:
            content.faults.add("pair malformed", 1, [f"entry {position}: {shown(entry)}"])
            continue
        name, numbers_of_pair = found
        row.append(places.setdefault(name, len(places)))
        numbers.append(numbers_of_pair)
    content.images = [(None, name) for name in places]
    content.sizes = [(np.nan, np.nan)] * len(places)
    values = np.array(numbers, np.float64).reshape(-1, 11)
    codes = values[:, 8:10].astype(np.int64)
    known = [
        (codes[:, 0] >= 0) & (codes[:, 0] < len(names)),
        (codes[:, 1] >= 0) & (codes[:, 1] < len(predicates)),
    ]
    places_of = np.array(row, np.int64)
    content.note("object class out of range", np.flatnonzero(~known[0]), places_of, codes[:, 0])
    content.note("predicate out of range", np.flatnonzero(known[0] & ~known[1]), places_of, codes[:, 1])
    kept = known[0] & known[1]
    content.parts.append(
        DetectionColumns(
            row=places_of[kept],
            subject_boxes=values[kept, :4],
            object_boxes=values[kept, 4:8],
            subjects=np.full(int(kept.sum()), content.objects["person"]),
            objects=codes[kept, 0],
            predicates=codes[kept, 1],
            scores=values[kept, 10],
        )
    )


def _pair_of(entry: Any) -> tuple[str, tuple[float, ...]] | None:
    """The image of a pair, and its boxes, object, verb and score; None if it is malformed."""
    if not isinstance(entry, dict):
        return None
    name, score = entry.get("image"), as_number(entry.get("score"))
    boxes = as_four_numbers(entry.get("box_h")), as_four_numbers(entry.get("box_o"))
    codes = as_id(entry.get("object_coco80")), as_id(entry.get("verb"))
    if boxes[0] is None or boxes[1] is None or codes[0] is None or codes[1] is None:
        return None
    return (
        (name, (*boxes[0], *boxes[1], codes[0], codes[1], score))
        if isinstance(name, str) and score is not None
        else None
    )
