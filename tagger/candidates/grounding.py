"""Turns caption triplets into candidate pairs of boxes, each linked to its triplet (docs/labels.md, Ambiguity)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tagger.box import Box, intersect
from tagger.candidates.pair_prior import pair_priors
from tagger.candidates.source import Candidates, Dropped, dropped
from tagger.matching.readers import NounReader, Wording, by_whole_words, canonical_predicate
from tagger.pair import Pair
from tagger.triplet import Triplet

SEVERAL = 2
"""Assumed count of a plural without a number: at least two."""


@dataclass
class _Mention:
    """One statement of one or more triplets: a predicate between some of these subjects and some of these objects."""

    triplets: list[int]
    stated: dict[int, int]
    """Caption → number of pairs that it states."""
    subject_attributes: set[str]
    object_attributes: set[str]


def ground(
    triplets: Sequence[Triplet],
    boxes: Sequence[Box],
    captions: Sequence[int] = (),
    known: Collection[str] = (),
    nouns: NounReader = by_whole_words,
    wording: Wording = canonical_predicate,
    overlapping: bool = False,
) -> Candidates:
    """Returns every ordered pair of distinct boxes whose categories match a triplet's subject and object.

    `captions`: the caption number of each triplet; without it, each triplet counts as a separate caption.
    Triplets with the same predicate and the same boxes form one mention: captions repeat each other, but what one
    caption says twice counts twice. Crowd boxes are left out. A mention has each pair once; two mentions
    ("a dog on a couch", "an animal on a couch") may share pairs. The order is by mention, then subject, then object.
    Every triplet either supports one mention or is dropped with its reason; `known` as in `CandidateSource`.

    `nouns` maps nouns to categories, `wording` words predicates; with `overlapping` both boxes must intersect.
    """
    indices_by_category = _indices_by_category(boxes)
    mentions: dict[tuple[str, tuple[int, ...], tuple[int, ...]], _Mention] = {}
    lost: list[Dropped] = []
    for number, triplet in enumerate(triplets):
        predicate = wording(triplet)
        subjects = _meant(nouns(triplet.subject, triplet.subject_lemma, indices_by_category), indices_by_category)
        objects = _meant(nouns(triplet.object, triplet.object_lemma, indices_by_category), indices_by_category)
        if not predicate or not _pairs(subjects, objects, boxes, overlapping):
            lost.append(dropped(number, triplet, predicate, subjects, objects, nouns, known))
            continue
        mention = mentions.setdefault((predicate, tuple(subjects), tuple(objects)), _Mention([], {}, set(), set()))
        caption = captions[number] if captions else number
        mention.triplets.append(number)
        mention.stated[caption] = mention.stated.get(caption, 0) + _stated(triplet)
        mention.subject_attributes.update(triplet.subject_attributes)
        mention.object_attributes.update(triplet.object_attributes)
    found = [
        Pair(subject, object_, predicate, mention.triplets[0], len(pairs), number, prior, len(mention.triplets))
        for number, ((predicate, subjects, objects), mention) in enumerate(mentions.items())
        if (pairs := _pairs(subjects, objects, boxes, overlapping))
        for (subject, object_), prior in zip(pairs, _priors(mention, pairs, boxes), strict=True)
    ]
    return Candidates(found, lost)


def _stated(triplet: Triplet) -> int:
    """Number of pairs that a triplet states: 2 for "two men on horses"; "next to each other" counts both directions."""
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
