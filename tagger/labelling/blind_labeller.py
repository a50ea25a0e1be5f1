"""Labels candidates without looking at the image: the two baselines of every audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from tagger.labelling.tagging_image import Labels, TaggingImage
from tagger.pair import Pair
from tagger.relation import Relation

Way = Literal["naive", "prior"]
"""naive: each candidate scores 1; prior: it scores its prior, which uses boxes and names only."""


def blind_labels(pairs: Sequence[Pair], way: Way) -> list[Relation]:
    """Returns each distinct candidate as a label; the highest score of several mentions counts."""
    labels: dict[tuple[int, int, str], Relation] = {}
    for pair in pairs:
        score = 1.0 if way == "naive" else pair.prior
        label = Relation(pair.subject, pair.object, pair.predicate, score, pair.triplet >= 0, pair.triplet)
        known = labels.setdefault((pair.subject, pair.object, pair.predicate), label)
        if score > known.score:
            labels[pair.subject, pair.object, pair.predicate] = label
    return list(labels.values())


class BlindLabeller:
    """Labels the candidates of images by `blind_labels`."""

    def __init__(self, way: Way, floor: float) -> None:
        self._way, self._floor = way, floor

    def label(
        self, images: Sequence[TaggingImage], progress: Callable[[int], None] = lambda done: None
    ) -> list[Labels]:
        """Returns the labels of each image, each label once; loads no image."""
        scored = (blind_labels(image.pairs, self._way) for image in images)
        labels = [Labels([one for one in of_image if one.score >= self._floor]) for of_image in scored]
        progress(len(images))
        return labels
