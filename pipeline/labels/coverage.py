"""Measures what a dataset's labels miss: density, listed predicates, the tail, and precision by pair geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.labels.flat_list import FlatList, Indices, rows_of
from pipeline.labels.kept_labels import JudgedLabels
from pipeline.labels.label_funnel import most_frequent_first
from tagger.audit.coverage import (
    PAIR_BINS,
    VG_PREDICATES,
    CodedLabels,
    Density,
    MissingPredicate,
    PairBin,
    bin_counts,
    density,
    missing_predicates,
    precision_by_bin,
)
from tagger.audit.labels import SYMMETRIC
from tagger.english.predicates import canonical

MAX_MISSING = 100
"""Maximum number of missing predicates listed. The full Visual Genome has tens of thousands of predicates."""


@dataclass(frozen=True)
class PredicateList:
    """The predicates of a list that no kept label has."""

    name: str
    predicates: int
    """Number of predicates in the list."""
    missing: int
    reasons: dict[str, int]
    """Reason → number of predicates missing for it."""
    listed: tuple[MissingPredicate, ...]
    """The first `MAX_MISSING` missing predicates, in the list's order."""

    def by_reason(self) -> dict[str, list[str]]:
        """Reason → the listed predicates missing for it."""
        return {reason: [each.predicate for each in self.listed if each.reason == reason] for reason in self.reasons}


@dataclass(frozen=True)
class LabelCoverage:
    """What the kept labels of a dataset cover and miss, over the images with boxes that stage `tag` has processed."""

    images: int
    kept: Density
    given: Density | None
    """The same for the dataset's distinct ground-truth relations; None without any."""
    lists: tuple[PredicateList, ...]
    """Visual Genome's usual predicates, then those of the ground truth, if any (canonical, most frequent first)."""
    geometry: tuple[PairBin, ...]
    """Precision by distance, size ratio and direction of the pair, on images with ground truth; empty without any."""


@dataclass
class CoverageCount:
    """Collects a `LabelCoverage` over the partitions of one dataset."""

    _codes: dict[str, int] = field(default_factory=dict)
    _kept: Counter[str] = field(default_factory=Counter)
    _given: Counter[str] = field(default_factory=Counter)
    _scored: Counter[str] = field(default_factory=Counter)
    _candidates: Counter[str] = field(default_factory=Counter)
    _triplets: Counter[str] | None = field(default_factory=Counter)
    _kept_per_image: list[Indices] = field(default_factory=list)
    _given_per_image: list[Indices] = field(default_factory=list)
    _bins: Indices = field(default_factory=lambda: np.zeros((2, len(PAIR_BINS), 2), np.int64))

    def add(self, images: pa.Table, judged: JudgedLabels, triplets: pa.Table | None) -> None:
        """Add a partition: its rows of `images`, its labels, and its triplets if the run has them."""
        boxes = FlatList.of(images, "boxes")
        labels = self._coded(judged.relations, "relations", images, boxes)
        kept = labels.where(np.asarray(judged.reason.is_null()))
        naive = self._coded(judged.candidates, "pairs", images, boxes)
        every_given = self._coded(images, "relations", images, boxes)
        is_tagged = pc.is_in(images["image_id"], value_set=judged.relations["image_id"]).to_numpy()
        is_counted = is_tagged & (np.bincount(boxes.row, minlength=len(images)) > 0)
        is_readable = every_given.predicate != self._codes.get("", -1)
        given = every_given.where((every_given.subject >= 0) & is_tagged[every_given.image] & is_readable)
        given = given.distinct(len(boxes), len(self._codes))
        self._count(self._kept, kept.predicate)
        self._count(self._given, given.predicate)
        self._count(self._scored, labels.predicate[~judged.is_added])
        self._count(self._candidates, naive.predicate)
        if triplets is None:
            self._triplets = None
        elif self._triplets is not None:
            self._count(self._triplets, self._predicates(FlatList.of(triplets, "triplets"), "predicate_lemma"))
        given_per_image = given.per_image(len(images))
        self._kept_per_image.append(kept.per_image(len(images))[is_counted])
        self._given_per_image.append(given_per_image[is_counted])
        # The last element is for labels of images without a row, whose index is -1.
        is_audited = np.append(given_per_image > 0, False)
        symmetric = [self._codes[name] for name in SYMMETRIC if name in self._codes]
        for place, found in enumerate((kept, naive)):
            audited = found.where((found.subject >= 0) & is_audited[found.image])
            self._bins[place] += bin_counts(boxes.xywh(), audited, given, symmetric)

    def coverage(self) -> LabelCoverage | None:
        """The coverage of everything added so far; None if nothing was added."""
        if not self._kept_per_image:
            return None
        kept_per_image = np.concatenate(self._kept_per_image)
        lists = [self._list("Visual Genome", VG_PREDICATES)]
        gives = self._given.total() > 0
        if gives:
            lists.append(self._list("the set's own", most_frequent_first(self._given)))
        return LabelCoverage(
            images=len(kept_per_image),
            kept=density(kept_per_image, self._kept),
            given=density(np.concatenate(self._given_per_image), self._given) if gives else None,
            lists=tuple(lists),
            geometry=precision_by_bin(*self._bins) if gives else (),
        )

    def _list(self, name: str, names: Iterable[str]) -> PredicateList:
        every = list(names)
        missing = missing_predicates(every, self._kept, self._scored, self._candidates, self._triplets)
        reasons = most_frequent_first(Counter(each.reason for each in missing))
        return PredicateList(name, len(every), len(missing), reasons, tuple(missing[:MAX_MISSING]))

    def _coded(self, table: pa.Table, column: str, images: pa.Table, boxes: FlatList) -> CodedLabels:
        """The labels of a nested column. Images that were ingested again with fewer boxes may lack some of theirs."""
        items = FlatList.of(table, column)
        image = rows_of(images, table)[items.row]
        starts = boxes.starts(len(images) + 1)
        number = np.append(np.diff(starts), 0)[image]
        ends = np.stack(items.ends())
        is_inside = (ends.min(axis=0) >= 0) & (ends.max(axis=0) < number)
        subject, object_ = np.where(is_inside, starts[image] + ends, -1)
        return CodedLabels(image, subject, object_, self._predicates(items, "predicate"))

    def _predicates(self, items: FlatList, name: str) -> Indices:
        """The codes of the items' canonical predicates; each distinct text is converted once."""
        texts, text = items.coded(name)
        codes = np.array([self._codes.setdefault(canonical(each), len(self._codes)) for each in texts], np.int64)
        return codes[text]

    def _count(self, counter: Counter[str], predicates: Indices) -> None:
        counts = np.bincount(predicates, minlength=len(self._codes)).tolist()
        counter.update({form: counts[code] for form, code in self._codes.items() if counts[code]})
