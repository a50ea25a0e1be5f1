"""Labels candidates without looking at the image: the two baselines of every audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from tagger.labelling.tagging_image import Labels, TaggingImage
from tagger.pair import Pair
from tagger.relation import Relation


def naive_labels(pairs: Sequence[Pair]) -> list[Relation]:
    """Returns the naive baseline: each distinct candidate as a label with score 1."""
    first: dict[tuple[int, int, str], Relation] = {}
    for pair in pairs:
        label = Relation(pair.subject, pair.object, pair.predicate, 1.0, True, pair.triplet)
        first.setdefault((pair.subject, pair.object, pair.predicate), label)
    return list(first.values())


def prior_labels(pairs: Sequence[Pair]) -> list[Relation]:
    """Returns the baseline without pixels: every candidate with its prior; the highest of several mentions counts."""
    return [Relation(p.subject, p.object, p.predicate, p.prior, True, p.triplet) for p in pairs]


class BlindLabeller:
    """Labels each candidate with score 1 ("naive") or with its prior, which uses boxes and names only ("prior")."""

    def __init__(self, way: Literal["naive", "prior"], floor: float) -> None:
        self._way, self._floor = way, floor

    def label(
        self, images: Sequence[TaggingImage], progress: Callable[[int], None] = lambda done: None
    ) -> list[Labels]:
        """Returns the labels of each image, each label once; loads no image."""
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
