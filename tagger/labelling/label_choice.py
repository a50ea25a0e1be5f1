"""Chooses the scored labels to train on: the confidence of each, the reason why one is not kept, and posteriors."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, NamedTuple

from tagger.english.predicates import canonical
from tagger.labelling.calibration import USUAL_SUPPORT, Stack, features
from tagger.pair import NO_MENTION, Pair, shares
from tagger.relation import Relation


class NotKept(StrEnum):
    """Why a scored label is not kept. The first reason that applies counts."""

    LESS_LIKELY = "another pair of its mention is likelier"
    BELOW_THRESHOLD = "below the threshold"
    OVER_PER_PAIR = "over the limit per pair"


LACKING = {
    "probability": "labels of earlier versions have no probability; run `tag` again",
    "calibrated": "labels are not calibrated; train the tagger with held_out > 0",
}
"""Measure → why labels lack it, and what to do."""


def shown(confidence: float) -> float:
    """A confidence as it is shown, stored and compared with thresholds: .9 where a 32-bit table holds .89999998."""
    return round(confidence, 6)


class Judged(NamedTuple):
    """The confidence of a label; `reason` is None when it is kept."""

    confidence: float
    reason: str | None = None


@dataclass(frozen=True)
class LabelChoice:
    """Selects labels of one image by rules that do not need the tagger.

    `measure`: the field that is a label's confidence. `rule`: "all" keeps every pair of a mention; "best" the
    likeliest, as many as the mention means; "posterior" every pair, its confidence times its posterior. `threshold`:
    the minimum confidence for predicates whose canonical name is not in `thresholds`. `per_pair`: the maximum number of
    labels per ordered pair of boxes, the most confident ones (None: no limit).
    """

    measure: Literal["probability", "calibrated", "score"] = "probability"
    rule: Literal["all", "best", "posterior"] = "all"
    threshold: float = 0.45
    thresholds: Mapping[str, float] = field(default_factory=dict)
    per_pair: int | None = None

    def judge(self, relations: Sequence[Relation], pairs: Sequence[Pair]) -> list[Judged]:
        """Returns a verdict on each label, in the given order; only "best" reads the candidates `pairs`.

        Raises ValueError when a label lacks the value that the measure or the rule needs.
        """
        confidences = [self._confidence(relation) for relation in relations]
        judged = [
            Judged(confidence, self._reason(r, confidence))
            for r, confidence in zip(relations, confidences, strict=True)
        ]
        if self.rule == "best":
            best = _best(dict(zip(map(_label, relations), confidences, strict=True)), relations, pairs)
            judged = [
                one if _label(relation) in best else Judged(one.confidence, NotKept.LESS_LIKELY)
                for relation, one in zip(relations, judged, strict=True)
            ]
        return judged if self.per_pair is None else _strongest_per_pair(relations, judged, self.per_pair)

    def _reason(self, relation: Relation, confidence: float) -> str | None:
        least = self.thresholds.get(canonical(relation.predicate), self.threshold)
        return NotKept.BELOW_THRESHOLD if shown(confidence) < least else None

    def _confidence(self, relation: Relation) -> float:
        confidence: float | None = getattr(relation, self.measure)
        if confidence is None:
            raise ValueError(f"shard.confidence = {self.measure!r}: {LACKING[self.measure]}, or use 'score'")
        if self.rule != "all" and relation.proposed and relation.posterior is None:
            raise ValueError(f"shard.rule = {self.rule!r}: labels have no posteriors; run `tag` again, or use 'all'")
        # If no mention proposed the label for this pair, no mention can mean it: its posterior is 0.
        return confidence * (relation.posterior or 0.0) if self.rule == "posterior" else confidence


_Label = tuple[int, str, int]


def _label(item: Relation | Pair) -> _Label:
    return item.subject, item.predicate, item.object


def _strongest_per_pair(relations: Sequence[Relation], judged: Sequence[Judged], most: int) -> list[Judged]:
    """Keeps at most the `most` most confident labels of each ordered pair of boxes."""
    kept = [place for place, one in enumerate(judged) if one.reason is None]
    counts: Counter[tuple[int, int]] = Counter()
    limited = list(judged)
    for place in sorted(kept, key=lambda place: (-judged[place].confidence, relations[place].predicate)):
        ends = relations[place].subject, relations[place].object
        counts[ends] += 1
        if counts[ends] > most:
            limited[place] = Judged(judged[place].confidence, NotKept.OVER_PER_PAIR)
    return limited


def _best(confidences: Mapping[_Label, float], relations: Sequence[Relation], pairs: Sequence[Pair]) -> set[_Label]:
    """Returns the likeliest labels of each mention, as many as the mention means."""
    priors: dict[int, float] = {}
    members: dict[int, list[_Label]] = {}
    for pair in pairs:
        if pair.mention != NO_MENTION:
            priors[pair.mention] = priors.get(pair.mention, 0.0) + pair.prior
            members.setdefault(pair.mention, []).append(_label(pair))
    posterior = {_label(relation): relation.posterior or 0.0 for relation in relations}
    best: set[_Label] = set()
    for mention, labels in members.items():
        scored = [label for label in labels if label in confidences]
        ranked = sorted(scored, key=lambda label: (-posterior[label], -confidences[label], label))
        best.update(ranked[: max(1, round(priors[mention]))])
    return best


def with_probabilities(relations: Sequence[Relation], pairs: Sequence[Pair], stack: Stack) -> list[Relation]:
    """Returns the labels of an image with their probabilities and the parts of these; `pairs` are its candidates.

    A pair of several mentions has the highest prior and support of them, and one that none means the least prior. If
    no caption is read, the tagger alone decides.
    """
    captioned = any(pair.mention != NO_MENTION for pair in pairs)
    stated: dict[_Label, tuple[float, int]] = {}
    for pair in pairs:
        prior, support = stated.get(_label(pair), (0.0, 0))
        stated[_label(pair)] = max(prior, pair.prior), max(support, pair.support)
    found = []
    for one in relations:
        prior, support = stated.get(_label(one), (0.0, 0)) if captioned else (1.0, USUAL_SUPPORT)
        posterior = prior if one.posterior is None else one.posterior
        probability = one.score if one.calibrated is None else one.calibrated
        parts = stack.parts(features(probability, prior, posterior, support))
        found.append(
            replace(one, probability=stack.probability(parts), **{f"{n}_part": v for n, v in parts._asdict().items()})
        )
    return found


def distinct_labels(stated: Sequence[Relation], pairs: Sequence[Pair]) -> dict[tuple[int, int, str], Relation]:
    """Returns the labels of an image's candidates by subject, object and predicate, with posteriors.

    `stated`: the relation of each of the candidates `pairs`. A label that several mentions propose is that of the
    first, with the highest posterior of them.
    """
    confidences = [one.score if one.calibrated is None else one.calibrated for one in stated]
    labels: dict[tuple[int, int, str], Relation] = {}
    for one, posterior in zip(stated, posteriors(pairs, confidences), strict=True):
        known = labels.setdefault((one.subject, one.object, one.predicate), one)
        if posterior is not None and (known.posterior is None or posterior > known.posterior):
            labels[one.subject, one.object, one.predicate] = replace(known, posterior=posterior)
    return labels


LEAST = 1e-6
"""Minimum distance of probabilities from 0 and 1."""


def posteriors(pairs: Sequence[Pair], probabilities: Sequence[float]) -> list[float | None]:
    """Returns the probability that each candidate is (one of those) meant by its mention; None without a mention.

    `probabilities`: the probability of each candidate's relation, from its pixels. Over a mention, posteriors have the
    same sum as priors: the number of pairs that it means. They are proportional to prior times odds, but at most 1:
    the excess goes to the others.
    """
    mentions: dict[int, list[int]] = {}
    for place, pair in enumerate(pairs):
        mentions.setdefault(pair.mention, []).append(place)
    found: list[float | None] = [None] * len(pairs)
    for mention, places in mentions.items():
        if mention == NO_MENTION:
            continue
        weights = [max(pairs[place].prior, LEAST) * _odds(probabilities[place]) for place in places]
        for place, share in zip(places, shares(weights, math.fsum(pairs[p].prior for p in places)), strict=True):
            found[place] = share
    return found


def _odds(probability: float) -> float:
    kept = min(max(probability, LEAST), 1 - LEAST)
    return kept / (1 - kept)
