"""Relations of many images as columns, which every metric reads: whole test sets are scored without a loop over images.

Boxes are N×4 absolute pixels (left, top, right, bottom); labels and predicates are indices into name lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.interactions import Floats, Integers, Interactions


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

    @classmethod
    def of(cls, by_image: Sequence[Interactions]) -> Relations:
        """Joins the interactions of images, in their order."""
        columns = {
            field.name: None
            if any(getattr(each, field.name) is None for each in by_image)
            else np.concatenate([np.zeros((0, 4) if field.name.endswith("boxes") else 0), *_each(by_image, field.name)])
            for field in fields(Interactions)
        }
        for name in ("subject_labels", "object_labels", "predicates"):
            columns[name] = np.asarray(columns[name], np.int64)
        image = np.repeat(np.arange(len(by_image)), [len(each) for each in by_image])
        return cls(images=len(by_image), image=image, **columns)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: NDArray[Any]) -> Relations:
        """Returns the relations that `index` (ascending positions or a mask) selects; the images stay the same."""
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


def _each(by_image: Sequence[Interactions], name: str) -> list[NDArray[Any]]:
    return [getattr(each, name) for each in by_image]
