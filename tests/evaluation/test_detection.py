"""AP50 of detections with pycocotools."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.detection import Detections, average_precision_50

CAR, DOG = [10.0, 10.0, 60.0, 40.0], [100.0, 20.0, 140.0, 90.0]


def detections(boxes, labels, scores=None):
    return Detections(
        np.array(boxes, float).reshape(-1, 4), np.array(labels, np.int64), None if scores is None else np.array(scores)
    )


def test_perfect_missing_and_false_detections():
    truths = [detections([CAR, DOG], [3, 5]), detections([CAR], [3])]
    found = [detections([CAR, DOG], [3, 5], [0.9, 0.8]), detections([DOG], [5], [0.95])]
    scores = average_precision_50(found, truths)
    assert scores[3] == pytest.approx(0.5, abs=0.01)
    assert scores[5] == pytest.approx(0.5, abs=0.01)
    perfect = [Detections(t.boxes, t.labels, np.ones(len(t.labels))) for t in truths]
    assert average_precision_50(perfect, truths) == {3: pytest.approx(1.0), 5: pytest.approx(1.0)}


def test_crowds_are_no_objects_to_find():
    crowd = [200.0, 10.0, 300.0, 90.0]
    truth = detections([CAR, crowd, crowd], [3, 3, 5])
    truth = replace(truth, crowd=np.array([False, True, True]))
    inside = [210.0, 20.0, 240.0, 60.0]
    found = detections([inside, CAR, inside], [3, 3, 5], [0.9, 0.8, 0.7])
    assert average_precision_50([found], [truth]) == {3: pytest.approx(1.0)}


def test_labels_that_the_truth_lacks_do_not_count():
    assert average_precision_50([detections([CAR, DOG], [3, 9], [0.9, 0.9])], [detections([CAR], [3])]) == {
        3: pytest.approx(1.0)
    }


def test_duplicates_go_within_a_label_only():
    near = [11.0, 10.0, 61.0, 41.0]
    found = detections([CAR, near, near], [3, 3, 4], [0.6, 0.9, 0.5]).without_duplicates(0.6)
    assert found.labels.tolist() == [3, 4]
    assert found.scores.tolist() == [0.9, 0.5]
