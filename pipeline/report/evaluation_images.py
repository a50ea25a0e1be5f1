"""Drawings of single evaluated images: correct, wrong and missed relations."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.images.opening import BadImage
from pipeline.evaluation.anatomy import FALSE_POSITIVES, Dissection
from pipeline.evaluation.diagnostics import best_and_worst, image_precision
from pipeline.evaluation.relations import Integers, Relations, aligned_iou
from pipeline.report.drawing import Line, Point, Rect, name_places

LONGEST_SIDE = 560
"""Longest side of an image in the page, in pixels."""
LISTED = 5
"""Relations of each kind that are listed next to an image."""
DRAWN = {"found": 3, "wrong": 1, "unfound": 3}
"""Relations of each kind that are drawn, the most confident first; more would hide the image."""
SAME_BOX = 0.5
"""IoU from which a box of the same name is drawn once."""


@dataclass(frozen=True)
class EvaluatedImages:
    """What is needed to show evaluated images."""

    dissection: Dissection
    objects: Sequence[str]
    """Names that labels refer to"""
    predicates: Sequence[str]
    titles: Sequence[str]
    """One for each image, e.g. its file name"""
    read: Callable[[int], Image.Image]
    """Opens the image at a position as RGB; raises `BadImage` or OSError when it can't"""
    longest_side: int = LONGEST_SIDE
    """Of an image, in pixels"""


class DrawnBox(NamedTuple):
    """A box in pixels of the image, with its name."""

    name: str
    rect: Rect
    style: str


DrawnLine = tuple[Line, str]
"""From the centre of a subject to that of its object, in pixels of the image, and its style."""


class ListedRelation(NamedTuple):
    """A relation as text. `style`: found, wrong or unfound; `note`: its kind of error."""

    subject: str
    predicate: str
    object: str
    style: str
    score: float | None
    note: str


@dataclass(frozen=True)
class ShownImage:
    """One image of the gallery. `source` is a data URI, or None with the `problem` that prevents it."""

    title: str
    precision: float
    source: str | None
    problem: str
    width: int
    height: int
    letters: float
    """Font size of the names"""
    boxes: tuple[DrawnBox, ...]
    names: tuple[tuple[str, Point], ...]
    """Each with its upper left corner"""
    lines: tuple[DrawnLine, ...]
    found: tuple[ListedRelation, ...]
    wrong: tuple[ListedRelation, ...]
    unfound: tuple[ListedRelation, ...]

    @property
    def listed(self) -> tuple[ListedRelation, ...]:
        """The relations of each kind that are shown."""
        return self.found[:LISTED] + self.wrong[:LISTED] + self.unfound[:LISTED]


def best_and_worst_images(images: EvaluatedImages, count: int) -> tuple[list[ShownImage], list[ShownImage]]:
    """Returns images of the `count` best and worst images by the average precision within each."""
    precision = image_precision(images.dissection)
    truths = np.bincount(images.dissection.truth.image, minlength=images.dissection.truth.images)
    chosen = best_and_worst(precision, truths, count)
    best, worst = ([shown_image(images, int(at), float(precision[at])) for at in places] for places in chosen)
    return best, worst


def shown_image(images: EvaluatedImages, position: int, precision: float) -> ShownImage:
    """Draws one image with its relations. An image that can't be read has its relations, but no drawing."""
    predicted, truth = images.dissection.predicted, images.dissection.truth
    predictions = np.flatnonzero(predicted.image == position)
    truths = np.flatnonzero(truth.image == position)
    right = predictions[images.dissection.right[predictions]]
    wrong = predictions[~images.dissection.right[predictions]]
    unfound = truths[~images.dissection.found[truths]]
    source, problem, shrunk, size = None, "", 1.0, (1, 1)
    try:
        image = images.read(position)
    except (BadImage, OSError) as error:
        problem = str(error)
    else:
        shrunk = min(1.0, images.longest_side / max(image.size))
        size = max(1, round(image.width * shrunk)), max(1, round(image.height * shrunk))
        source = _data_uri(image.convert("RGB").resize(size))
    shown = (("found", predicted, right), ("wrong", predicted, wrong), ("unfound", truth, unfound))
    boxes: list[DrawnBox] = []
    lines = []
    for style, relations, rows in shown if source else ():
        drawn, more = _drawn(relations, rows[: DRAWN[style]], images.objects, shrunk, style)
        lines += more
        for box in drawn:  # what is found is drawn first, so that its colour stays
            if not any(_is_same(box, other) for other in boxes):
                boxes.append(box)
    letters = max(size) / 30
    places = name_places(((box.name, box.rect) for box in boxes), letters, *size)
    listed = {style: _listed(images, relations, rows, style) for style, relations, rows in shown}
    return ShownImage(
        title=images.titles[position],
        precision=precision,
        source=source,
        problem=problem,
        width=size[0],
        height=size[1],
        letters=letters,
        boxes=tuple(boxes),
        names=tuple((box.name, place[:2]) for box, place in zip(boxes, places, strict=True)),
        lines=tuple(lines),
        found=listed["found"],
        wrong=listed["wrong"],
        unfound=listed["unfound"],
    )


def _drawn(
    relations: Relations, rows: Integers, names: Sequence[str], shrunk: float, style: str
) -> tuple[list[DrawnBox], list[DrawnLine]]:
    boxes, lines = [], []
    for row in rows:
        ends = []
        for corners, label in (
            (relations.subject_boxes[row], relations.subject_labels[row]),
            (relations.object_boxes[row], relations.object_labels[row]),
        ):
            if np.isfinite(corners).all():
                left, top, right, bottom = (round(float(value) * shrunk, 1) for value in corners)
                rect = Rect(left, top, round(right - left, 1), round(bottom - top, 1))
                boxes.append(DrawnBox(names[int(label)], rect, style))
                ends.append(rect.centre)
        if len(ends) == 2:
            lines.append(((*ends[0], *ends[1]), style))
    return boxes, lines


def _is_same(box: DrawnBox, other: DrawnBox) -> bool:
    corners = [np.array(each.rect.corners) for each in (box, other)]
    return box.name == other.name and float(aligned_iou(corners[0], corners[1])) >= SAME_BOX


def _listed(images: EvaluatedImages, relations: Relations, rows: Integers, style: str) -> tuple[ListedRelation, ...]:
    dissection = images.dissection
    listed = []
    for row in rows:
        if style == "wrong":
            note = FALSE_POSITIVES[int(dissection.kind[row])].value
        else:
            note = "missed" if style == "unfound" and dissection.missed[row] else ""
        listed.append(
            ListedRelation(
                images.objects[int(relations.subject_labels[row])],
                images.predicates[int(relations.predicates[row])],
                images.objects[int(relations.object_labels[row])] if relations.object_labels[row] >= 0 else "nothing",
                style,
                None if relations.scores is None else float(relations.scores[row]),
                note,
            )
        )
    return tuple(listed)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
