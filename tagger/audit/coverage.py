"""Measures what labels miss: their density, predicates that never occur, and precision by the geometry of the pair."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from tagger.audit.labels import Indices, unordered_ends
from tagger.english.predicates import canonical

Floats = npt.NDArray[np.floating]

VG_PREDICATES = (
    "above", "across", "against", "along", "and", "at", "attached to", "behind", "belonging to", "between",
    "carrying", "covered in", "covering", "eating", "flying in", "for", "from", "growing on", "hanging from", "has",
    "holding", "in", "in front of", "laying on", "looking at", "lying on", "made of", "mounted on", "near", "of",
    "on", "on back of", "over", "painted on", "parked on", "part of", "playing", "riding", "says", "sitting on",
    "standing on", "to", "under", "using", "walking in", "walking on", "watching", "wearing", "wears", "with",
)  # fmt: skip
"""The 50 most frequent predicates of Visual Genome as scene graph generation tests them (split VG150 of Xu et al.,
"Scene Graph Generation by Iterative Message Passing", 2017, file VG-SGG-dicts.json). They have 47 canonical forms."""

FREQUENT = 10
"""The predicates that are not tail."""

NEVER_STATED = "no triplet states it"
NEVER_PROPOSED = "no candidate has it"
NEVER_KEPT = "no label with it is kept"


@dataclass(frozen=True)
class Density:
    """How many relations images have, and how they spread over predicates. None: nothing to divide by."""

    relations: int
    mean: float | None
    """Relations per image."""
    median: float | None
    share_without: float | None
    """Share of the images without any."""
    predicates: int
    """Distinct canonical predicates."""
    tail_share: float | None
    """Share of the relations outside the `FREQUENT` most frequent predicates."""


@dataclass(frozen=True)
class MissingPredicate:
    """A predicate of a list that no kept label has, as the list writes it."""

    predicate: str
    triplets: int | None
    """Triplets that state it; None when there is no record of triplets."""
    candidates: int
    scored: int
    """Labels with a score."""
    reason: str
    """`NEVER_STATED` and `NEVER_PROPOSED`: labels can't have it; `NEVER_KEPT`: they could."""


@dataclass(frozen=True)
class PairBin:
    """Precision of labels whose pairs of boxes have similar geometry, against naive matching. None: no label."""

    measure: str
    bin: str
    kept: int
    precision: float | None
    naive: int
    """Distinct labels that candidates propose."""
    naive_precision: float | None


PAIR_BINS = (
    ("distance", "< 1/2"),
    ("distance", "1/2 to 1"),
    ("distance", "> 1"),
    ("size ratio", "< 1/4"),
    ("size ratio", "1/4 to 4"),
    ("size ratio", "> 4"),
    ("direction", "left"),
    ("direction", "right"),
    ("direction", "above"),
    ("direction", "below"),
)
"""Measure and bin of each row of `bin_counts`.

Distance: between the centres, in units of the mean of the two diagonals. Size ratio: area of the subject by that of the
object. Direction: where the object's centre lies as seen from the subject's, along the axis of greater distance.
"""


@dataclass(frozen=True)
class CodedLabels:
    """N labels of many images. `image` (N): the row of each label's image, -1 if it has none.

    `subject` and `object` (N) count the boxes of all images in one sequence; -1: the image lacks one of the two.
    `predicate` (N) holds codes of canonical predicates, from 0.
    """

    image: Indices
    subject: Indices
    object: Indices
    predicate: Indices

    def where(self, chosen: npt.NDArray[np.bool_] | Indices) -> CodedLabels:
        """The labels for which `chosen` (N) is true, or which have these indices."""
        return CodedLabels(*(getattr(self, each.name)[chosen] for each in fields(self)))

    def distinct(self, boxes: int, predicates: int, symmetric: Collection[int] = ()) -> CodedLabels:
        """The first of the labels with each of the `keys`."""
        return self.where(np.unique(self.keys(boxes, predicates, symmetric), return_index=True)[1])

    def per_image(self, images: int) -> Indices:
        """The number of labels of each image."""
        return np.bincount(self.image[self.image >= 0], minlength=images)

    def keys(self, boxes: int, predicates: int, symmetric: Collection[int] = ()) -> Indices:
        """One number per label (N), equal for equal labels; the directions of a `symmetric` predicate are equal, too.

        `boxes` and `predicates` are how many there are in all.
        """
        first, second = unordered_ends(self.subject, self.object, np.isin(self.predicate, list(symmetric)))
        return (first * boxes + second) * predicates + self.predicate


