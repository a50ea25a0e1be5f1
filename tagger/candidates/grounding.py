"""Triplets of captions to candidate pairs of boxes (spec pseudo_labels 2.5, with the pair-text link kept)."""

from collections.abc import Sequence
from dataclasses import dataclass

from tagger.box import Box, intersect
from tagger.candidates.pair_prior import pair_priors
from tagger.matching.readers import NounReader, Wording, by_whole_words, canonical_predicate
from tagger.pair import Pair
from tagger.triplet import Triplet

SEVERAL = 2
"""What a plural without a number counts for: two at least."""


@dataclass
class _Mention:
    """What several triplets may say alike: the predicate between some of these subjects and some of these objects."""

    triplets: list[int]
    stated: dict[int, int]
    """Caption → pairs that it counts."""
    subject_attributes: set[str]
    object_attributes: set[str]


def candidates(
    triplets: Sequence[Triplet],
    boxes: Sequence[Box],
    captions: Sequence[int] = (),
    nouns: NounReader = by_whole_words,
    wording: Wording = canonical_predicate,
    overlapping: bool = False,
) -> list[Pair]:
    """Every ordered pair of distinct boxes whose categories match a triplet's subject and object.

    `captions`: the number of each triplet's caption; without it every triplet counts as of a caption of its own.
    Triplets with one predicate and the same boxes are one mention: captions repeat each other, while what
    one caption says twice is counted twice. Crowd boxes are left out. A mention has each pair once; two mentions
    ("a dog on a couch", "an animal on a couch") may share some. The order is by mention, then subject, then object.

    `nouns` reads categories off nouns, `wording` words predicates; with `overlapping` both boxes must intersect.
    """
    indices_by_category = _indices_by_category(boxes)
    mentions: dict[tuple[str, tuple[int, ...], tuple[int, ...]], _Mention] = {}
    for number, triplet in enumerate(triplets):
        predicate = wording(triplet)
        subjects = _meant(nouns(triplet.subject, triplet.subject_lemma, indices_by_category), indices_by_category)
        objects = _meant(nouns(triplet.object, triplet.object_lemma, indices_by_category), indices_by_category)
        if not predicate or not _pairs(subjects, objects, boxes, overlapping):
            continue
        mention = mentions.setdefault((predicate, tuple(subjects), tuple(objects)), _Mention([], {}, set(), set()))
        caption = captions[number] if captions else number
        mention.triplets.append(number)
        mention.stated[caption] = mention.stated.get(caption, 0) + _stated(triplet)
        mention.subject_attributes.update(triplet.subject_attributes)
        mention.object_attributes.update(triplet.object_attributes)
    return [
        Pair(subject, object_, predicate, mention.triplets[0], len(pairs), number, prior, len(mention.triplets))
        for number, ((predicate, subjects, objects), mention) in enumerate(mentions.items())
        if (pairs := _pairs(subjects, objects, boxes, overlapping))
        for (subject, object_), prior in zip(pairs, _priors(mention, pairs, boxes), strict=True)
    ]


def _stated(triplet: Triplet) -> int:
    """How many pairs a triplet counts: "two men on horses" are two, "two women next to each other" both ways."""
    subjects, objects = triplet.subject_count or SEVERAL, triplet.object_count or SEVERAL
    return subjects * (subjects - 1) if triplet.rule == "reciprocal" and subjects > 1 else max(subjects, objects)


def _priors(mention: _Mention, pairs: Sequence[tuple[int, int]], boxes: Sequence[Box]) -> list[float]:
    stated = max(mention.stated.values())
    return pair_priors(pairs, boxes, stated, mention.subject_attributes, mention.object_attributes)


def _indices_by_category(boxes: Sequence[Box]) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {}
    for index, box in enumerate(boxes):
        if not box.crowd:
            indices.setdefault(box.category, []).append(index)
    return indices


def _meant(categories: Sequence[str], indices_by_category: dict[str, list[int]]) -> list[int]:
    return sorted(index for category in categories for index in indices_by_category[category])


def _pairs(
    subjects: Sequence[int], objects: Sequence[int], boxes: Sequence[Box], overlapping: bool
) -> list[tuple[int, int]]:
    return [
        (subject, object_)
        for subject in subjects
        for object_ in objects
        if subject != object_ and (not overlapping or intersect(boxes[subject], boxes[object_]))
    ]
