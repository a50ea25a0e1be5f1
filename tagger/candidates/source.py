"""What a source of candidates proposes for an image, and why a triplet leads to no candidate."""

from collections.abc import Collection, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

from tagger.box import Box, intersect
from tagger.matching import NounReader
from tagger.pair import Pair
from tagger.triplet import Triplet


class DropReason(StrEnum):
    """Why a triplet leads to no candidate. The first reason that applies counts (docs/labels.md, Excluded triplets)."""

    NO_PREDICATE = "no predicate"
    NO_SUBJECT_CATEGORY = "subject names no category"
    NO_OBJECT_CATEGORY = "object names no category"
    NO_SUBJECT_BOX = "no box of the subject"
    NO_OBJECT_BOX = "no box of the object"
    SAME_BOX = "subject and object are one box"
    APART = "boxes do not intersect"
    OTHER_BOXES = "caption is of other boxes"
    CAPTIONS_UNUSED = "captions are not used"


class Dropped(NamedTuple):
    """A triplet that leads to no candidate: its index, the reason, and the word that it is about."""

    triplet: int
    reason: DropReason
    value: str


class Candidates(NamedTuple):
    """The candidates of an image, and its triplets that lead to none."""

    pairs: list[Pair]
    dropped: list[Dropped]


class CandidateSource(Protocol):
    """Proposes the candidates of an image."""

    def __call__(
        self,
        triplets: Sequence[Triplet],
        boxes: Sequence[Box],
        captions: Sequence[int] = (),
        known: Collection[str] = (),
        regions: Sequence[Collection[int]] = (),
    ) -> Candidates:
        """Returns candidates for the boxes of one image; `captions` holds the caption number of each triplet.

        `regions`: the indices of the boxes that the caption of each triplet describes, none for the whole image.

        `known`: the categories of other images, distinguishing a noun without a box here from one without a category.
        """


def box_pairs(
    subjects: Sequence[int], objects: Sequence[int], boxes: Sequence[Box], overlapping: bool
) -> list[tuple[int, int]]:
    """Returns the ordered pairs of distinct boxes, given by index; with `overlapping` only those that intersect."""
    return [
        (subject, object_)
        for subject in subjects
        for object_ in objects
        if subject != object_ and (not overlapping or intersect(boxes[subject], boxes[object_]))
    ]


def dropped(
    number: int,
    triplet: Triplet,
    predicate: str,
    subjects: Sequence[int],
    objects: Sequence[int],
    nouns: NounReader,
    known: Collection[str],
) -> Dropped:
    """Returns why triplet `number` leads to no candidate. `subjects`, `objects`: boxes that its nouns may mean."""
    if not predicate:
        return Dropped(number, DropReason.NO_PREDICATE, triplet.predicate_lemma)
    ends = (
        (triplet.subject, triplet.subject_lemma, subjects, DropReason.NO_SUBJECT_CATEGORY, DropReason.NO_SUBJECT_BOX),
        (triplet.object, triplet.object_lemma, objects, DropReason.NO_OBJECT_CATEGORY, DropReason.NO_OBJECT_BOX),
    )
    for surface, lemma, boxes, no_category, _ in ends:
        if not boxes and not _names_one(nouns, surface, lemma, tuple(known)):
            return Dropped(number, no_category, lemma)
    for _, lemma, boxes, _, no_box in ends:
        if not boxes:
            return Dropped(number, no_box, lemma)
    one = len({*subjects, *objects}) == 1
    return Dropped(
        number, DropReason.SAME_BOX if one else DropReason.APART, f"{triplet.subject_lemma}, {triplet.object_lemma}"
    )


@lru_cache(maxsize=1 << 14)
def _names_one(nouns: NounReader, surface: str, lemma: str, categories: tuple[str, ...]) -> bool:
    return bool(nouns(surface, lemma, categories))
