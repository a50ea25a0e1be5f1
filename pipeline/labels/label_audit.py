"""Are labels right? The tagger's labels, and such as are made without it, against the relations that the set gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

from pipeline.labels.flat_list import FlatList
from pipeline.labels.kept_labels import ChoiceSettings, kept_labels
from pipeline.labels.label_funnel import candidates
from storage.artifact import Artifact
from tagger.audit.labels import SYMMETRIC, Fact, LabelCurve, agreement, audit
from tagger.audit.predicates import PredicateScores, audit_predicates
from tagger.english.predicates import canonical
from tagger.labelling.calibration import calibration_error
from tagger.pair import Pair
from tagger.relation import Relation


@dataclass(frozen=True)
class LabelScores:
    """How one way of labelling does. None: no label is kept, or the recall is not reached."""

    kept: int
    """The tagger's labels that stage `shard` keeps; of the others those whose score reaches its threshold."""
    precision: float | None
    recall: float | None
    """Of all given relations."""
    precision_at_recall: float | None
    """Best precision at a recall of at least .8 of the reachable relations."""
    average_precision: float
    """Area under precision over the recall of reachable relations."""


@dataclass(frozen=True)
class LabelAudit:
    """The ways of labelling on the same images: those that have given relations."""

    images: int
    given: int
    """Given relations; of a symmetric predicate both directions are one."""
    reachable: int
    """Those that some candidate pair states."""
    tagger: LabelScores
    naive: LabelScores
    prior: LabelScores
    """What boxes and names alone tell: each candidate's prior is its score."""
    score_error: float = 0.0
    """Expected calibration error of the scores."""
    calibrated_error: float | None = None
    """That of the calibrated probabilities; None without any."""
    predicates: tuple[PredicateScores, ...] = ()
    """The most kept first."""


@dataclass
class LabelCount:
    """Collects a `LabelAudit` over partitions; `choice` says which of the tagger's labels are kept."""

    choice: ChoiceSettings
    _truth: list[set[Fact]] = field(default_factory=list)
    _relations: list[list[Relation]] = field(default_factory=list)
    _pairs: list[list[Pair]] = field(default_factory=list)
    _kept: list[set[Fact]] = field(default_factory=list)

    def add(self, images: pa.Table, tagged: Artifact) -> None:
        """Take in a partition: its rows of `images` and the artifact of its tagging."""
        given = _by_image(images, "relations", "subject", "predicate", "object")
        names = tuple(each.name for each in fields(Relation))
        labels, proposed = tagged.table("relations"), candidates(tagged)
        relations = _by_image(labels, "relations", *names)
        pairs = _by_image(proposed, "pairs", *(each.name for each in fields(Pair)))
        kept = kept_labels(labels, proposed, self.choice)
        for image_id, facts in given.items():
            if facts and image_id in relations:
                self._truth.append({(subject, canonical(p), object_) for subject, p, object_ in facts})
                self._relations.append([_relation(values) for values in relations[image_id]])
                self._pairs.append([_pair(values) for values in pairs.get(image_id, ())])
                self._kept.append({(r.subject, r.predicate, r.object) for r in kept[image_id]})

    def audit(self) -> LabelAudit:
        """The audit of what was taken in."""
        found = audit(self._relations, self._pairs, self._truth, SYMMETRIC)
        right = [
            (r.subject, r.predicate, r.object) in facts
            or (r.predicate in SYMMETRIC and (r.object, r.predicate, r.subject) in facts)
            for of_image, facts in zip(self._relations, self._truth, strict=True)
            for r in of_image
        ]
        labels = [relation for of_image in self._relations for relation in of_image]
        sure = [relation.calibrated for relation in labels if relation.calibrated is not None]
        return LabelAudit(
            images=len(self._truth),
            given=found.tagger.truths,
            reachable=found.tagger.reachable,
            tagger=self._scores(found.tagger, self._kept),
            naive=self._scores(found.naive, list(map(_facts, self._pairs))),
            prior=self._scores(found.prior, [_facts(pairs, self.choice.threshold) for pairs in self._pairs]),
            score_error=calibration_error([relation.score for relation in labels], right),
            calibrated_error=calibration_error(sure, right) if labels and len(sure) == len(labels) else None,
            predicates=audit_predicates(self._relations, self._pairs, self._truth, self._kept, SYMMETRIC),
        )

    def _scores(self, curve: LabelCurve, kept: Sequence[set[Fact]]) -> LabelScores:
        found = agreement(kept, self._truth, SYMMETRIC)
        return LabelScores(
            kept=sum(map(len, kept)),
            precision=found.precision(),
            recall=found.recall(),
            precision_at_recall=curve.precision_at() or None,
            average_precision=curve.average_precision(),
        )


def _pair(values: tuple[Any, ...]) -> Pair:
    # Tables of earlier versions have no mentions: what they lack has its default.
    known = {each.name: value for each, value in zip(fields(Pair), values, strict=True) if value is not None}
    return Pair(**known | {"predicate": canonical(known["predicate"])})


def _relation(values: tuple[Any, ...]) -> Relation:
    found = Relation(*values)
    return replace(found, predicate=canonical(found.predicate))


def _facts(pairs: Sequence[Pair], least: float = 0.0) -> set[Fact]:
    """Distinct labels whose prior reaches `least`."""
    return {(pair.subject, pair.predicate, pair.object) for pair in pairs if pair.prior >= least}


def _by_image(table: pa.Table, column: str, *names: str) -> Mapping[int, Sequence[tuple[Any, ...]]]:
    """Image id → the items of a nested column, as tuples of these fields; None for one that an older table lacks."""
    items = FlatList.of(table, column)
    there = {field.name for field in items.fields.type}
    lacking = [None] * len(items)
    every = list(zip(*(items.values(name) if name in there else lacking for name in names), strict=True))
    parts = items.by_row(len(table))
    return {image_id: every[part] for image_id, part in zip(table["image_id"].to_pylist(), parts, strict=True)}
