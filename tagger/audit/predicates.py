"""Scores labels per predicate, and reports what wrong labels should have stated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tagger.audit.labels import Agreement, Fact, agreement, audit
from tagger.labelling.calibration import calibration_error
from tagger.pair import Pair
from tagger.relation import Relation

NOTHING = "(no relation)"
REVERSED = "(the other way round)"


@dataclass(frozen=True)
class PredicateScores:
    """Scores of the labels of one predicate; None where there is nothing to divide by."""

    predicate: str
    kept: int
    truths: int
    """True relations that at least one candidate states."""
    precision: float | None
    recall: float | None
    """Recall over the reachable truths."""
    average_precision: float
    calibration_error: float
    """Calibration error of all labels' probabilities, or of their scores when the tagger is not calibrated."""
    instead: tuple[tuple[str, int], ...]
    """What is true of the box pairs of wrong labels, with counts, most frequent first."""


def audit_predicates(
    relations: Sequence[Sequence[Relation]],
    candidates: Sequence[Sequence[Pair]],
    truth: Sequence[Collection[Fact]],
    kept: Sequence[Collection[Fact]],
    symmetric: Collection[str] = (),
) -> tuple[PredicateScores, ...]:
    """Scores each predicate that is labelled or proposed, most kept labels first; arguments have one entry per image.

    Precision, recall and `instead` are computed on the `kept` labels, the other scores on all `relations`.
    """
    names = {r.predicate for of_image in relations for r in of_image} | {
        pair.predicate for of_image in candidates for pair in of_image
    }
    found = [
        _scores(
            name,
            [[r for r in of_image if r.predicate == name] for of_image in relations],
            [[pair for pair in of_image if pair.predicate == name] for of_image in candidates],
            truth,
            [[fact for fact in facts if fact[1] == name] for facts in kept],
            symmetric,
        )
        for name in sorted(names)
    ]
    return tuple(sorted(found, key=lambda scores: (-scores.kept, -scores.truths, scores.predicate)))


def _scores(
    name: str,
    relations: Sequence[Sequence[Relation]],
    candidates: Sequence[Sequence[Pair]],
    truth: Sequence[Collection[Fact]],
    kept: Sequence[Sequence[Fact]],
    symmetric: Collection[str],
) -> PredicateScores:
    own = [[fact for fact in facts if fact[1] == name] for facts in truth]
    curve = audit(relations, candidates, own, symmetric).tagger
    found = agreement(kept, own, symmetric)
    right: list[bool] = []
    sure: list[float] = []
    instead: Counter[str] = Counter()
    for of_image, labels, facts in zip(relations, kept, truth, strict=True):
        for relation in of_image:
            right.append(_holds(relation.subject, name, relation.object, facts, symmetric))
            sure.append(relation.score if relation.calibrated is None else relation.calibrated)
        for subject, _, object_ in labels:
            if not _holds(subject, name, object_, facts, symmetric):
                instead.update(_truths_of((subject, object_), name, facts) or [NOTHING])
    return PredicateScores(
        predicate=name,
        kept=sum(map(len, kept)),
        truths=curve.reachable,
        precision=found.precision(),
        recall=Agreement(found.kept, curve.reachable, found.right).recall(),
        average_precision=curve.average_precision(),
        calibration_error=calibration_error(sure, right),
        instead=tuple(sorted(instead.items(), key=lambda item: (-item[1], item[0]))),
    )


def _holds(subject: int, name: str, object_: int, facts: Collection[Fact], symmetric: Collection[str]) -> bool:
    return (subject, name, object_) in facts or (name in symmetric and (object_, name, subject) in facts)


def _truths_of(ends: tuple[int, int], name: str, facts: Collection[Fact]) -> list[str]:
    here = sorted(predicate for subject, predicate, object_ in facts if (subject, object_) == ends)
    return [REVERSED] if (ends[1], name, ends[0]) in facts else here
