"""Small test sets of related pairs: a man, a bike and a dog, in boxes that overlap in known ways."""

import numpy as np
from relation_rows import of_image

from pipeline.evaluation.relations import Relations

MAN, BIKE = [0.0, 0.0, 99.0, 99.0], [200.0, 0.0, 299.0, 99.0]
MAN_OFF, BIKE_OFF = [60.0, 0.0, 159.0, 99.0], [260.0, 0.0, 359.0, 99.0]  # IoU .25
DOG = [500.0, 500.0, 599.0, 599.0]
TRUE = (MAN, BIKE, 0, 1, 2)


def interactions(rows, scores=None):
    """`rows`: (subject box, object box, subject label, object label, predicate)."""
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], [], []]
    return of_image(
        np.array(columns[0], float).reshape(-1, 4),
        np.array(columns[1], float).reshape(-1, 4),
        *(np.array(column, np.int64) for column in columns[2:]),
        scores=None if scores is None else np.array(scores, float),
    )


def relations(*images):
    """Each image: rows as in `interactions`, with a score at the end for predictions."""
    scored = any(len(row) == 6 for rows in images for row in rows) or not any(images)
    return Relations.of(
        [interactions([r[:5] for r in rows], [r[5] for r in rows] if scored else None) for rows in images]
    )


def truth_of(*images):
    return Relations.of([interactions(rows) for rows in images])


def random_relations(seed, images, per_image, scored):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(images):
        count = int(rng.integers(0, per_image + 1))
        boxes = rng.integers(0, 3, (count, 2)) * 40.0 + rng.normal(0, 8, (count, 2))
        subject = np.concatenate([boxes[:, :1], boxes[:, :1] * 0, boxes[:, :1] + 60, boxes[:, :1] * 0 + 60], axis=1)
        object_ = np.concatenate([boxes[:, 1:], boxes[:, 1:] * 0, boxes[:, 1:] + 60, boxes[:, 1:] * 0 + 60], axis=1)
        labels = rng.integers(0, 2, (count, 3))
        rows.append(of_image(subject, object_, *labels.T, scores=rng.random(count) if scored else None))
    return Relations.of(rows)
