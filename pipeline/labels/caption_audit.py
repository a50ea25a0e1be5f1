"""Audits captions: compares the triplets that they state with the relations that the dataset itself gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.labels.flat_list import FlatList
from tagger.audit.labels import SYMMETRIC
from tagger.english.predicates import canonical
from tagger.matching import match

Named = tuple[str, str, str]
"""A relation at category level: subject category, canonical predicate, object category."""


@dataclass(frozen=True)
class CaptionAudit:
    """Agreement of captions with given relations by category, on images that have any. Missing relations lower it."""

    images: int
    """Images with given relations."""
    stated: int
    """Triplets that the captions state."""
    judged: int
    """Stated triplets whose nouns both name categories of the dataset; the others have no box to compare with."""
    true: int
    """Judged triplets that a given relation of the image confirms."""
    given: int
    """Given relations, counted once per image and category triple."""
    found: int
    """Given relations that any caption of the image states."""

    @property
    def precision(self) -> float | None:
        """Share of judged triplets that are true."""
        return self.true / self.judged if self.judged else None

    @property
    def recall(self) -> float | None:
        """Share of given relations that are found."""
        return self.found / self.given if self.given else None


@dataclass
class CaptionCount:
    """Collects a `CaptionAudit` over the partitions of one dataset."""

    _images: list[tuple[list[str], set[Named], list[tuple[str, str, str]]]] = field(default_factory=list)
    _vocabulary: set[str] = field(default_factory=set)

    def add(self, images: pa.Table, triplets: pa.Table) -> None:
        """Add a partition. Rows of the two tables are matched by image id."""
        boxes, given = FlatList.of(images, "boxes"), FlatList.of(images, "relations")
        categories = boxes.values("category")
        self._vocabulary.update(categories)
        if not len(given):
            return
        box_slices, given_slices = boxes.by_row(len(images)), given.by_row(len(images))
        truth = list(zip(given.values("subject"), given.values("predicate"), given.values("object"), strict=True))
        stated = _stated(triplets)
        for row, image_id in enumerate(images["image_id"].to_pylist()):
            own = categories[box_slices[row]]
            named = {(own[s], canonical(p), own[o]) for s, p, o in truth[given_slices[row]]}
            if named:
                self._images.append((sorted(set(own)), named, stated.get(image_id, [])))

    def audit(self) -> CaptionAudit | None:
        """Audits everything added so far; None when the dataset gives no relations."""
        if not self._images:
            return None
        reader = _Nouns(sorted(self._vocabulary))
        counts = [_judge(reader, *image) for image in self._images]
        judged, true, found = (sum(column) for column in zip(*counts, strict=True))
        return CaptionAudit(
            images=len(self._images),
            stated=sum(len(stated) for _, _, stated in self._images),
            judged=judged,
            true=true,
            given=sum(len(named) for _, named, _ in self._images),
            found=found,
        )


class _Nouns:
    """Looks up which categories a noun means, and caches the answers."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._vocabulary = tuple(vocabulary)
        self._known: dict[tuple[str, tuple[str, ...]], frozenset[str]] = {}

    def among(self, noun: str, categories: Sequence[str]) -> frozenset[str]:
        """The ones of an image's `categories` that the noun means."""
        key = (noun, tuple(categories))
        if key not in self._known:
            self._known[key] = frozenset(match(noun, categories))
        return self._known[key]

    def known(self, noun: str) -> bool:
        """Whether the noun means any category of the dataset."""
        return bool(self.among(noun, self._vocabulary))


def _judge(
    nouns: _Nouns, categories: list[str], given: set[Named], stated: list[tuple[str, str, str]]
) -> tuple[int, int, int]:
    """Counts for one image: triplets judged, triplets true, given relations found."""
    judged = true = 0
    found: set[Named] = set()
    for subject, predicate, object_ in stated:
        if not (nouns.known(subject) and nouns.known(object_)):
            continue
        judged += 1
        confirmed = {
            relation
            for relation in given
            if any(
                s in nouns.among(subject, categories) and o in nouns.among(object_, categories)
                for s, o in _directions(relation)
                if relation[1] == predicate
            )
        }
        true += bool(confirmed)
        found |= confirmed
    return judged, true, len(found)


def _directions(relation: Named) -> list[tuple[str, str]]:
    subject, predicate, object_ = relation
    both = [(subject, object_), (object_, subject)]
    return both if predicate in SYMMETRIC else both[:1]


def _stated(triplets: pa.Table) -> Mapping[int, list[tuple[str, str, str]]]:
    """Image id → the triplets of its captions, each once per caption, with canonical predicates."""
    items = FlatList.of(triplets, "triplets")
    columns: list[list[Any]] = [
        items.values(name) for name in ("caption", "subject_lemma", "predicate_lemma", "object_lemma")
    ]
    every = list(zip(*columns, strict=True))
    found = {}
    for image_id, part in zip(triplets["image_id"].to_pylist(), items.by_row(len(triplets)), strict=True):
        distinct = dict.fromkeys((c, s, canonical(p), o) for c, s, p, o in every[part])
        found[image_id] = [(s, p, o) for _, s, p, o in distinct]
    return found
