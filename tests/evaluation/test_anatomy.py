"""Each kind of error, what its repair is worth, and that no block size or order changes it."""

import numpy as np
import pytest
from pair_scenes import BIKE, BIKE_OFF, DOG, MAN, MAN_OFF, TRUE, random_relations, relations, truth_of

from pipeline.evaluation import anatomy as module
from pipeline.evaluation.anatomy import ErrorKind, anatomy, dissect
from pipeline.evaluation.benchmark import Options, hico_det
from pipeline.evaluation.hico import HicoRules, match_hico
from pipeline.evaluation.ranking import best_first


def micro_ap(predicted, truth):
    """Average precision of all relations in one ranking, as a stand-in for a benchmark's score."""
    found = dissect(predicted, truth, per_image=None)
    order = np.argsort(-found.predicted.scores, kind="stable")
    right = found.right[order]
    return float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].sum() / len(truth))


@pytest.mark.parametrize("row, kind", [
    ((MAN, BIKE, 0, 1, 3), ErrorKind.PREDICATE), ((MAN, BIKE, 0, 5, 2), ErrorKind.OBJECT_NAME),
    ((MAN, BIKE, 5, 1, 2), ErrorKind.SUBJECT_NAME), ((MAN, BIKE_OFF, 0, 1, 2), ErrorKind.OBJECT_BOX),
    ((MAN_OFF, BIKE, 0, 1, 2), ErrorKind.SUBJECT_BOX), ((MAN_OFF, BIKE_OFF, 0, 1, 2), ErrorKind.PAIR),
    ((MAN, DOG, 0, 1, 2), ErrorKind.PAIR), ((DOG, BIKE, 0, 1, 2), ErrorKind.PAIR),
    ((MAN, BIKE, 0, 5, 3), ErrorKind.SEVERAL), ((MAN, BIKE_OFF, 0, 1, 3), ErrorKind.SEVERAL),
    ((DOG, DOG, 0, 1, 2), ErrorKind.BACKGROUND), ((MAN, DOG, 0, 1, 3), ErrorKind.BACKGROUND),
])  # fmt: skip
def test_a_wrong_prediction_is_of_the_kind_whose_repair_makes_it_right(row, kind):
    found = dissect(relations([(*row, 0.9)]), truth_of([TRUE]))
    assert [each for each in ErrorKind if each is not ErrorKind.MISSED and found.counts[each]] == [kind]
    one_repair = kind not in (ErrorKind.SEVERAL, ErrorKind.BACKGROUND)
    assert found.counts[ErrorKind.MISSED] == (not one_repair)
    assert found.target[0] == (0 if one_repair else -1)
    report = anatomy(found, micro_ap)
    assert (report.score, report.right, report.within_reach) == (0.0, 0, int(one_repair))
    if one_repair:
        assert {each: cost for each, cost in report.costs.items() if cost} == {kind: 1.0}


def test_a_prediction_is_judged_by_the_truth_to_which_the_least_is_missing():
    other = (DOG, BIKE, 3, 1, 4)
    found = dissect(relations([(DOG, BIKE, 3, 1, 2, 0.5)]), truth_of([TRUE, other]))
    assert found.counts[ErrorKind.PREDICATE] == 1
    assert found.target.tolist() == [1]


def test_errors_are_those_of_the_predictions_that_hico_counts():
    names, other = ["name"] * 6, (DOG, BIKE, 3, 1, 4)
    truth = truth_of([TRUE, other])
    impossible = [(DOG, MAN, 3, 0, 1, 0.9)] * 100
    predicted = relations([*impossible, (*TRUE, 0.8), (*TRUE, 0.7), (*other, 0.6)])
    validity = np.ones((6, 6))
    validity[1, 0] = 0
    evaluated = hico_det(predicted, truth, names, Options(objects=names, validity=validity, resamples=0))
    report = anatomy(dissect(evaluated.counted, truth), evaluated.score)
    assert report.score == evaluated.figures[0].value == pytest.approx(1.0)
    assert (report.right, sum(report.counts.values())) == (2, 0)


def test_costs_of_two_kinds_are_told_apart():
    # A duplicate at rank 2 and a truth at rank 3: precision 1 and 2/3. A second image misses its truth entirely.
    second = (DOG, MAN, 0, 1, 2)
    predicted = relations([(*TRUE, 0.9), (*TRUE, 0.8), (*second, 0.7)], [])
    report = anatomy(dissect(predicted, truth_of([TRUE, second], [TRUE])), micro_ap)
    assert report.score == pytest.approx((1 + 2 / 3) / 3)
    assert report.costs[ErrorKind.DUPLICATE] == pytest.approx(2 / 3 - report.score)
    # The missed truth enters with the median score of right predictions, 0.8, after the duplicate of the same score.
    assert report.costs[ErrorKind.MISSED] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3 - report.score)
    assert report.false_positives == pytest.approx(2 / 3 - report.score)
    assert report.counts[ErrorKind.MISSED] == 1
    assert report.costs[ErrorKind.BACKGROUND] == 0.0


