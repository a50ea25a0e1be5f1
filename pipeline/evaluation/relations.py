"""Relations and boxes of whole test sets as columns, so that every metric scores them without a loop over images.

Boxes are N×4 absolute pixels (left, top, right, bottom); labels and predicates are indices into name lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Masks = NDArray[Any]
"""COCO's run-length encodings, {size: [height, width], counts}; None where an interaction has no object"""


@dataclass(frozen=True)
class Relations:
    """N relations of `images` images, by ascending image. `scores` ranks predictions; ground truth has none."""

    images: int
    image: Integers
    """N: the position of each relation's image in the test set"""
    subject_boxes: Floats
    object_boxes: Floats
    """N×4; NaN where an interaction has no object"""
    subject_labels: Integers
    object_labels: Integers
    predicates: Integers
    scores: Floats | None = None
    masks: Masks | None = None
    """N×2, of subject and object; None if only boxes are known"""

    @classmethod
    def of(cls, by_image: Sequence[Relations]) -> Relations:
        """Joins the relations of single images, in their order."""
        images, none, no_box = len(by_image), np.zeros(0, np.int64), np.zeros((0, 4))
        parts = [replace(each, images=images, image=np.full(len(each), n)) for n, each in enumerate(by_image)]
        joined = cls.joined(parts or [cls(0, none, no_box, no_box, none, none, none, np.zeros(0))])
        labels = ("subject_labels", "object_labels", "predicates")  # an empty list of an image becomes floats
        return replace(joined, **{name: getattr(joined, name).astype(np.int64, copy=False) for name in labels})

    @classmethod
    def joined(cls, parts: Sequence[Relations]) -> Relations:
        """Joins relations of the same images, in their order. Scores or masks that a part lacks are lost."""
        columns: dict[str, Any] = {}
        for name in (field.name for field in fields(cls) if field.name != "images"):
            found = [getattr(part, name) for part in parts]
            columns[name] = None if any(each is None for each in found) else np.concatenate(found)
        return cls(max(part.images for part in parts), **columns)

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: NDArray[Any] | slice) -> Relations:
        """Returns the relations that `index` (positions, a mask or a slice) selects, in its order; all images stay."""
        columns: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column[index]
            for field in fields(self)
            if field.name != "images"
        }
        return replace(self, **columns)

    @property
    def triplets(self) -> Integers:
        """N×3: subject label, object label, predicate."""
        return np.stack([self.subject_labels, self.object_labels, self.predicates], axis=1).astype(np.int64)


def scores_of(predicted: Relations) -> Floats:
    """Returns the scores of predictions. Raises ValueError where they have none."""
    if predicted.scores is None:
        raise ValueError("predictions have no scores; only ground truth may lack them")
    return predicted.scores


def aligned_iou(left: Floats, right: Floats, pixel: float = 1.0, least: float = 0.0) -> Floats:
    """Returns the IoU of each box of ...×4 with its counterpart in another ...×4; NaN where a box is.

    A side is `end - start + pixel` long: 1 where both ends belong to the box, 0 for edges between pixels. Boxes overlap
    where `end - start` of their intersection exceeds `least` on both axes.
    """
    width, height = _common(left, right, 0), _common(left, right, 1)
    common = np.where((width > least) & (height > least), (width + pixel) * (height + pixel), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(common / (_area(left, pixel) + _area(right, pixel) - common))


def aligned_mask_iou(left: Masks, right: Masks) -> Floats:
    """Returns the IoU of each mask of N×2 with its counterpart, in pixels. Raises ValueError if their sizes differ."""
    from pycocotools.mask import iou

    pairs = [*zip(left.flat, right.flat, strict=True)]
    found = np.array([iou([one], [other], [False]).item() for one, other in pairs], np.float64)
    if (found < 0).any():  # pycocotools' answer to two sizes
        sizes = " and ".join("×".join(map(str, each["size"])) for each in pairs[int((found < 0).argmax())])
        raise ValueError(f"masks of one image have {sizes} pixels (height × width); encode them in pixels of the image")
    return found.reshape(left.shape)


def _common(left: Floats, right: Floats, axis: int) -> Floats:
    """Returns how far the boxes' intersection extends along an axis, from first to last pixel."""
    start, end = np.maximum(left[..., axis], right[..., axis]), np.minimum(left[..., axis + 2], right[..., axis + 2])
    return np.asarray(end - start)


def _area(boxes: Floats, pixel: float) -> Floats:
    return np.asarray((boxes[..., 2] - boxes[..., 0] + pixel) * (boxes[..., 3] - boxes[..., 1] + pixel))
