"""Joins, overlaps and matches of whole test sets, against loops over images that do what they say."""

import numpy as np
from relation_rows import B

from benchmarks.evaluation import plain_iou
from pipeline.evaluation.matching import MatchCandidates, joined, kept, numbered, numbered_alike, representatives
from pipeline.evaluation.relations import aligned_iou


def boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corner, size = generator.uniform(0, 60, (count, 2)), generator.uniform(20, 60, (count, 2))
    return np.concatenate([corner, corner + size], axis=1)


def test_a_join_lists_all_pairs_of_equal_keys_in_order():
    left, right = np.array([3, 1, 3, 7]), np.array([3, 2, 3, 1])
    assert np.stack(joined(left, right), axis=1).tolist() == [[0, 0], [0, 2], [1, 3], [2, 0], [2, 2]]
    assert [len(each) for each in joined(left, right[:0])] == [0, 0]
    assert [len(each) for each in joined(left[:0], right)] == [0, 0]


def test_equal_rows_have_equal_numbers():
    assert numbered([np.array([5, 5, -1, 5]), np.array([2, 1, 9, 2])]).tolist() == [2, 1, 0, 2]
    left, right = numbered_alike([np.array([4, 8])], [np.array([8, 9])])
    assert left[1] == right[0] and left[0] not in right
    far = np.array([2**62, -(2**62)])
    assert numbered([far, far, far]).tolist() == [1, 0]


def test_overlaps_of_rows_are_those_of_their_boxes():
    generator = np.random.default_rng(0)
    left, right = boxes(generator, 50), boxes(generator, 50)
    assert aligned_iou(left, right).tolist() == [plain_iou(*both) for both in zip(left, right, strict=True)]


def test_overlap_without_pixels_that_belong_to_both_ends():
    left, right = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 5]])
    assert aligned_iou(left, right, pixel=0.0).tolist() == [0.5]
    edge = np.array([[10.0, 0, 20, 10]])
    assert aligned_iou(left, edge).tolist() == [0.0]
    assert aligned_iou(left, edge, least=-1.0)[0] > 0
    assert np.isnan(aligned_iou(left, np.full((1, 4), np.nan))).all()


def test_suppression_is_that_of_each_group_alone():
    generator = np.random.default_rng(1)
    group, place = generator.integers(0, 12, 200), boxes(generator, 200)
    found = kept(group, [place], [1.0], 0.4)
    for each in range(12):
        expected: list[int] = []
        for at in np.flatnonzero(group == each).tolist():
            if all(plain_iou(place[at], place[better]) <= 0.4 for better in expected):
                expected.append(at)
        assert np.flatnonzero(found & (group == each)).tolist() == expected
    shown = representatives(group, [place], [1.0], 0.4)
    assert found[shown].all() and (group[shown] == group).all()
    assert (aligned_iou(place[shown], place) > 0.4).all()


def test_the_first_prediction_finds_a_truth_and_later_ones_do_not_turn_to_others():
    candidates = MatchCandidates(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([0.9, 0.6, 0.8, 0.7]))
    assert candidates.first_finds(3).tolist() == [True, False, False]
    assigned = candidates.assigned()
    assert list(zip(assigned.prediction.tolist(), assigned.truth.tolist(), strict=True)) == [(0, 0), (1, 1)]


def test_assignment_is_what_a_loop_over_predictions_gives():
    generator = np.random.default_rng(2)
    for _ in range(50):
        table = generator.random((9, 6)) * (generator.random((9, 6)) < 0.5)
        prediction, truth = np.nonzero(table)
        assigned = MatchCandidates(prediction, truth, table[prediction, truth]).assigned()
        expected, free = {}, set(range(6))
        for row in range(9):
            choices = [column for column in free if table[row, column] > 0]
            if choices:
                expected[row] = max(choices, key=lambda column: table[row, column])
                free.discard(expected[row])
        assert dict(zip(assigned.prediction.tolist(), assigned.truth.tolist(), strict=True)) == expected


def test_where_there_is_nothing_nothing_is_found_or_suppressed():
    none = MatchCandidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    assert none.first_finds(2).tolist() == [False, False]
    assert len(none.assigned().truth) == 0
    assert len(aligned_iou(np.array([B])[:0], np.array([B])[:0])) == 0
    assert kept(np.zeros(0, np.int64), [np.zeros((0, 4))], [1.0], 0.5).tolist() == []
