"""From boxes and relations to the pairs that a network is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.training.sample import TrainingSample


@dataclass(frozen=True)
class TargetPair:
    """An ordered pair of boxes, by index. `known` False: nothing is known of its predicates, only its boxes count."""

    subject: int
    object: int
    predicates: Mapping[str, float] = field(default_factory=dict)
    """Predicate → confidence."""
    known: bool = True


def labelled_pairs(sample: TrainingSample) -> list[TargetPair]:
    """Relations merged by (subject, object); the surest pair first."""
    merged: dict[tuple[int, int], dict[str, float]] = {}
    for relation in sample.relations:
        predicates = merged.setdefault((relation.subject, relation.object), {})
        predicates[relation.predicate] = max(relation.confidence, predicates.get(relation.predicate, 0.0))
    ranked = sorted(merged.items(), key=lambda item: (-max(item[1].values()), item[0]))
    return [TargetPair(subject, object_, predicates) for (subject, object_), predicates in ranked]


def detection_pairs(sample: TrainingSample, limit: int) -> list[TargetPair]:
    """Labelled pairs, then each box that those leave out, paired with itself; up to `limit`.

    So every object is learnt, with or without relations, and nothing is made up about who belongs to whom. A box has no
    relation to itself; yet in an image without any known relation that says nothing, and no predicate is judged there.
    """
    pairs = labelled_pairs(sample)[:limit]
    covered = {index for pair in pairs for index in (pair.subject, pair.object)}
    alone = [TargetPair(index, index, known=bool(pairs)) for index in range(len(sample.boxes)) if index not in covered]
    return pairs + alone[: limit - len(pairs)]


def tagging_pairs(sample: TrainingSample, limit: int, generator: np.random.Generator) -> list[TargetPair]:
    """Labelled pairs, then random other ordered pairs of boxes as negatives (spec 3.6), up to `limit`."""
    pairs = labelled_pairs(sample)[:limit]
    taken = {(relation.subject, relation.object) for relation in sample.relations}
    count = len(sample.boxes)
    others = [(s, o) for s in range(count) for o in range(count) if s != o and (s, o) not in taken]
    chosen = generator.permutation(len(others))[: limit - len(pairs)]
    return pairs + [TargetPair(*others[int(place)]) for place in sorted(chosen)]


def normalised_boxes(sample: TrainingSample) -> np.ndarray:
    """N×4 boxes (centre x, centre y, width, height) in shares of the image, cut at its edges."""
    corners = np.array([(b.x, b.y, b.x + b.w, b.y + b.h) for b in sample.boxes], np.float32).reshape(-1, 4)
    corners = (corners / np.array([sample.width, sample.height] * 2, np.float32)).clip(0, 1)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
