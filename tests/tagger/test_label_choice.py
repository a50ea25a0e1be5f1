"""Choice of labels, checked by hand."""

import pytest

from tagger.labelling.label_choice import LabelChoice, NotKept, posteriors
from tagger.pair import Pair
from tagger.relation import Relation


def relation(subject: int, predicate: str, object_: int, score: float, posterior: float | None = 1.0) -> Relation:
    return Relation(subject, object_, predicate, score, True, 0, score / 2, posterior, score)


# "a man rides a horse" may mean (0, 2) or (1, 2); "two men next to a dog" means two of three possible pairs.
PAIRS = [
    Pair(0, 2, "ride", 0, 2, mention=0, prior=0.5),
    Pair(1, 2, "ride", 0, 2, mention=0, prior=0.5),
    *(Pair(man, 3, "next to", 1, 3, mention=1, prior=2 / 3) for man in (0, 1, 2)),
]
LABELS = [
    relation(0, "ride", 2, 0.8, 0.9), relation(1, "ride", 2, 0.3, 0.1), relation(0, "next to", 3, 0.5, 0.9),
    relation(1, "next to", 3, 0.4, 0.8), relation(2, "next to", 3, 0.3, 0.3),
]  # fmt: skip


def chosen(choice: LabelChoice, labels: list[Relation] = LABELS) -> list[tuple[Relation, float]]:
    judged = choice.judge(labels, PAIRS)
    return [(label, one.confidence) for label, one in zip(labels, judged, strict=True) if one.reason is None]


def kept(**settings: object) -> list[tuple[int, str, int]]:
    choice = LabelChoice(**settings)  # type: ignore[arg-type]
    return [(label.subject, label.predicate, label.object) for label, _ in chosen(choice)]


def test_all_above_the_threshold():
    assert len(kept(threshold=0.3)) == 5
    assert kept(threshold=0.4) == [(0, "ride", 2), (0, "next to", 3), (1, "next to", 3)]
    assert kept(threshold=0.4, thresholds={"ride": 0.9, "next to": 0.45}) == [(0, "next to", 3)]


def test_best_keeps_as_many_of_a_mention_as_it_means():
    assert kept(rule="best", threshold=0.3) == [(0, "ride", 2), (0, "next to", 3), (1, "next to", 3)]


def test_posterior_weighs_confidences():
    found = chosen(LabelChoice("score", "posterior", threshold=0.3))
    assert [(label.subject, label.predicate) for label, _ in found] == [(0, "ride"), (0, "next to"), (1, "next to")]
    assert [confidence for _, confidence in found] == pytest.approx([0.72, 0.45, 0.32])


def test_most_labels_of_a_pair():
    both = [relation(0, "on", 1, 0.4), relation(0, "ride", 1, 0.9), relation(1, "on", 0, 0.3)]
    found = chosen(LabelChoice(threshold=0.3, per_pair=1), both)
    assert [(label.subject, label.predicate) for label, _ in found] == [(0, "ride"), (1, "on")]


def test_calibrated_confidence():
    found = chosen(LabelChoice(measure="calibrated", threshold=0.4))
    assert [confidence for _, confidence in found] == [0.4]
    with pytest.raises(ValueError, match="held_out > 0"):
        LabelChoice(measure="calibrated").judge([Relation(0, 1, "on", 0.5, True, 0)], [])


@pytest.mark.parametrize("rule", ["best", "posterior"])
def test_labels_without_posteriors_are_not_taken_for_unlikely_ones(rule):
    with pytest.raises(ValueError, match="no posteriors"):
        LabelChoice("score", rule).judge([relation(0, "on", 1, 0.9, None)], [])  # type: ignore[arg-type]
    unsaid = Relation(0, 1, "on", 0.9, False, -1)
    [judged] = LabelChoice("score", rule).judge([unsaid], [])  # type: ignore[arg-type]
    assert judged.reason is not None


def test_every_label_that_is_not_kept_has_the_reason():
    choice = LabelChoice(rule="best", threshold=0.45, per_pair=1)
    labels = [*LABELS, relation(0, "above", 2, 0.5), relation(0, "on", 2, 0.1)]
    pairs = [*PAIRS, Pair(0, 2, "above", 2, 1, mention=2, prior=1.0), Pair(0, 2, "on", 3, 1, mention=3, prior=1.0)]
    assert [one.reason for one in choice.judge(labels, pairs)] == [
        None, NotKept.LESS_LIKELY, None, NotKept.BELOW_THRESHOLD, NotKept.LESS_LIKELY, NotKept.OVER_PER_PAIR,
        NotKept.BELOW_THRESHOLD,
    ]  # fmt: skip


def test_posteriors_sum_to_what_a_mention_means_and_follow_prior_and_odds():
    found = posteriors(PAIRS, [0.8, 0.2, 0.9, 0.5, 0.1])
    assert all(one is not None and 0 <= one <= 1 for one in found)
    assert found[:2] == pytest.approx([16 / 17, 1 / 17])  # odds 4 and 1/4
    assert sum(found[2:]) == pytest.approx(2)  # type: ignore[arg-type]
    assert found[2] == 1.0  # the likeliest is capped at 1
    assert found[3:] == pytest.approx([0.9, 0.1])


def test_a_mention_of_one_pair_means_it_and_no_mention_means_nothing():
    alone, unsaid = Pair(0, 1, "on", 0, 1, mention=0, prior=1.0), Pair(1, 0, "on", 0, 1)
    assert posteriors([alone, unsaid], [0.01, 0.9]) == [1.0, None]
    assert posteriors([], []) == []
