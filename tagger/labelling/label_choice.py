"""Chooses the scored labels to train on, and the confidence of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tagger.pair import NO_MENTION, Pair
from tagger.relation import Relation


@dataclass(frozen=True)
class LabelChoice:
    """Selects labels of one image by rules that do not need the tagger.

    `measure`: the field that is a label's confidence. `rule`: "all" keeps every pair of a mention; "best" the
    likeliest, as many as the mention means; "posterior" every pair, its confidence times its posterior. `threshold`:
    the minimum confidence for predicates that `thresholds` does not name. `per_pair`: the maximum number of labels per
    ordered pair of boxes, the most confident ones (None: no limit).
    """

    measure: Literal["score", "calibrated"] = "score"
    rule: Literal["all", "best", "posterior"] = "all"
    threshold: float = 0.2
    thresholds: Mapping[str, float] = field(default_factory=dict)
    per_pair: int | None = None

    def chosen(self, relations: Sequence[Relation], pairs: Sequence[Pair]) -> list[tuple[Relation, float]]:
        """Returns the kept labels with their confidence, in the given order; only "best" reads the candidates `pairs`.

        Raises ValueError when a label lacks the value that the measure or the rule needs.
        """
        sure = [(relation, self._confidence(relation)) for relation in relations]
        if self.rule == "best":
            best = _best(dict(zip(map(_label, relations), (s for _, s in sure), strict=True)), relations, pairs)
            sure = [(relation, confidence) for relation, confidence in sure if _label(relation) in best]
        kept = [
            (relation, confidence)
            for relation, confidence in sure
            if confidence >= self.thresholds.get(relation.predicate, self.threshold)
        ]
        if self.per_pair is None:
            return kept
        places: Counter[tuple[int, int]] = Counter()
        surest = set()
        for relation, _ in sorted(kept, key=lambda one: (-one[1], one[0].predicate)):
            places[relation.subject, relation.object] += 1
            if places[relation.subject, relation.object] <= self.per_pair:
                surest.add(_label(relation))
        return [(relation, confidence) for relation, confidence in kept if _label(relation) in surest]

    def _confidence(self, relation: Relation) -> float:
        confidence = relation.score if self.measure == "score" else relation.calibrated
        if confidence is None:
            raise ValueError(
                "shard.confidence = 'calibrated': labels are not calibrated; train the tagger with held_out > 0 or use 'score'"
            )
        if self.rule != "all" and relation.proposed and relation.posterior is None:
            raise ValueError(f"shard.rule = {self.rule!r}: labels have no posteriors; run `tag` again, or use 'all'")
        # If no mention proposed the label for this pair, no mention can mean it: its posterior is 0.
        return confidence * (relation.posterior or 0.0) if self.rule == "posterior" else confidence


_Label = tuple[int, str, int]


def _label(item: Relation | Pair) -> _Label:
    return item.subject, item.predicate, item.object


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