def test_a_repair_gives_each_truth_one_find_and_no_duplicates():
    wrong = (MAN, BIKE, 0, 1, 3)
    found = dissect(relations([(*wrong, 0.9), (*wrong, 0.8), (*TRUE, 0.1)]), truth_of([TRUE]))
    assert found.counts[ErrorKind.PREDICATE] == 2
    assert found.repaired(ErrorKind.PREDICATE).scores.tolist() == [0.1]  # the truth is found already
    unfound = dissect(relations([(*wrong, 0.9), (*wrong, 0.8)]), truth_of([TRUE]))
    repaired = unfound.repaired(ErrorKind.PREDICATE)
    assert repaired.triplets.tolist() == [[0, 1, 2]]
    assert repaired.scores.tolist() == [0.9]
    assert unfound.predicted.predicates.tolist() == [3, 3]  # the predictions themselves stay as they are


def test_wrong_predicates_of_a_pair_aim_at_its_unfound_truths_first():
    truth = truth_of([TRUE, (MAN, BIKE, 0, 1, 7)])
    found = dissect(relations([(*TRUE, 0.9), (MAN, BIKE, 0, 1, 3, 0.5)]), truth)
    assert found.target.tolist() == [0, 1]
    assert found.counts[ErrorKind.MISSED] == 0


def test_absent_boxes_agree_with_absent_boxes_only():
    nothing = [np.nan] * 4
    alone = (MAN, nothing, 0, 1, 2)
    assert dissect(relations([(*alone, 0.9)]), truth_of([alone])).right.all()
    found = dissect(relations([(MAN, BIKE, 0, 1, 2, 0.9)]), truth_of([alone]))
    assert found.counts[ErrorKind.PAIR] == 1
    assert found.repaired(ErrorKind.PAIR).object_boxes[0].tolist() == pytest.approx(nothing, nan_ok=True)


def test_only_the_best_of_an_image_count():
    predicted = relations([(*TRUE, 0.1), (MAN, BIKE, 0, 1, 3, 0.9)], [(*TRUE, 0.05)])
    kept = best_first(predicted, 1)
    assert kept.scores.tolist() == [0.9, 0.05]
    assert kept.image.tolist() == [0, 1]
    assert len(best_first(predicted, None)) == 3


def test_the_size_of_blocks_changes_nothing(monkeypatch):
    predicted, truth = random_relations(3, 60, 15, True), random_relations(4, 60, 5, False)
    whole = dissect(predicted, truth)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 7)
    parts = dissect(predicted, truth)
    assert min(whole.counts.values()) > 0
    assert parts.kind.tolist() == whole.kind.tolist()
    assert parts.target.tolist() == whole.target.tolist()
    assert parts.missed.tolist() == whole.missed.tolist()


def test_every_prediction_and_truth_is_accounted_for():
    found = dissect(random_relations(3, 60, 15, True), random_relations(4, 60, 5, False))
    counts = found.counts
    missed = counts.pop(ErrorKind.MISSED)
    assert sum(counts.values()) + found.right.sum() == len(found.predicted)
    assert found.found.sum() == found.right.sum()
    assert 0 < missed < (~found.found).sum()
    repaired = dissect(found.with_found(~found.found), found.truth, per_image=None)
    assert repaired.found.all()
    assert dissect(found.predicted.take(found.right), found.truth).right.all()


def test_what_is_right_agrees_with_the_metric_of_hico_det():
    for seed in range(20):
        predicted, truth = random_relations(seed, 1, 15, True), random_relations(seed + 100, 1, 5, False)
        found = dissect(predicted, truth)
        recall = match_hico(found.predicted, truth, HicoRules(suppression=None)).scores().recall
        expected = {kind: found.found[(truth.triplets == kind).all(axis=1)].mean() for kind in recall}
        assert recall == pytest.approx(expected)


def test_no_predictions_and_no_truth():
    assert dissect(relations([]), truth_of([TRUE])).counts[ErrorKind.MISSED] == 1
    assert dissect(relations([(*TRUE, 0.5)]), truth_of([])).counts[ErrorKind.BACKGROUND] == 1
    assert sum(dissect(relations([]), truth_of([])).counts.values()) == 0
