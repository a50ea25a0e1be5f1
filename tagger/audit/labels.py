"""Scores labels against the truth, overall and by predicate, against baselines that do not look at the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tagger.labelling.blind_labeller import blind_labels
from tagger.labelling.calibration import calibration_error
from tagger.pair import Pair
from tagger.relation import Relation

AUDITED_RECALL = 0.8
NOTHING = "(no relation)"
REVERSED = "(the other way round)"
SYMMETRIC = frozenset({"next to"})
"""Canonical predicates that hold in both directions."""

Indices = NDArray[np.int64]
Fact = tuple[int, str, int]
"""(subject box, canonical predicate, object box)"""


def unordered(fact: Fact) -> Fact:
    """The fact in the direction that stands for both if its predicate is symmetric."""
    subject, predicate, object_ = fact
    return (object_, predicate, subject) if predicate in SYMMETRIC and object_ < subject else fact


def unordered_ends(subject: Indices, object_: Indices, is_symmetric: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """The ends of N facts (N), each in the direction of `unordered`."""
    is_turned = is_symmetric & (object_ < subject)
    return np.where(is_turned, object_, subject), np.where(is_turned, subject, object_)


def holds(fact: Fact, facts: Collection[Fact]) -> bool:
    """Whether a fact is one of `facts`, in either direction if its predicate is symmetric."""
    return fact in facts or (fact[1] in SYMMETRIC and fact[::-1] in facts)


@dataclass(frozen=True)
class LabelCurve:
    """Precision and recall of labels, from the highest score down; labels with equal scores form one point.

    `scores`, `precision`, `recall`: one entry per distinct score. Recall is measured over the `reachable` truths: those
    that at least one candidate states, or that the tagger scores unasked (`tag.predicates = "image"`).
    """

    labels: int
    truths: int
    reachable: int
    scores: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]

    def average_precision(self) -> float:
        """Area under the curve of precision over reachable recall, not interpolated; 0 without labels or truths."""
        steps = zip(self.precision, self.recall, (0.0, *self.recall), strict=False)
        return sum(height * (reached - before) for height, reached, before in steps)

    def precision_at(self, recall: float = AUDITED_RECALL) -> float:
        """Best precision at a reachable recall of at least `recall`; 0 if it is not reached."""
        # Recall is a quotient of counts: 4 of 5 must reach .8 despite rounding.
        points = zip(self.precision, self.recall, strict=True)
        return max((height for height, reached in points if reached >= recall - 1e-9), default=0.0)

    def best_f1(self) -> tuple[float, float, float, float]:
        """The highest F1 over all truths, with its score threshold, its precision, and its recall of all truths."""
        reached = self.reachable / max(self.truths, 1)
        points = zip(self.scores, self.precision, (recall * reached for recall in self.recall), strict=True)
        return max(((f1(p, r), score, p, r) for score, p, r in points), default=(0.0, 1.0, 0.0, 0.0))


def f1(precision: float | None, recall: float | None) -> float:
    """The harmonic mean; 0 where either is 0 or unknown."""
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


@dataclass(frozen=True)
class Agreement:
    """How many of the `kept` labels are among the `truths`; each fact counts once."""

    kept: int
    truths: int
    right: int

    def precision(self) -> float | None:
        """Share of the kept labels that are true; None when nothing is kept."""
        return self.right / self.kept if self.kept else None

    def recall(self) -> float | None:
        """Share of the truths that are kept; None when nothing is true."""
        return self.right / self.truths if self.truths else None


@dataclass(frozen=True)
class LabelComparison:
    """Curves of the tagger and of two baselines that ignore the pixels, on the same images and candidates.

    `naive`: every candidate with score 1. `prior`: every candidate with its prior, which uses boxes and names only.
    """

    tagger: LabelCurve
    naive: LabelCurve
    prior: LabelCurve


def audit(
    relations: Sequence[Sequence[Relation]], candidates: Sequence[Sequence[Pair]], truth: Sequence[Collection[Fact]]
) -> LabelComparison:
    """Compares relations and their candidates with the truth; each argument has one entry per image.

    Predicates are canonical. A fact with a predicate of `SYMMETRIC` holds in both directions and counts once.
    Raises ValueError when the arguments cover different numbers of images.
    """
    if not len(relations) == len(candidates) == len(truth):
        raise ValueError(
            f"audit: relations for {len(relations)} images, candidates for {len(candidates)} and truth for "
            f"{len(truth)}; give one entry per image in each"
        )
    facts, scored = _labels(truth), _scored(relations)
    naive, blind = (_scored([blind_labels(pairs, way) for pairs in candidates]) for way in ("naive", "prior"))
    reachable = len(facts & (naive.keys() | scored.keys()))
    return LabelComparison(*(_curve(each, facts, reachable) for each in (scored, naive, blind)))


def label_curve(
    relations: Sequence[Sequence[Relation]], truth: Sequence[Collection[Fact]], reachable: int
) -> LabelCurve:
    """The curve of some of the labels that `audit` compares, with recall over its `reachable` truths."""
    return _curve(_scored(relations), _labels(truth), reachable)


def agreement(kept: Sequence[Collection[Fact]], truth: Sequence[Collection[Fact]]) -> Agreement:
    """Compares kept labels with the truth, ignoring scores; each argument has one entry per image, as in `audit`."""
    labels, facts = _labels(kept), _labels(truth)
    return Agreement(len(labels), len(facts), len(labels & facts))


_Label = tuple[int, int, str, int]
"""(image, subject box, canonical predicate, object box)"""


def _labels(facts: Sequence[Collection[Fact]]) -> set[_Label]:
    """The distinct labels of all images."""
    return {(image, *unordered(fact)) for image, of_image in enumerate(facts) for fact in of_image}


def _scored(relations: Sequence[Sequence[Relation]]) -> dict[_Label, float]:
    """The highest score of each distinct label."""
    scored: dict[_Label, float] = {}
    for image, of_image in enumerate(relations):
        for relation in of_image:
            fact = unordered((relation.subject, relation.predicate, relation.object))
            scored[(image, *fact)] = max(relation.score, scored.get((image, *fact), 0.0))
    return scored


def _curve(scored: dict[_Label, float], facts: set[_Label], reachable: int) -> LabelCurve:
    scores = np.array([*scored.values()], np.float64)
    ranked = np.argsort(-scores)
    # Each point is after the last label with a score.
    last = np.flatnonzero(np.diff(scores[ranked], append=-np.inf))
    right = np.cumsum(np.array([label in facts for label in scored], bool)[ranked])[last]
    return LabelCurve(
        labels=len(scored),
        truths=len(facts),
        reachable=reachable,
        scores=tuple(scores[ranked][last].tolist()),
        precision=tuple((right / (last + 1)).tolist()),
        recall=tuple((right / max(reachable, 1)).tolist()),
    )


@dataclass(frozen=True)
class PredicateScores:
    """Scores of the labels of one predicate; None where there is nothing to divide by."""

    predicate: str
    kept: int
    truths: int
    """True relations that are reachable (see `LabelCurve`)."""
    precision: float | None
    recall: float | None
    """Recall over the reachable truths."""
    average_precision: float
    calibration_error: float | None
    """Calibration error of all labels' probabilities, or of their scores where they have none."""
    instead: tuple[tuple[str, int], ...]
    """What is true of the box pairs of wrong labels, with counts, most frequent first."""


