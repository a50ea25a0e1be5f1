"""Triplets of captions to candidate pairs of boxes (spec pseudo_labels 2.5, with the pair-text link kept)."""

from collections.abc import Sequence
from dataclasses import dataclass

from tagger.box import Box
from tagger.matching import match
from tagger.predicates import canonical
from tagger.relation import Relation
from tagger.triplet import Triplet


@dataclass(frozen=True, slots=True)
class Pair:
    """An ordered pair of boxes that a caption's triplet may mean.

    `subject`, `object`: indices into the image's boxes. `triplet`: index of the first triplet that proposed it.
    `ambiguity`: number of pairs the mention proposes (the least over the triplets that proposed this one).
    """

    subject: int
    object: int
    predicate: str
    triplet: int
    ambiguity: int


def candidates(triplets: Sequence[Triplet], boxes: Sequence[Box]) -> list[Pair]:
    """Every ordered pair of distinct boxes whose categories match a triplet's subject and object.

    Crowd boxes are left out. The predicate is canonical; (subject, object, predicate) occurs once. The order is by
    first proposing triplet, then subject, then object.
    """
    indices_by_category = _indices_by_category(boxes)
    found: dict[tuple[int, int, str], Pair] = {}
    for number, triplet in enumerate(triplets):
        predicate = canonical(triplet.predicate_lemma)
        if not predicate:
            continue
        subjects = _matching_boxes(triplet.subject_lemma, indices_by_category)
        objects = _matching_boxes(triplet.object_lemma, indices_by_category)
        pairs = [(subject, object_) for subject in subjects for object_ in objects if subject != object_]
        for subject, object_ in pairs:
            key = (subject, object_, predicate)
            earlier = found.get(key)
            if earlier is None:
                found[key] = Pair(subject, object_, predicate, number, len(pairs))
            elif len(pairs) < earlier.ambiguity:
                found[key] = Pair(subject, object_, predicate, earlier.triplet, len(pairs))
    return list(found.values())


def naive_labels(pairs: Sequence[Pair]) -> list[Relation]:
    """The baseline without a tagger: every candidate pair gets its label with score 1."""
    return [Relation(pair.subject, pair.object, pair.predicate, 1.0, True, pair.triplet) for pair in pairs]


def _indices_by_category(boxes: Sequence[Box]) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {}
    for index, box in enumerate(boxes):
        if not box.crowd:
            indices.setdefault(box.category, []).append(index)
    return indices


def _matching_boxes(noun: str, indices_by_category: dict[str, list[int]]) -> list[int]:
    return sorted(index for category in match(noun, indices_by_category) for index in indices_by_category[category])
