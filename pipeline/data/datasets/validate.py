"""Validates records against their image files. Whatever cannot be used is rejected with a reason, never silently."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import numpy as np

from pipeline.data.datasets.record import AnnotatedRelation, Box, Draft, ImageRecord
from pipeline.data.images.opening import BadImage, Probe
from pipeline.data.images.refs import UprightImage
from pipeline.runtime.stage import Rejected

BOX_REASONS = frozenset({
    "box empty", "box inverted", "box malformed", "box not finite", "box outside", "unknown category",
    "unknown category id",
})  # fmt: skip
"""Reasons for losing a box."""
IMAGE_REASONS = frozenset({"file name not usable", "image id not an integer", "image id of several files"})
"""Reasons for an image without a record."""
CORRECTED = {"box clipped": "boxes", "declared size wrong": "rows"}
"""Why something is corrected and kept → what it is. If many are, boxes are in another convention or of other images."""
RELATION_REASONS = frozenset({
    "hoi_annotation malformed", "relation malformed", "relation of an id of several boxes",
    "relation of unknown category", "relation to itself", "relation without box", "relations malformed",
    "unknown verb id",
})  # fmt: skip
"""Reasons for losing a relation, or all of an image, which count as one since their number may be unknown."""
MAX_SILENT_CLIP = 1.0
"""Pixels by which a box may exceed the image before its clipping is recorded; annotation tools round by less."""


def validate(record: ImageRecord, found: Probe | BadImage) -> tuple[ImageRecord | None, list[Rejected]]:
    """Returns the usable record (None when its image cannot be used) and everything that was rejected or fixed.

    `found`: what opening the image gave.

    Returned boxes are clipped to the image and have positive size, each (category, box) once; relations point to those
    boxes. Width and height are those of the file, or of the turned image where it is read upright. Reasons: those of
    `BadImage` and of the reader; "never published"; "boxes of the turned image" (annotated as viewers turn it by its
    EXIF orientation: save such files upright); "EXIF orientation not applied" (kept, as no declared size tells which
    pixels the boxes are of; a square, or an image turned by 180° or mirrored, keeps its size); "declared size wrong",
    "box clipped" (fixed and kept); "box not finite", "box inverted", "box empty", "box outside", "box duplicate";
    "relation without box", "relation to itself", "relation duplicate".
    """
    if isinstance(found, BadImage):
        unpublished = record.unpublished and found.reason == "missing file"
        reason = "never published" if unpublished else found.reason
        return None, [*record.rejects, Rejected(record.image_id, reason, found.value)]
    draft = Draft(record.image_id, rejects=[*record.rejects])
    width, height = found.upright_size if isinstance(record.path, UprightImage) else (found.width, found.height)
    declared = (record.width, record.height)
    if declared == found.upright_size != (width, height):
        value = f"declared {record.width}x{record.height}, the pixels are {found.width}x{found.height}"
        draft.reject("boxes of the turned image", value)
        return None, draft.rejects
    if None not in declared and declared != (width, height):
        value = f"declared {record.width}x{record.height}, the file has {width}x{height}"
        draft.reject("declared size wrong", value)
    is_decided = None not in declared and found.upright_size != (found.width, found.height)
    if found.orientation != 1 and not is_decided and not isinstance(record.path, UprightImage):
        value = f"orientation {found.orientation}, the pixels are {width}x{height}"
        draft.reject("EXIF orientation not applied", value)
    places = [_add_box(draft, box, width, height) for box in record.boxes]
    relations: dict[AnnotatedRelation, None] = {}
    for relation in record.relations:
        subject, target = places[relation.subject], places[relation.object]
        names = (record.boxes[end].category for end in (relation.subject, relation.object))
        text = f" {relation.predicate} ".join(names)
        if subject is None or target is None:
            draft.reject("relation without box", text)
        elif subject == target:
            draft.reject("relation to itself", text)
        elif (placed := AnnotatedRelation(subject, relation.predicate, target)) in relations:
            draft.reject("relation duplicate", text)
        else:
            relations[placed] = None
    usable = replace(
        record, width=width, height=height, boxes=tuple(draft.boxes), relations=tuple(relations), rejects=()
    )
    return usable, draft.rejects


def _add_box(draft: Draft, box: Box, width: int, height: int) -> int | None:
    """Adds a box, clipped to the image. Returns its index, that of an equal one if there is one; None if rejected."""
    fault = _fault(box, width, height)
    clipped = box if fault else _clip(box, width, height)
    if not fault and not (clipped.w > 0 and clipped.h > 0):
        fault = "box empty"
    if fault:
        draft.reject(fault, box.written())
        return None
    if _moved(box, clipped) > MAX_SILENT_CLIP:
        draft.reject("box clipped", f"{box.written()} in {width}x{height}")
    identity = clipped[:5]
    if identity in draft.places:
        draft.reject("box duplicate", box.written())
        return draft.places[identity]
    return draft.add(clipped, identity)


def _fault(box: Box, width: int, height: int) -> str | None:
    if not all(math.isfinite(number) for number in (box.x, box.y, box.w, box.h)):
        return "box not finite"
    if box.w < 0 or box.h < 0:
        return "box inverted"
    if box.w == 0 or box.h == 0:
        return "box empty"
    if box.x >= width or box.y >= height or box.x + box.w <= 0 or box.y + box.h <= 0:
        return "box outside"
    return None


def _clip(box: Box, width: int, height: int) -> Box:
    """Clips the box to the image, in the single precision of tables so that comparisons see what is stored."""
    x1, y1 = np.float32(max(box.x, 0.0)), np.float32(max(box.y, 0.0))
    x2, y2 = min(box.x + box.w, float(width)), min(box.y + box.h, float(height))
    return box._replace(x=float(x1), y=float(y1), w=float(np.float32(x2 - x1)), h=float(np.float32(y2 - y1)))


def _moved(box: Box, clipped: Box) -> float:
    right = abs(box.x + box.w - clipped.x - clipped.w)
    bottom = abs(box.y + box.h - clipped.y - clipped.h)
    return max(abs(box.x - clipped.x), abs(box.y - clipped.y), right, bottom)


_CHECKED_IMAGES = 1000
_CORNER_SHARE = 0.2
"""Share of boxes that must fit better as corners. In the right convention, few boxes reach beyond their image."""


def box_doubts(what: str, records: Iterable[ImageRecord]) -> str:
    """Signs that boxes are not x, y, width and height in pixels, and what to do about them; "" if there are none.

    Takes the boxes of the first images of `what`, e.g. "dataset coco".
    """
    images = boxes = small = corners = 0
    for record in islice(records, _CHECKED_IMAGES):
        images += 1
        for box in record.boxes:
            boxes += 1
            small += box.w < 1 and box.h < 1
            if record.width is not None and record.height is not None:
                beyond = box.x + box.w > record.width + 1 or box.y + box.h > record.height + 1
                corners += beyond and box.x < box.w <= record.width + 1 and box.y < box.h <= record.height + 1
    of = f"of {boxes} boxes of its first {images} images"
    if not boxes:
        return f"{what}: none of its first {images} images has a box; check that the annotations belong to the images"
    if small > boxes / 2:
        return (
            f"{what}: {small} {of} are smaller than a pixel; if they are relative to the image, multiply them by its "
            "size"
        )
    if corners > _CORNER_SHARE * boxes:
        return (
            f"{what}: {corners} {of} reach beyond their image and would fit as two corners (x1, y1, x2, y2); "
            "write them as x, y, width, height"
        )
    return ""
