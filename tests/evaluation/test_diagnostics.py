"""Recall of pairs, predicates on located pairs, calibration, and the scores of single images."""

import numpy as np
import pytest
from pair_scenes import BIKE, DOG, MAN, MAN_OFF, TRUE, relations, truth_of

from pipeline.evaluation.anatomy import dissect
from pipeline.evaluation.diagnostics import best_and_worst, calibration, image_precision, pair_quality
from pipeline.evaluation.ranking import Ranking


def test_pairs_are_counted_once_however_many_predicates_they_have():
    truth = truth_of([TRUE, (MAN, BIKE, 0, 1, 5), (DOG, BIKE, 3, 1, 2)])
    found = pair_quality(dissect(relations([(MAN, BIKE, 9, 9, 9, 0.5)]), truth))
    assert found.pairs == 2
    assert found.pair_recall == 0.5
    assert found.named_recall == 0.0
    assert (found.subject_recall, found.object_recall) == (0.5, 1.0)


def test_one_good_box_locates_no_pair():
    found = pair_quality(dissect(relations([(MAN_OFF, BIKE, 0, 1, 2, 0.5)]), truth_of([TRUE])))
    assert (found.pair_recall, found.subject_recall, found.object_recall) == (0.0, 0.0, 1.0)


def test_predicates_are_ranked_on_located_pairs_only():
    truth = truth_of([TRUE], [(MAN, BIKE, 0, 1, 4)], [TRUE])
    predicted = relations(
        [(MAN, BIKE, 0, 1, 2, 0.6), (DOG, DOG, 0, 1, 2, 0.95)],  # the surest one lies on no pair and is not judged
        [(MAN, BIKE, 0, 1, 2, 0.9), (MAN, BIKE, 0, 1, 4, 0.3), (MAN, BIKE, 0, 1, 4, 0.2)],
        [],  # a pair that is not located is no miss of the predicate
    )
    found = pair_quality(dissect(predicted, truth))
    assert found.predicate_truths == {2: 1, 4: 1}
    # Predicate 2: wrong at .9, right at .6. Predicate 4: right at .3; the second find of a pair is not judged.
    assert found.predicate_precision == pytest.approx({2: 0.5, 4: 1.0})
    assert found.mean_predicate_precision == pytest.approx(0.75)


def test_a_rightly_located_pair_with_a_wrong_name_is_not_judged():
    found = pair_quality(dissect(relations([(MAN, BIKE, 0, 7, 2, 0.5)]), truth_of([TRUE])))
    assert (found.pair_recall, found.named_recall, found.predicate_precision) == (1.0, 0.0, {})
    assert np.isnan(found.mean_predicate_precision)


def test_no_truth_has_no_recall():
    assert np.isnan(pair_quality(dissect(relations([(*TRUE, 0.5)]), truth_of([]))).pair_recall)


def test_precision_is_taken_at_its_envelope():
    # Precision 1/2 at the first find, 2/3 at the second: the envelope is 2/3 for both.
    predicted, right = relations([(*TRUE, 0.9), (*TRUE, 0.8), (*TRUE, 0.7)]), np.array([False, True, True])
    one = np.zeros(3, np.int64)
    ranking = Ranking.of(predicted, right, one, truth_of([TRUE, TRUE]), one[:2])
    assert ranking.precision() == pytest.approx({0: 2 / 3})


def test_scores_that_say_what_is_right_are_calibrated():
    scores = np.repeat([0.25, 0.75], 4)
    right = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    found = calibration(scores, right)
    assert found.expected_error == pytest.approx(0.0)
    assert [each.predictions for each in found.bins] == [0, 0, 4, 0, 0, 0, 0, 4, 0, 0]
    assert found.bins[7].precision == 0.75
    assert np.isnan(found.bins[0].precision)


def test_the_calibration_error_weighs_bins_by_their_predictions():
    found = calibration(np.array([0.95, 0.95, 0.95, 0.15]), np.array([False, True, True, True]))
    assert found.expected_error == pytest.approx(0.75 * (0.95 - 2 / 3) + 0.25 * 0.85)
    assert calibration(np.array([1.0, 0.0]), np.array([True, False])).expected_error == 0.0
    assert np.isnan(calibration(np.zeros(0), np.zeros(0, bool)).expected_error)


def test_an_image_scores_by_the_ranks_of_its_finds():
    second = (DOG, BIKE, 3, 1, 2)
    predicted = relations(
        [(*TRUE, 0.9), (DOG, DOG, 0, 0, 0, 0.8), (*second, 0.7)], [(DOG, DOG, 1, 1, 1, 0.99)], [(*TRUE, 0.1)]
    )
    precision = image_precision(dissect(predicted, truth_of([TRUE, second], [], [TRUE])))
    assert precision[[0, 2]].tolist() == pytest.approx([(1 + 2 / 3) / 2, 1.0])
    assert np.isnan(precision[1])


def test_best_and_worst_images_do_not_overlap():
    precision, truths = np.array([0.5, np.nan, 0.0, 1.0, 0.0, 1.0]), np.array([1, 0, 1, 1, 3, 2])
    best, worst = best_and_worst(precision, truths, 2)
    assert (best.tolist(), worst.tolist()) == ([5, 3], [4, 2])
    best, worst = best_and_worst(precision[:3], truths[:3], 9)
    assert (best.tolist(), worst.tolist()) == ([0], [2])
