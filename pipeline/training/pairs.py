"""Builds the target pairs of a network from boxes and relations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.training.sample import TrainingSample


@dataclass(frozen=True)
class TargetPair:
    """An ordered pair of boxes, by index. When `known` is False its predicates are unknown and only its boxes count."""

    subject: int
    object: int
    predicates: Mapping[str, float] = field(default_factory=dict)
    """Predicate → confidence."""
    known: bool = True


def labelled_pairs(sample: TrainingSample) -> list[TargetPair]:
    """Merges the relations of each (subject, object) pair. The most confident pair comes first."""
    merged: dict[tuple[int, int], dict[str, float]] = {}
    for relation in sample.relations:
        predicates = merged.setdefault((relation.subject, relation.object), {})
        predicates[relation.predicate] = max(relation.confidence, predicates.get(relation.predicate, 0.0))
    ranked = sorted(merged.items(), key=lambda item: (-max(item[1].values()), item[0]))
    return [TargetPair(subject, object_, predicates) for (subject, object_), predicates in ranked]


def detection_pairs(sample: TrainingSample, limit: int) -> list[TargetPair]:
    """Returns up to `limit` pairs: the labelled pairs, then each remaining box paired with itself.

    So the network learns every object, with or without relations, and no pairing is invented. A box has no relation to
    itself. In an image without any known relation this says nothing, so no predicate is judged there.
    """
    pairs = labelled_pairs(sample)[:limit]
    covered = {index for pair in pairs for index in (pair.subject, pair.object)}
    alone = [TargetPair(index, index, known=bool(pairs)) for index in range(len(sample.boxes)) if index not in covered]
    return pairs + alone[: limit - len(pairs)]


def tagging_pairs(sample: TrainingSample, limit: int, generator: np.random.Generator) -> list[TargetPair]:
    """Returns up to `limit` pairs: labelled pairs, then random others as negatives (docs/labels.md, Training the tagger)."""
    pairs = labelled_pairs(sample)[:limit]
    taken = {(relation.subject, relation.object) for relation in sample.relations}
    count = len(sample.boxes)
    others = [(s, o) for s in range(count) for o in range(count) if s != o and (s, o) not in taken]
    chosen = generator.permutation(len(others))[: limit - len(pairs)]
    return pairs + [TargetPair(*others[int(place)]) for place in sorted(chosen)]


def normalised_boxes(sample: TrainingSample) -> np.ndarray:
    """Returns N×4 boxes (centre x, centre y, width, height) as shares of the image, clipped to its edges."""
    corners = np.array([(b.x, b.y, b.x + b.w, b.y + b.h) for b in sample.boxes], np.float32).reshape(-1, 4)
    corners = (corners / np.array([sample.width, sample.height] * 2, np.float32)).clip(0, 1)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
