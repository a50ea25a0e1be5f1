"""What candidates say without a look at the image: the two baselines of every audit."""

from collections.abc import Sequence

from tagger.pair import Pair
from tagger.relation import Relation


def naive_labels(pairs: Sequence[Pair]) -> list[Relation]:
    """The naive baseline: every candidate gets its label with score 1, once."""
    first: dict[tuple[int, int, str], Relation] = {}
    for pair in pairs:
        label = Relation(pair.subject, pair.object, pair.predicate, 1.0, True, pair.triplet)
        first.setdefault((pair.subject, pair.object, pair.predicate), label)
    return list(first.values())


def prior_labels(pairs: Sequence[Pair]) -> list[Relation]:
    """The baseline that sees no pixels: every candidate with its prior, of several mentions the highest."""
    return [Relation(p.subject, p.object, p.predicate, p.prior, True, p.triplet) for p in pairs]
