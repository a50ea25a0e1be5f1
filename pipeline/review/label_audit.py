"""Are labels right? The tagger's and naive matching's labels against the relations that the set itself gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.review.caption_audit import SYMMETRIC
from pipeline.review.label_counts import candidates
from pipeline.review.nested import Items
from storage.artifact import Artifact
from tagger.predicates import canonical

AUDITED_RECALL = 0.8

Label = tuple[int, int, str, int]
"""Image id, subject box, canonical predicate, object box; of a symmetric predicate the lower box comes first."""


@dataclass(frozen=True)
class LabelScores:
    """How one way of labelling does. None: no label, no truth, or a recall that is not reached."""

    kept: int
    """Labels at the threshold, each (subject, predicate, object) once."""
    precision: float | None
    recall: float | None
    precision_at_recall: float | None
    """Best precision at a recall of at least AUDITED_RECALL."""
    average_precision: float | None


@dataclass(frozen=True)
class LabelAudit:
    """Both ways of labelling on the same images: those that have given relations."""

    images: int
    given: int
    tagger: LabelScores
    naive: LabelScores


@dataclass
class LabelCount:
    """Collects a `LabelAudit` over the partitions of one data set; labels are kept from the score `threshold` on."""

    threshold: float
    _truth: set[Label] = field(default_factory=set)
    _scored: dict[Label, float] = field(default_factory=dict)
    _naive: dict[Label, float] = field(default_factory=dict)

    def add(self, images: pa.Table, tagged: Artifact) -> None:
        """Take in a partition: its rows of `images` and the artifact of its tagging."""
        truth = _labels(images, Items.of(images, "relations"))
        audited = {label[0] for label in truth}
        self._truth.update(truth)
        relations, pairs = tagged.table("relations"), candidates(tagged)
        items = Items.of(relations, "relations")
        for label, score in zip(_labels(relations, items), items.numbers("score").tolist(), strict=True):
            if label[0] in audited:
                self._scored[label] = max(score, self._scored.get(label, 0.0))
        proposed = _labels(pairs, Items.of(pairs, "pairs"))
        self._naive.update((label, 1.0) for label in proposed if label[0] in audited)

    def audit(self) -> LabelAudit:
        """The audit of what was taken in."""
        images = {label[0] for label in self._truth}
        return LabelAudit(
            images=len(images),
            given=len(self._truth),
            tagger=score_labels(self._scored, self._truth, self.threshold),
            naive=score_labels(self._naive, self._truth, self.threshold),
        )


def score_labels(scored: Mapping[Label, float], truth: set[Label], threshold: float) -> LabelScores:
    """Precision and recall at the threshold and along the ranking; labels of equal score are taken together."""
    scores = np.array(list(scored.values()), dtype=np.float64)
    right = np.array([label in truth for label in scored], dtype=bool)
    kept = scores >= threshold
    precision, recall = _curve(scores, right, len(truth))
    reached = precision[recall >= AUDITED_RECALL]
    return LabelScores(
        kept=int(kept.sum()),
        precision=float(right[kept].mean()) if kept.any() else None,
        recall=float(right[kept].sum() / len(truth)) if truth else None,
        precision_at_recall=float(reached.max()) if len(reached) else None,
        average_precision=float(np.sum(np.diff(recall, prepend=0.0) * precision)) if truth else None,
    )


def _curve(
    scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], truths: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision and recall after each distinct score, best first."""
    order = np.argsort(-scores, kind="stable")
    hits, ranks = np.cumsum(right[order]), np.arange(1, len(order) + 1)
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    return hits[last] / ranks[last], hits[last] / max(truths, 1)


def _labels(table: pa.Table, items: Items) -> Sequence[Label]:
    image_ids = table["image_id"].to_numpy()[items.row].tolist()
    columns = (items.values(name) for name in ("subject", "predicate", "object"))
    return [_label(image, *named) for image, *named in zip(image_ids, *columns, strict=True)]


def _label(image: int, subject: int, predicate: str, object_: int) -> Label:
    name = canonical(predicate)
    if name in SYMMETRIC and object_ < subject:
        subject, object_ = object_, subject
    return (image, subject, name, object_)
