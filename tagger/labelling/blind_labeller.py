"""Labels without a look at the image: what every other way of labelling has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from tagger.labelling.blind_labels import naive_labels, prior_labels
from tagger.labelling.tagging_image import Labels, TaggingImage
from tagger.relation import Relation


class BlindLabeller:
    """Every candidate with score 1 ("naive"), or with what boxes and names alone tell, its prior ("prior")."""

    def __init__(self, way: Literal["naive", "prior"], floor: float) -> None:
        self._way, self._floor = way, floor

    def label(
        self, images: Sequence[TaggingImage], progress: Callable[[int], None] = lambda done: None
    ) -> list[Labels]:
        """Labels of each image, each label once; no image is loaded."""
        labels = [Labels([one for one in self._scored(image) if one.score >= self._floor]) for image in images]
        progress(len(images))
        return labels

    def _scored(self, image: TaggingImage) -> list[Relation]:
        if self._way == "naive":
            return naive_labels(image.pairs)
        best: dict[tuple[int, int, str], Relation] = {}
        for one in prior_labels(image.pairs):
            known = best.setdefault((one.subject, one.object, one.predicate), one)
            if one.score > known.score:
                best[one.subject, one.object, one.predicate] = one
        return list(best.values())