def audit_predicates(
    relations: Sequence[Sequence[Relation]],
    candidates: Sequence[Sequence[Pair]],
    truth: Sequence[Collection[Fact]],
    kept: Sequence[Collection[Fact]],
) -> tuple[PredicateScores, ...]:
    """Scores each predicate that is labelled or proposed, most kept labels first; arguments have one entry per image.

    Precision, recall and `instead` are computed on the `kept` labels, the other scores on all `relations`.
    """
    scored, proposed = (_by_predicate(labels, attrgetter("predicate")) for labels in (relations, candidates))
    held, true = (_by_predicate(facts, itemgetter(1)) for facts in (kept, truth))
    scores = []
    for name in sorted(scored.keys() | proposed.keys()):
        own = [each.get(name, {}) for each in (scored, proposed, held, true)]
        images = sorted(set().union(*own))
        parts = ([each.get(image, ()) for image in images] for each in own)
        scores.append(_scores(name, [truth[image] for image in images], *parts))
    return tuple(sorted(scores, key=lambda one: (-one.kept, -one.truths, one.predicate)))


def _by_predicate(labels: Sequence[Iterable[Any]], predicate: Callable[[Any], str]) -> dict[str, dict[int, list[Any]]]:
    """Predicate → image → its labels. There may be thousands of predicates, so all labels are read only once."""
    found: dict[str, dict[int, list[Any]]] = {}
    for image, of_image in enumerate(labels):
        for label in of_image:
            found.setdefault(predicate(label), {}).setdefault(image, []).append(label)
    return found


def _scores(
    name: str,
    truth: Sequence[Collection[Fact]],
    relations: Sequence[Sequence[Relation]],
    candidates: Sequence[Sequence[Pair]],
    kept: Sequence[Sequence[Fact]],
    own: Sequence[Sequence[Fact]],
) -> PredicateScores:
    """The scores of a predicate from all `truth` of some images, and from its labels and `own` truths in them."""
    curve = audit(relations, candidates, own).tagger
    agreed = agreement(kept, own)
    right: list[bool] = []
    confidences: list[float] = []
    instead: Counter[str] = Counter()
    for of_image, labels, facts in zip(relations, kept, truth, strict=True):
        for relation in of_image:
            right.append(holds((relation.subject, name, relation.object), facts))
            confidences.append(relation.score if relation.probability is None else relation.probability)
        for subject, _, object_ in labels:
            if holds((subject, name, object_), facts):
                continue
            if (object_, name, subject) in facts:
                instead[REVERSED] += 1
            else:
                instead.update([p for s, p, o in facts if (s, o) == (subject, object_)] or [NOTHING])
    return PredicateScores(
        predicate=name,
        kept=sum(map(len, kept)),
        truths=curve.reachable,
        precision=agreed.precision(),
        recall=Agreement(agreed.kept, curve.reachable, agreed.right).recall(),
        average_precision=curve.average_precision(),
        calibration_error=calibration_error(confidences, right),
        instead=tuple(sorted(instead.items(), key=lambda item: (-item[1], item[0]))),
    )
