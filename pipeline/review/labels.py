"""The labels that the page shows, read from the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.labels.verdicts import Box4, JudgedRelation, box4
from pipeline.review.index import ReviewIndex
from pipeline.review.partition_rows import SIDES
from storage.digests import digest_json

_LABEL = (
    f"relation, image, place, subject, object, subject_category, predicate, object_category, {', '.join(SIDES)}, "
    "score, probability, proposed, kept, reason, correct"
)
MOST_HELD = 20_000
"""Labels that stay in memory, about 1 kB each. When there are more, all are forgotten."""
_IMAGE = "image, dataset, image_id, uri, digest, width, height"


@dataclass(frozen=True)
class Label:
    """A scored label and its image."""

    number: int
    """The label's number in the index."""
    image: int
    """Its image's number in the index."""
    place: int
    """Its index among the labels of its image."""
    subject: int
    object: int
    subject_category: str
    predicate: str
    object_category: str
    subject_box: Box4
    object_box: Box4
    score: float
    probability: float
    proposed: bool
    kept: bool
    reason: str | None
    """Why it is not kept."""
    correct: bool | None
    dataset: str
    image_id: int
    uri: str
    digest: str
    width: int
    height: int

    @property
    def judged(self) -> JudgedRelation:
        """The relation that a verdict on this label judges."""
        return JudgedRelation(self.digest, self.subject_box, self.object_box, self.predicate)

    @property
    def content(self) -> str:
        """A digest of what `judged` names: numbers refer to other labels once labels are recomputed."""
        return digest_json([self.digest, self.subject_box, self.object_box, self.predicate])[:16]

    @property
    def words(self) -> str:
        """The label as words, e.g. "person ride horse"."""
        return f"{self.subject_category} {self.predicate} {self.object_category}"

    @property
    def region(self) -> tuple[int, int, int, int]:
        """The part of the image around both boxes: x, y, width, height in pixels, with aspect ratio 2:1 if possible."""
        left = min(self.subject_box[0], self.object_box[0])
        top = min(self.subject_box[1], self.object_box[1])
        right = max(self.subject_box[0] + self.subject_box[2], self.object_box[0] + self.object_box[2])
        bottom = max(self.subject_box[1] + self.subject_box[3], self.object_box[1] + self.object_box[3])
        margin = 0.15 * max(right - left, bottom - top) + 4
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        width, height = max(width, height * 2), max(height, width / 2)
        x, across = _span((left + right) / 2, width, self.width)
        y, down = _span((top + bottom) / 2, height, self.height)
        return x, y, across, down


def labels_of(index: ReviewIndex, numbers: Sequence[int]) -> list[Label]:
    """The labels with these numbers, in this order. Labels that no longer exist are omitted."""
    generation, held = index.generation, index.labels
    found = {number: label for number in numbers if (label := held.get((generation, number))) is not None}
    missing = [number for number in numbers if number not in found]
    for row in _with_images(index, index.rows_at("relations", _LABEL, "relation", missing)):
        label = _label(row)
        found[label.number] = label
        held[generation, label.number] = label
    if len(held) > MOST_HELD:
        held.clear()
    return [found[number] for number in numbers if number in found]


def labels_of_images(index: ReviewIndex, images: Sequence[int]) -> list[Label]:
    """All labels of the images with these numbers, best first."""
    labels = [_label(row) for row in _with_images(index, index.rows_at("relations", _LABEL, "image", images))]
    return sorted(labels, key=lambda label: (-label.score, label.number))


def _with_images(index: ReviewIndex, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Adds the columns of `_IMAGE` to rows of labels. A join would read all images between the first and the last."""
    images = index.rows_at("images", _IMAGE, "image", sorted({row["image"] for row in rows}))
    of_image = {row["image"]: row for row in images}
    return ({**row, **of_image[row["image"]]} for row in rows if row["image"] in of_image)


def _label(row: dict[str, Any]) -> Label:
    boxes = {end: box4({side: row.pop(f"{end}_{side}") for side in "xywh"}) for end in ("subject", "object")}
    number = row.pop("relation")
    return Label(number=number, subject_box=boxes["subject"], object_box=boxes["object"], **row)


def _span(centre: float, wanted: float, most: int) -> tuple[int, int]:
    """Start and length of a span of `wanted` pixels around `centre` that lies within `most` pixels."""
    length = max(1, min(round(wanted), most))
    return min(max(round(centre - length / 2), 0), most - length), length
