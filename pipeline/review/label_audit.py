"""Are labels right? The tagger's and naive matching's labels against the relations that the set itself gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.review.label_counts import candidates
from pipeline.review.nested import Items
from storage.artifact import Artifact
from tagger.audit import SYMMETRIC, Fact, LabelCurve, audit
from tagger.candidates import Pair
from tagger.predicates import canonical
from tagger.relation import Relation


@dataclass(frozen=True)
class LabelScores:
    """How one way of labelling does. None: no label reaches the threshold, or the recall is not reached."""

    kept: int
    """Labels at the threshold."""
    precision: float | None
    recall: float | None
    """Of all given relations, at the threshold."""
    precision_at_recall: float | None
    """Best precision at a recall of at least .8 of the reachable relations."""
    average_precision: float
    """Area under precision over the recall of reachable relations."""


@dataclass(frozen=True)
class LabelAudit:
    """Both ways of labelling on the same images: those that have given relations."""

    images: int
    given: int
    """Given relations; of a symmetric predicate both directions are one."""
    reachable: int
    """Those that some candidate pair states."""
    tagger: LabelScores
    naive: LabelScores


@dataclass
class LabelCount:
    """Collects a `LabelAudit` over the partitions of one data set; labels are kept from the score `threshold` on."""

    threshold: float
    _truth: list[set[Fact]] = field(default_factory=list)
    _relations: list[list[Relation]] = field(default_factory=list)
    _pairs: list[list[Pair]] = field(default_factory=list)

    def add(self, images: pa.Table, tagged: Artifact) -> None:
        """Take in a partition: its rows of `images` and the artifact of its tagging."""
        given = _by_image(images, "relations", "subject", "predicate", "object")
        names = ("subject", "object", "predicate", "score", "proposed", "triplet")
        relations = _by_image(tagged.table("relations"), "relations", *names)
        pairs = _by_image(candidates(tagged), "pairs", "subject", "object", "predicate", "triplet", "ambiguity")
        for image_id, facts in given.items():
            if facts and image_id in relations:
                self._truth.append({(subject, canonical(p), object_) for subject, p, object_ in facts})
                self._relations.append([Relation(*values) for values in relations[image_id]])
                self._pairs.append([Pair(*values) for values in pairs.get(image_id, ())])

    def audit(self) -> LabelAudit:
        """The audit of what was taken in."""
        found = audit(self._relations, self._pairs, self._truth, SYMMETRIC)
        kept = sum(relation.score >= self.threshold for of_image in self._relations for relation in of_image)
        return LabelAudit(
            images=len(self._truth),
            given=found.tagger.truths,
            reachable=found.tagger.reachable,
            tagger=_scores(found.tagger, kept, self.threshold),
            naive=_scores(found.naive, sum(map(len, self._pairs)), self.threshold),
        )


def _scores(curve: LabelCurve, kept: int, threshold: float) -> LabelScores:
    # Scores fall along the curve: the last one that reaches the threshold tells precision and recall there.
    last = sum(score >= threshold for score in curve.scores) - 1
    return LabelScores(
        kept=kept,
        precision=curve.precision[last] if last >= 0 else None,
        recall=curve.recall_of_all[last] if last >= 0 else None,
        precision_at_recall=curve.precision_at() or None,
        average_precision=curve.average_precision(),
    )


def _by_image(table: pa.Table, column: str, *fields: str) -> Mapping[int, Sequence[tuple[Any, ...]]]:
    """Image id → the items of a nested column, as tuples of these fields."""
    items = Items.of(table, column)
    every = list(zip(*(items.values(name) for name in fields), strict=True))
    parts = items.by_row(len(table))
    return {image_id: every[part] for image_id, part in zip(table["image_id"].to_pylist(), parts, strict=True)}
