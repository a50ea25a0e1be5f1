from dataclasses import replace

import pytest

from tagger.audit.labels import NOTHING, REVERSED, audit, audit_predicates
from tagger.pair import Pair
from tagger.relation import Relation


def relation(subject: int, predicate: str, object_: int, score: float) -> Relation:
    return Relation(subject, object_, predicate, score, True, 0)


def pair(subject: int, predicate: str, object_: int) -> Pair:
    return Pair(subject, object_, predicate, 0, 1)


# Image 0: two of three candidates are right. Image 1: one of two is right, and no candidate states the other truth.
CANDIDATES = [
    [pair(0, "ride", 1), pair(2, "ride", 1), pair(0, "hold", 3)],
    [pair(0, "next to", 1), pair(1, "on", 0)],
]
TRUTH = [[(0, "ride", 1), (0, "hold", 3)], [(1, "next to", 0), (2, "wear", 3)]]
RELATIONS = [
    [relation(0, "ride", 1, 0.9), relation(2, "ride", 1, 0.6), relation(0, "hold", 3, 0.6)],
    [relation(0, "next to", 1, 0.8), relation(1, "on", 0, 0.1)],
]


def test_curve_by_hand():
    curve = audit(RELATIONS, CANDIDATES, TRUTH).tagger
    assert (curve.labels, curve.truths, curve.reachable) == (5, 4, 3)
    assert curve.scores == (0.9, 0.8, 0.6, 0.1)
    assert curve.precision == pytest.approx((1, 1, 3 / 4, 3 / 5))
    assert curve.recall == pytest.approx((1 / 3, 2 / 3, 1, 1))
    assert curve.average_precision() == pytest.approx(1 / 3 + 1 / 3 + 3 / 4 / 3)
    assert curve.precision_at(0.8) == pytest.approx(3 / 4)
    assert curve.precision_at(0.6) == 1


def test_naive_is_one_point():
    comparison = audit(RELATIONS, CANDIDATES, TRUTH)
    assert comparison.naive.scores == (1.0,)
    assert comparison.naive.precision == pytest.approx((3 / 5,))
    assert comparison.naive.recall == pytest.approx((1,))


def test_what_boxes_and_names_tell_is_the_prior():
    candidates = [[replace(p, prior=prior) for p, prior in zip(of_image, priors, strict=True)]
                  for of_image, priors in zip(CANDIDATES, [(0.7, 0.3, 0.9), (0.9, 0.2)], strict=True)]  # fmt: skip
    prior = audit(RELATIONS, candidates, TRUTH).prior
    assert prior.scores == (0.9, 0.7, 0.3, 0.2)
    assert prior.precision == pytest.approx((1, 1, 3 / 4, 3 / 5))


def test_predicates_by_hand():
    relations = [*RELATIONS, [relation(0, "ride", 1, 0.7), relation(2, "ride", 3, 0.3), relation(3, "ride", 4, 0.1)]]
    candidates = [*CANDIDATES, [pair(0, "ride", 1), pair(2, "ride", 3), pair(3, "ride", 4)]]
    truth = [*TRUTH, [(1, "ride", 0), (2, "hold", 3), (2, "on", 3)]]
    kept = [[(r.subject, r.predicate, r.object) for r in of_image if r.score >= 0.2] for of_image in relations]
    ride, *others = audit_predicates(relations, candidates, truth, kept)
    assert (ride.predicate, ride.kept, ride.truths) == ("ride", 4, 1)
    assert (ride.precision, ride.recall) == (1 / 4, 1)
    assert ride.average_precision == 1
    assert dict(ride.instead) == {REVERSED: 1, NOTHING: 1, "hold": 1, "on": 1}
    assert {scores.predicate: (scores.kept, scores.truths, scores.precision) for scores in others} == {
        "next to": (1, 1, 1), "hold": (1, 1, 1), "on": (0, 0, None),
    }  # fmt: skip


def test_all_labels_are_read_once_however_many_predicates_there_are():
    class Labels(list[Relation]):
        reads = 0

        def __iter__(self):
            self.reads += 1
            return super().__iter__()

    labels = Labels([relation(0, f"verb {each}", 1, 0.5) for each in range(100)])
    assert len(audit_predicates([labels], [[]], [[]], [[]])) == 100
    assert labels.reads == 1


def test_direction_counts_unless_symmetric():
    reversed_truth = [[(object_, name, subject) for subject, name, object_ in facts] for facts in TRUTH]
    assert audit(RELATIONS, CANDIDATES, reversed_truth).tagger.reachable == 1


def test_both_directions_of_a_symmetric_label_count_once():
    both = [relation(0, "next to", 1, 0.3), relation(1, "next to", 0, 0.7)]
    proposed = [pair(0, "next to", 1), pair(1, "next to", 0)]
    curve = audit([both], [proposed], [[(0, "next to", 1), (1, "next to", 0)]]).tagger
    assert (curve.labels, curve.truths, curve.scores) == (1, 1, (0.7,))


def test_recall_reaches_what_counts_reach_despite_rounding():
    relations = [[relation(0, "on", place, 1 - place / 10) for place in range(1, 6)]]
    proposed = [[pair(0, "on", place) for place in range(1, 6)]]
    truth = [[(0, "on", place) for place in range(1, 6)]]
    assert audit(relations, proposed, truth).tagger.precision_at(0.6) == 1


def test_nothing_labelled_or_nothing_true():
    empty = audit([[]], [[]], [[(0, "on", 1)]]).tagger
    assert (empty.precision, empty.average_precision(), empty.precision_at()) == ((), 0, 0)
    untrue = audit([[relation(0, "on", 1, 0.5)]], [[pair(0, "on", 1)]], [[]]).tagger
    assert (untrue.precision, untrue.average_precision()) == ((0.0,), 0)
    assert audit([], [], []).tagger.labels == 0


def test_what_the_tagger_scores_unasked_is_reachable_too():
    right, unasked = relation(0, "ride", 1, 0.9), relation(0, "hold", 2, 0.8)
    comparison = audit([[right, unasked]], [[pair(0, "ride", 1)]], [[(0, "ride", 1), (0, "hold", 2), (1, "on", 2)]])
    assert (comparison.tagger.reachable, comparison.tagger.recall) == (2, (0.5, 1.0))
    assert comparison.tagger.average_precision() == 1
    assert comparison.naive.recall == (0.5,), "recall is over the same relations"


def test_different_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match="relations for 1 images, candidates for 2 and truth for 2"):
        audit([[]], [[], []], [[], []])
