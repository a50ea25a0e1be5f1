"""Reads relations in the pair layout: V-COCO's person-action-object pairs with boxes, or pairs with any subject.

The file is a list of {image_id, relations: [pair, ...]}. A pair has `person_box` (or `subject` and `subject_box`),
`object`, `object_box`, and `action` (V-COCO's names) or `predicate`. Boxes are [x1, y1, x2, y2] in pixels;
`subject_bbox` and `object_bbox` are COCO's [x, y, width, height] instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from pipeline.data.datasets.annotations import NO_IMAGE, AnnotationError, as_four_numbers, as_id, readable, shown
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.record import AnnotatedRelation, Box, Draft, Unusable, overlap
from pipeline.data.datasets.spill import Spill
from pipeline.runtime.stage import Rejected
from tagger.categories.names import without_case

EXPECTED = "relations: a list of {image_id, relations: [{person_box, action, object, object_box}, ...]}"
SAME_OBJECT_IOU = 0.5


def spill_pairs(path: Path, spill: Spill) -> Iterator[Rejected]:
    """Spills pairs by image id, in file order, and yields rejects of malformed entries. Raises `AnnotationError`."""
    for entry in stream_rows(path, EXPECTED):
        image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id is None or not isinstance(entry.get("relations"), list):
            yield Rejected(NO_IMAGE if image_id is None else image_id, "relations malformed", shown(entry))
            continue
        for relation in entry["relations"]:
            spill.add(image_id, relation)


def require_images(path: Path | None, paired: Sequence[int], known: Set[int], annotations: Path) -> None:
    """Raises `AnnotationError` if the pairs are of other images, unless the dataset may be a small sample of theirs."""
    if len(known) >= len(paired) > 0 and known.isdisjoint(paired):
        raise AnnotationError(
            f"{path}: none of its {len(paired)} images is in {annotations}, e.g. image {paired[0]}; name the relations "
            "of this dataset and split, or omit `relations`"
        )


def add_pairs(draft: Draft, pairs: Iterable[Any], known: Mapping[str, str], category: Callable[[str], str]) -> None:
    """Grounds pairs in the draft: in its box of the same category with the largest overlap, else in an appended box.

    `pairs`: as the file states them. `known`: the dataset's categories, as `known_names` returns them.
    """
    for pair in pairs:
        with draft.rejecting(pair):
            *ends, predicate = _pair(pair, category)
            if unknown := [box.category for box in ends if without_case(box.category) not in known]:
                draft.reject("relation of unknown category", unknown[0])
                continue
            names = [known.get(box.category, known[without_case(box.category)]) for box in ends]
            places = [_place(draft.boxes, box._replace(category=name)) for box, name in zip(ends, names, strict=True)]
            draft.relations.append(AnnotatedRelation(places[0], predicate, places[1]))


def known_names(categories: Collection[str]) -> dict[str, str]:
    """Maps each category name to itself, and each name without case to the first such category."""
    return {without_case(name): name for name in reversed([*categories])} | {name: name for name in categories}


def _pair(entry: Any, category: Callable[[str], str]) -> tuple[Box, Box, str]:
    """The boxes of a pair and their predicate. Raises `Unusable`."""
    found = entry if isinstance(entry, dict) else {}
    names = found.get("subject", "person"), found.get("object")
    predicate = found.get("predicate", found.get("action"))
    if not all(isinstance(text, str) and text.strip() for text in (*names, predicate)):
        raise Unusable("relation malformed")
    subject, target = _corners(found, "subject", "person"), _corners(found, "object")
    if subject is None or target is None:
        raise Unusable("relation without box")
    predicate = readable(str(predicate))
    words = predicate.strip() if "predicate" in found else vcoco_predicate(predicate)
    return Box.between(category(str(names[0])), subject), Box.between(category(str(names[1])), target), words


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