def density(per_image: Indices, predicates: Mapping[str, int]) -> Density:
    """Summarises the number of relations of each image (I) and of each canonical predicate."""
    some, counts = len(per_image) > 0, sorted(predicates.values(), reverse=True)
    return Density(
        relations=sum(counts),
        mean=float(per_image.mean()) if some else None,
        median=float(np.median(per_image)) if some else None,
        share_without=float((per_image == 0).mean()) if some else None,
        predicates=sum(count > 0 for count in counts),
        tail_share=sum(counts[FREQUENT:]) / sum(counts) if sum(counts) else None,
    )


def missing_predicates(
    names: Iterable[str],
    kept: Mapping[str, int],
    scored: Mapping[str, int],
    candidates: Mapping[str, int],
    triplets: Mapping[str, int] | None,
) -> list[MissingPredicate]:
    """The predicates among `names` that no kept label has, in order. Counts are by canonical predicate."""
    missing = []
    for name in names:
        form = canonical(name)
        if kept.get(form):
            continue
        stated = None if triplets is None else triplets.get(form, 0)
        proposed, judged = candidates.get(form, 0), scored.get(form, 0)
        unable = NEVER_STATED if stated == 0 else NEVER_PROPOSED
        missing.append(MissingPredicate(name, stated, proposed, judged, NEVER_KEPT if proposed or judged else unable))
    return missing


def pair_bins(boxes_xywh: Floats, subject: Indices, object_: Indices) -> Indices:
    """The rows of `PAIR_BINS` of N pairs (N, 3): one each for distance, size ratio and direction.

    `boxes_xywh` (B, 4): top-left corner and size in pixels. A bound belongs to the middle bin. Equal distances on both
    axes count as horizontal, equal centres as "right".
    """
    centre, size = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2, boxes_xywh[:, 2:]
    diagonal, area = np.hypot(size[:, 0], size[:, 1]), size.prod(axis=1)
    right, down = (centre[object_] - centre[subject]).T
    # Compared as products: boxes without an area divide nothing.
    distance, unit = np.hypot(right, down), (diagonal[subject] + diagonal[object_]) / 2
    by_distance = np.where(distance < unit / 2, 0, np.where(distance <= unit, 1, 2))
    by_size = np.where(4 * area[subject] < area[object_], 3, np.where(area[subject] <= 4 * area[object_], 4, 5))
    horizontal = np.where(right < 0, 6, 7)
    by_direction = np.where(np.abs(right) >= np.abs(down), horizontal, np.where(down < 0, 8, 9))
    return np.stack([by_distance, by_size, by_direction], axis=1).astype(np.int64)


def bin_counts(boxes_xywh: Floats, labels: CodedLabels, truth: CodedLabels, symmetric: Collection[int] = ()) -> Indices:
    """Counts distinct labels, and those among them that are in the `truth`, in each row of `PAIR_BINS`: (rows, 2).

    As in `tagger.audit.labels.agreement`, a label with a `symmetric` predicate holds in both directions and counts
    once, in the direction that comes first in `labels`.
    """
    predicates = 1 + max((int(each.predicate.max()) for each in (labels, truth) if len(each.predicate)), default=0)
    among = len(boxes_xywh), predicates, symmetric
    found = labels.distinct(*among)
    right = np.isin(found.keys(*among), truth.keys(*among))
    bins = pair_bins(boxes_xywh, found.subject, found.object)
    counts = [np.bincount(each.ravel(), minlength=len(PAIR_BINS)) for each in (bins, bins[right])]
    return np.stack(counts, axis=1).astype(np.int64)


def precision_by_bin(kept: Indices, naive: Indices) -> tuple[PairBin, ...]:
    """The counts of `bin_counts` for kept and naive labels as precisions."""
    rows = zip(PAIR_BINS, kept.tolist(), naive.tolist(), strict=True)
    return tuple(
        PairBin(measure, name, chosen, _share(right, chosen), proposed, _share(true, proposed))
        for (measure, name), (chosen, right), (proposed, true) in rows
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
