"""Relations from rows that a test can state on one line."""

import numpy as np

from pipeline.evaluation.ranking import best_entries
from pipeline.evaluation.relations import Relations

A, B, C, D = ([x, 10.0, x + 39, 89.0] for x in (0.0, 100.0, 200.0, 300.0))
"""Boxes of 40 by 80 pixels that do not overlap."""
NONE = [float("nan")] * 4


def half(box: list[float]) -> list[float]:
    """A box that overlaps `box` by 1/3."""
    return [box[0] + 20, box[1], box[2] + 20, box[3]]


def relations(rows, images=1, scored=True) -> Relations:
    """`rows`: (image, subject box, object box, subject label, object label, predicate, and a score if `scored`)."""
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 7
    return Relations(
        images, np.array(columns[0], np.int64), np.array(columns[1], float).reshape(-1, 4),
        np.array(columns[2], float).reshape(-1, 4), *(np.array(column, np.int64) for column in columns[3:6]),
        scores=np.array(columns[6], float) if scored else None,
    )  # fmt: skip


def truths(rows, images=1) -> Relations:
    return relations(rows, images, scored=False)


def of_image(subject_boxes, object_boxes, subject_labels, object_labels, predicates, scores=None) -> Relations:
    """The relations of one image."""
    columns = subject_boxes, object_boxes, subject_labels, object_labels, predicates
    return Relations(1, np.zeros(len(predicates), np.int64), *columns, scores)


def best_of_pairs(subject_boxes, object_boxes, subject_labels, object_labels, scores, limit) -> Relations:
    """The `limit` best interactions of an image with P pairs, from P×C scores of predicates."""
    pair, predicate = best_entries(scores, limit)
    return of_image(
        subject_boxes.reshape(-1, 4)[pair], object_boxes.reshape(-1, 4)[pair], subject_labels[pair],
        object_labels[pair], predicate, scores[pair, predicate],
    )  # fmt: skip
