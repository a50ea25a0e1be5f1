"""Which predicates are labelled well, and what the wrong labels should have said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tagger.audit import Fact, audit
from tagger.calibration import calibration_error
from tagger.candidates import Pair
from tagger.relation import Relation

NOTHING = "(no relation)"
TURNED = "(the other way round)"


@dataclass(frozen=True)
class PredicateScores:
    """Labels of one predicate. None where there is nothing to divide by."""

    predicate: str
    kept: int
    """Labels at the threshold."""
    truths: int
    """True relations that some candidate states."""
    precision: float | None
    recall: float | None
    """Of the reachable truths, at the threshold."""
    average_precision: float
    calibration_error: float
    """Of all labels' probabilities, or of their scores where the tagger was never calibrated."""
    instead: tuple[tuple[str, int], ...]
    """What is true of the pairs of wrong labels, and how often, the most frequent first."""


def audit_predicates(
    relations: Sequence[Sequence[Relation]],
    candidates: Sequence[Sequence[Pair]],
    truth: Sequence[Collection[Fact]],
    threshold: float,
    symmetric: Collection[str] = (),
) -> tuple[PredicateScores, ...]:
    """Scores of each predicate that is labelled or reachable, the most kept first; one entry an image in each argument."""
    names = {r.predicate for of_image in relations for r in of_image} | {
        pair.predicate for of_image in candidates for pair in of_image
    }
    found = [
        _scores(
            name,
            [[r for r in of_image if r.predicate == name] for of_image in relations],
            [[pair for pair in of_image if pair.predicate == name] for of_image in candidates],
            truth,
            threshold,
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
    threshold: float,
    symmetric: Collection[str],
) -> PredicateScores:
    own = [[fact for fact in facts if fact[1] == name] for facts in truth]
    curve = audit(relations, candidates, own, symmetric).tagger
    last = sum(score >= threshold for score in curve.scores) - 1
    right: list[bool] = []
    sure: list[float] = []
    kept = 0
    instead: Counter[str] = Counter()
    for of_image, facts in zip(relations, truth, strict=True):
        for relation in of_image:
            ends = relation.subject, relation.object
            holds = (ends[0], name, ends[1]) in facts or (name in symmetric and (ends[1], name, ends[0]) in facts)
            right.append(holds)
            sure.append(relation.score if relation.calibrated is None else relation.calibrated)
            if relation.score >= threshold:
                kept += 1
                if not holds:
                    instead.update(_truths_of(ends, name, facts) or [NOTHING])
    return PredicateScores(
        predicate=name,
        kept=kept,
        truths=curve.reachable,
        precision=curve.precision[last] if last >= 0 else None,
        recall=curve.recall[last] if last >= 0 and curve.reachable else None,
        average_precision=curve.average_precision(),
        calibration_error=calibration_error(sure, right),
        instead=tuple(sorted(instead.items(), key=lambda item: (-item[1], item[0]))),
    )


def _truths_of(ends: tuple[int, int], name: str, facts: Collection[Fact]) -> list[str]:
    here = sorted(predicate for subject, predicate, object_ in facts if (subject, object_) == ends)
    return [TURNED] if (ends[1], name, ends[0]) in facts else here
