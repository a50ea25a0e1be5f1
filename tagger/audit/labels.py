"""Scores relations against planted or given truth, beside baselines that do not look at the image."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tagger.labelling.blind_labeller import naive_labels, prior_labels
from tagger.pair import Pair
from tagger.relation import Relation

AUDITED_RECALL = 0.8
SYMMETRIC = frozenset({"next to"})
"""Canonical predicates that hold in both directions."""

Fact = tuple[int, str, int]
"""(subject box, canonical predicate, object box)"""


@dataclass(frozen=True)
class LabelCurve:
    """Precision and recall of labels, from the highest score down; labels with equal scores form one point.

    `scores`, `precision`, `recall`: one entry per distinct score. `recall` is measured over the truths that at least one
    candidate states (`reachable`), of all `truths`.
    """

    labels: int
    truths: int
    reachable: int
    scores: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]

    def average_precision(self) -> float:
        """Area under the curve of precision over reachable recall, not interpolated; 0 without labels or truths."""
        return _area(self.precision, self.recall)

    def precision_at(self, recall: float = AUDITED_RECALL) -> float:
        """Best precision at a reachable recall of at least `recall`; 0 if it is not reached."""
        return _best(self.precision, self.recall, recall)


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
        """Share of the truths that are kept; None when nothing is kept (a curve without points) or nothing is true."""
        return self.right / self.truths if self.kept and self.truths else None


@dataclass(frozen=True)
class LabelComparison:
    """Curves of the tagger and of two baselines that ignore the pixels, on the same images and candidates.

    `naive`: every candidate with score 1. `prior`: every candidate with its prior, which uses boxes and names only.
    """

    tagger: LabelCurve
    naive: LabelCurve
    prior: LabelCurve

    def gain(self, recall: float = AUDITED_RECALL) -> float:
        """Precision that the tagger gains over naive matching at a reachable recall of at least `recall`."""
        return self.tagger.precision_at(recall) - self.naive.precision_at(recall)


def audit(
    relations: Sequence[Sequence[Relation]],
    candidates: Sequence[Sequence[Pair]],
    truth: Sequence[Collection[Fact]],
    symmetric: Collection[str] = (),
) -> LabelComparison:
    """Compares relations and their candidates with the truth; each argument has one entry per image.

    Predicates are canonical. A fact with a `symmetric` predicate holds in both directions and counts once.
    Raises ValueError when the arguments cover different numbers of images.
    """
    if not len(relations) == len(candidates) == len(truth):
        raise ValueError(
            f"audit: relations for {len(relations)} images, candidates for {len(candidates)} and truth for "
            f"{len(truth)}; give one entry per image in each"
        )
    symmetric = frozenset(symmetric)
    facts = {(image, *_unordered(fact, symmetric)) for image, given in enumerate(truth) for fact in given}
    naive = _scored([naive_labels(pairs) for pairs in candidates], symmetric)
    blind = _scored([prior_labels(pairs) for pairs in candidates], symmetric)
    curves = (_curve(scored, facts, naive) for scored in (_scored(relations, symmetric), naive, blind))
    return LabelComparison(*curves)


def agreement(
    kept: Sequence[Collection[Fact]], truth: Sequence[Collection[Fact]], symmetric: Collection[str] = ()
) -> Agreement:
    """Compares kept labels with the truth, ignoring scores; each argument has one entry per image, as in `audit`."""
    symmetric = frozenset(symmetric)
    labels, facts = (
        {(image, *_unordered(fact, symmetric)) for image, given in enumerate(each) for fact in given}
        for each in (kept, truth)
    )
    return Agreement(len(labels), len(facts), len(labels & facts))


_Label = tuple[int, int, str, int]


def _scored(relations: Sequence[Sequence[Relation]], symmetric: frozenset[str]) -> dict[_Label, float]:
    """Highest score of each distinct label (image, subject, predicate, object)."""
    scored: dict[_Label, float] = {}
    for image, of_image in enumerate(relations):
        for relation in of_image:
            fact = _unordered((relation.subject, relation.predicate, relation.object), symmetric)
            scored[(image, *fact)] = max(relation.score, scored.get((image, *fact), 0.0))
    return scored


def _unordered(fact: Fact, symmetric: frozenset[str]) -> Fact:
    subject, predicate, object_ = fact
    if predicate in symmetric and object_ < subject:
        return object_, predicate, subject
    return fact


def _curve(scored: dict[_Label, float], facts: set[_Label], proposed: Collection[_Label]) -> LabelCurve:
    reachable = sum(fact in proposed for fact in facts)
    points = list(_points(scored, facts))
    return LabelCurve(
        labels=len(scored),
        truths=len(facts),
        reachable=reachable,
        scores=tuple(score for score, _, _ in points),
        precision=tuple(right / kept for _, kept, right in points),
        recall=tuple(right / max(reachable, 1) for _, _, right in points),
    )


def _points(scored: dict[_Label, float], facts: set[_Label]) -> Iterator[tuple[float, int, int]]:
    """Yields (score, labels kept, right labels among them) after each distinct score, highest first."""
    ranked = sorted(((score, label in facts) for label, score in scored.items()), reverse=True)
    right = 0
    for kept, (score, is_right) in enumerate(ranked, start=1):
        right += is_right
        if kept == len(ranked) or ranked[kept][0] != score:
            yield score, kept, right


def _area(precision: Sequence[float], recall: Sequence[float]) -> float:
    steps = zip(precision, recall, (0.0, *recall), strict=False)
    return sum(height * (reached - before) for height, reached, before in steps)


def _best(precision: Sequence[float], recall: Sequence[float], wanted: float) -> float:
    # Recall is a quotient of counts: 4 of 5 must reach .8 despite rounding.
    return max(
        (height for height, reached in zip(precision, recall, strict=True) if reached >= wanted - 1e-9), default=0.0
    )
