"""Turns caption triplets into candidate pairs of boxes, each linked to its triplet (docs/labels.md, Ambiguity)."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tagger.box import Box
from tagger.candidates.source import Candidates, Dropped, DropReason, box_pairs, dropped
from tagger.english.words import words
from tagger.matching import NounReader, by_whole_words
from tagger.pair import Pair, shares
from tagger.parsing.wordings import Wording, canonical_predicate
from tagger.triplet import Triplet

PLURAL_COUNT = 2
"""Assumed count of a plural without a number: at least two."""


@dataclass
class _Mention:
    """One statement of one or more triplets: a predicate between some of these subjects and some of these objects."""

    pairs: list[tuple[int, int]]
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
    regions: Sequence[Collection[int]] = (),
    nouns: NounReader = by_whole_words,
    wording: Wording = canonical_predicate,
    overlapping: bool = False,
) -> Candidates:
    """Returns every ordered pair of distinct boxes whose categories match a triplet's subject and object.

    `captions`: the caption number of each triplet; without it, each triplet counts as a separate caption.
    `regions`: the boxes that the caption of each triplet describes; all pairs of the triplet contain them.
    Triplets with the same predicate and the same boxes form one mention: captions repeat each other, but what one
    caption says twice counts twice. Crowd boxes are ignored. A mention has each pair once; two mentions
    ("a dog on a couch", "an animal on a couch") may share pairs. The order is by mention, then subject, then object.
    Every triplet either supports one mention or is dropped with its reason; `known` as in `CandidateSource`.

    `nouns` maps nouns to categories, `wording` words predicates; with `overlapping` both boxes must intersect.
    """
    indices_by_category = _indices_by_category(boxes)
    mentions: dict[tuple[str, tuple[int, ...], tuple[int, ...], frozenset[int]], _Mention] = {}
    lost: list[Dropped] = []
    for number, triplet in enumerate(triplets):
        predicate = wording(triplet)
        subjects = _meant(nouns(triplet.subject, triplet.subject_lemma, indices_by_category), indices_by_category)
        objects = _meant(nouns(triplet.object, triplet.object_lemma, indices_by_category), indices_by_category)
        pairs = box_pairs(subjects, objects, boxes, overlapping)
        if not predicate or not pairs:
            lost.append(dropped(number, triplet, predicate, subjects, objects, nouns, known))
            continue
        region = frozenset(regions[number] if regions else ())
        if not (pairs := [pair for pair in pairs if region.issubset(pair)]):
            lost.append(Dropped(number, DropReason.OTHER_BOXES, f"{triplet.subject_lemma}, {triplet.object_lemma}"))
            continue
        key = predicate, tuple(subjects), tuple(objects), region
        mention = mentions.setdefault(key, _Mention(pairs, [], {}, set(), set()))
        caption = captions[number] if captions else number
        mention.triplets.append(number)
        mention.stated[caption] = mention.stated.get(caption, 0) + _stated(triplet)
        mention.subject_attributes.update(triplet.subject_attributes)
        mention.object_attributes.update(triplet.object_attributes)
    found: list[Pair] = []
    for number, ((predicate, *_), m) in enumerate(mentions.items()):
        # Captions repeat each other, so counts are not added across them.
        stated = max(m.stated.values())
        priors = pair_priors(m.pairs, boxes, stated, m.subject_attributes, m.object_attributes)
        for ends, prior in zip(m.pairs, priors, strict=True):
            found.append(Pair(*ends, predicate, m.triplets[0], len(m.pairs), number, prior, len(m.triplets)))
    return Candidates(found, lost)


def _stated(triplet: Triplet) -> int:
    """Number of pairs that a triplet states: 2 for "two men on horses"; "next to each other" counts both directions."""
    subjects, objects = triplet.subject_count or PLURAL_COUNT, triplet.object_count or PLURAL_COUNT
    return subjects * (subjects - 1) if triplet.rule == "reciprocal" and subjects > 1 else max(subjects, objects)


def _indices_by_category(boxes: Sequence[Box]) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {}
    for index, box in enumerate(boxes):
        if not box.crowd:
            indices.setdefault(box.category, []).append(index)
    return indices


def _meant(categories: Sequence[str], indices_by_category: dict[str, list[int]]) -> list[int]:
    return sorted(index for category in categories for index in indices_by_category[category])


# Weights of `pair_priors`, by maximum likelihood on annotated pairs (VRD, V-COCO) among all of the same two categories.
SUBJECT_SIZE, OBJECT_SIZE, OVERLAP, GAP, DISTANCE = -0.01, 0.05, 1.69, -1.3, -1.22
STATED_SIZE_WEIGHT = 1.0
"""Amount that "large" adds to the weight of a noun's size and "small" subtracts from it."""

LEAST = 1e-9
"""Lower bound of a pair's weight relative to the likeliest pair, so that no pair is ruled out."""

_LARGE = words("large big huge giant tall long enormous massive adult older")
_SMALL = words("small little tiny young baby short miniature toddler")


def features(subject: Box, object_: Box) -> tuple[float, float, float, float, float]:
    """Returns the features of a pair: log sizes of both boxes, overlap, gap, and distance between their centres.

    A size is the square root of an area in pixels; overlap is a share of the smaller box; gap and distance are
    log(1 + d) of lengths in mean sizes. Only differences between pairs of one image count, so image size does not.
    """
    shared_w = min(subject.x + subject.w, object_.x + object_.w) - max(subject.x, object_.x)
    shared_h = min(subject.y + subject.h, object_.y + object_.h) - max(subject.y, object_.y)
    # At least a pixel, as an annotated box may have no area, which has no logarithm
    areas = max(subject.w * subject.h, 1.0), max(object_.w * object_.h, 1.0)
    unit = (math.sqrt(areas[0]) + math.sqrt(areas[1])) / 2
    gap = math.hypot(max(-shared_w, 0.0), max(-shared_h, 0.0))
    apart = math.hypot(
        subject.x + subject.w / 2 - object_.x - object_.w / 2, subject.y + subject.h / 2 - object_.y - object_.h / 2
    )
    return (
        math.log(areas[0]) / 2,
        math.log(areas[1]) / 2,
        max(shared_w, 0.0) * max(shared_h, 0.0) / min(areas),
        math.log1p(gap / unit),
        math.log1p(apart / unit),
    )


def pair_priors(
    pairs: Sequence[tuple[int, int]],
    boxes: Sequence[Box],
    stated: int,
    subject_attributes: Collection[str] = (),
    object_attributes: Collection[str] = (),
) -> list[float]:
    """Returns the probability that each pair is one of the `stated` pairs that are meant.

    The priors sum to `stated`, or to the number of pairs if that is smaller; none exceeds 1.
    """
    sizes = SUBJECT_SIZE + _size_shift(subject_attributes), OBJECT_SIZE + _size_shift(object_attributes)
    weights = (*sizes, OVERLAP, GAP, DISTANCE)
    scores = [
        sum(weight * value for weight, value in zip(weights, features(boxes[s], boxes[o]), strict=True))
        for s, o in pairs
    ]
    highest = max(scores, default=0.0)
    return shares([max(math.exp(score - highest), LEAST) for score in scores], stated)


def _size_shift(attributes: Collection[str]) -> float:
    stated = set(attributes)
    return STATED_SIZE_WEIGHT * (bool(stated & _LARGE) - bool(stated & _SMALL))
