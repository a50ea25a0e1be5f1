"""Reads relations in the pair layout: V-COCO's person-action-object pairs with boxes, or pairs with any subject.

The file is a list of {image_id, relations: [pair, ...]}. A pair has `person_box` (or `subject` and `subject_box`),
`object`, `object_box`, and `action` (V-COCO's names) or `predicate`. Boxes are [x1, y1, x2, y2] in pixels;
`subject_bbox` and `object_bbox` are COCO's [x, y, width, height] instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.datasets.annotations import NO_IMAGE, as_four_numbers, as_id, readable, shown
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.record import AnnotatedRelation, Box, overlap
from pipeline.runtime.stage import Rejected
from tagger.categories.names import without_case

EXPECTED = "relations: a list of {image_id, relations: [{person_box, action, object, object_box}, ...]}"
SAME_OBJECT_IOU = 0.5


class AnnotatedPair(NamedTuple):
    """A relation with its two boxes, whose ids are unknown."""

    subject: Box
    predicate: str
    object: Box


def read_pairs(
    path: Path, category: Callable[[str], str]
) -> tuple[dict[int, list[AnnotatedPair | Rejected]], list[Rejected]]:
    """Reads pairs by image id, in file order, and rejects malformed entries. Raises `AnnotationError`."""
    pairs: dict[int, list[AnnotatedPair | Rejected]] = defaultdict(list)
    rejects = []
    for entry in stream_rows(path, EXPECTED):
        image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id is None or not isinstance(entry.get("relations"), list):
            rejects.append(Rejected(NO_IMAGE if image_id is None else image_id, "relations malformed", shown(entry)))
            continue
        pairs[image_id] += [_pair(image_id, relation, category) for relation in entry["relations"]]
    return dict(pairs), rejects


def add_pairs(
    image_id: int, boxes: list[Box], pairs: Sequence[AnnotatedPair | Rejected], categories: Mapping[str, str]
) -> tuple[list[AnnotatedRelation], list[Rejected]]:
    """Grounds pairs in `boxes`: in the box of the same category with the largest overlap, else in an appended box.

    `categories`: as `known_names` returns them.
    """
    relations: list[AnnotatedRelation] = []
    rejects: list[Rejected] = []
    for pair in pairs:
        if isinstance(pair, Rejected):
            rejects.append(pair)
            continue
        named = pair.subject.category, pair.object.category
        if unknown := [name for name in named if without_case(name) not in categories]:
            rejects.append(Rejected(image_id, "relation of unknown category", unknown[0]))
            continue
        names = [categories.get(name, categories[without_case(name)]) for name in named]
        subject = _place(boxes, pair.subject._replace(category=names[0]))
        target = _place(boxes, pair.object._replace(category=names[1]))
        relations.append(AnnotatedRelation(subject, pair.predicate, target))
    return relations, rejects


def known_names(categories: Collection[str]) -> dict[str, str]:
    """The names of categories by themselves, and by their forms without case, of which the first has each."""
    return {without_case(name): name for name in reversed([*categories])} | {name: name for name in categories}


def _pair(image_id: int, entry: Any, category: Callable[[str], str]) -> AnnotatedPair | Rejected:
    malformed = Rejected(image_id, "relation malformed", shown(entry))
    if not isinstance(entry, dict):
        return malformed
    subject_name, object_name = entry.get("subject", "person"), entry.get("object")
    predicate = entry.get("predicate", entry.get("action"))
    if not all(isinstance(text, str) and text.strip() for text in (subject_name, object_name, predicate)):
        return malformed
    subject_box, object_box = _corners(entry, "subject", "person"), _corners(entry, "object")
    if subject_box is None or object_box is None:
        return Rejected(image_id, "relation without box", shown(entry))
    predicate = readable(str(predicate))
    words = predicate.strip() if "predicate" in entry else vcoco_predicate(predicate)
    return AnnotatedPair(
        Box.between(category(str(subject_name)), subject_box),
        words,
        Box.between(category(str(object_name)), object_box),
    )


def _corners(entry: dict[str, Any], *ends: str) -> Sequence[float] | None:
    """x1, y1, x2, y2 of the box of an end of a pair, which may have several names; None without a usable one."""
    for end in ends:
        if f"{end}_bbox" in entry:
            sides = as_four_numbers(entry[f"{end}_bbox"])
            return sides and (sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3])
        if f"{end}_box" in entry:
            return as_four_numbers(entry[f"{end}_box"])
    return None


def _place(boxes: list[Box], wanted: Box) -> int:
    """The index of the box that shows the wanted object, which is appended if no box does."""
    overlaps = [
        # Negative, so that of equal overlaps the first box is the largest.
        (overlap(box, wanted), -index)
        for index, box in enumerate(boxes)
        if box.category == wanted.category and not box.crowd
    ]
    best, index = max(overlaps, default=(0.0, 0))
    if best >= SAME_OBJECT_IOU:
        return -index
    boxes.append(wanted)
    return len(boxes) - 1


_WORDS = {
    "cut instr": "cut with",
    "drink instr": "drink from",
    "eat instr": "eat with",
    "hit instr": "hit with",
    "jump instr": "jump on",
    "lay instr": "lie on",
    "look obj": "look at",
    "point instr": "point at",
    "ride instr": "ride",
    "sit instr": "sit on",
    "skateboard instr": "ride",
    "ski instr": "ski on",
    "snowboard instr": "ride",
    "surf instr": "ride",
    "talk_on_phone instr": "talk on",
    "work_on_computer instr": "work on",
}


def vcoco_predicate(action: str) -> str:
    """Converts an action such as "hold obj" or "sit instr" to a predicate; elsewhere, only underscores are replaced."""
    action = action.strip().lower()
    if action in _WORDS:
        return _WORDS[action]
    return action.removesuffix(" obj").removesuffix(" instr").replace("_", " ")
