"""Posteriors of labels among the pairs that their mentions may mean, and the probabilities that follow from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tagger.labelling.calibration import EDGE, USUAL_SUPPORT, Stack, features
from tagger.pair import NO_MENTION, Pair, shares
from tagger.relation import Relation

_Label = tuple[int, str, int]


def _label(item: Relation | Pair) -> _Label:
    return item.subject, item.predicate, item.object


def with_probabilities(relations: Sequence[Relation], pairs: Sequence[Pair], stack: Stack) -> list[Relation]:
    """Returns the labels of an image with their probabilities and the parts of these; `pairs` are its candidates.

    A pair of several mentions has their highest prior and support, and a pair without a mention the lowest prior. If
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


def scored_labels(pairs: Sequence[Pair], scores: Mapping[_Label, float]) -> dict[tuple[int, int, str], Relation]:
    """Returns `distinct_labels` of an image's candidates with these scores, which are probabilities."""
    stated = [Relation(p.subject, p.object, p.predicate, scores[_label(p)], p.triplet >= 0, p.triplet) for p in pairs]
    return distinct_labels(stated, pairs)


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
        weights = [max(pairs[place].prior, EDGE) * _odds(probabilities[place]) for place in places]
        for place, share in zip(places, shares(weights, math.fsum(pairs[p].prior for p in places)), strict=True):
            found[place] = share
    return found


def _odds(probability: float) -> float:
    kept = min(max(probability, EDGE), 1 - EDGE)
    return kept / (1 - kept)
