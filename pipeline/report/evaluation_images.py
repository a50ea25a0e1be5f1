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
from pipeline.report.drawing import Drawing, Line, Rect

LONGEST_SIDE = 560
"""Longest side of an image in the page, in pixels."""
LISTED = 5
"""Relations of each kind that are listed next to an image."""
DRAWN = {"found": 3, "wrong": 1, "unfound": 3}
"""Relations of each kind that are drawn, the most confident first; more would hide the image."""
SAME_BOX = 0.5
"""Boxes of one name with at least this IoU are drawn once."""


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
    drawing: Drawing
    """In pixels; lines run from the centre of a subject to that of its object"""
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
    named: list[tuple[str, Rect]] = []
    outlines: list[tuple[Rect, str]] = []
    lines: list[tuple[Line, str]] = []
    for style, relations, rows in shown if source else ():
        for row in rows[: DRAWN[style]]:
            ends = _ends(relations, row, images.objects, shrunk)
            if len(ends) == 2:
                lines.append(((*ends[0][1].centre, *ends[1][1].centre), style))
            for end in ends:  # found relations are drawn first, so that their colour stays
                if not any(_is_same(end, other) for other in named):
                    named.append(end)
                    outlines.append((end[1], style))
    drawing = Drawing.of(size, max(size) / 30, outlines, named, lines)
    listed = {style: _listed(images, relations, rows, style) for style, relations, rows in shown}
    return ShownImage(images.titles[position], precision, source, problem, drawing, **listed)


def _ends(relations: Relations, row: int, names: Sequence[str], shrunk: float) -> list[tuple[str, Rect]]:
    """The name and box of a relation's subject and, if it has one, its object."""
    ends = []
    for corners, label in (
        (relations.subject_boxes[row], relations.subject_labels[row]),
        (relations.object_boxes[row], relations.object_labels[row]),
    ):
        if np.isfinite(corners).all():
            left, top, right, bottom = (round(float(value) * shrunk, 1) for value in corners)
            ends.append((names[int(label)], Rect(left, top, round(right - left, 1), round(bottom - top, 1))))
    return ends


def _is_same(one: tuple[str, Rect], other: tuple[str, Rect]) -> bool:
    overlap = aligned_iou(np.array(one[1].corners), np.array(other[1].corners))
    return one[0] == other[0] and float(overlap) >= SAME_BOX


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
