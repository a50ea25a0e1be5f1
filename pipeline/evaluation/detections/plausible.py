"""Recognises detections in another convention than the reader's, which would yield a wrong figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.evaluation.anatomy import near_truths
from pipeline.evaluation.ranking import best_first
from pipeline.evaluation.relations import Floats, Integers, Relations, aligned_iou
from storage.errors import FatalError

LEAST = 10
"""Relations, or located true pairs, that are evidence enough."""
REPEATED = 3
"""Times that a name must stand for another one. Less often may be chance."""
BEST = 10
"""Relations of each image whose places and names are compared with the true ones."""
OUTSIDE = 0.01
"""Share of boxes with their centre outside the image that detections may have. Networks give none."""
INVERTED = 0.1
"""Share of boxes that may end before they start. Networks give hardly any."""


def refuse_implausible(
    path: Path, found: Relations, truth: Relations, sizes: Integers, objects: Sequence[str], predicates: Sequence[str]
) -> str:
    """Raises `FatalError` if boxes or names of detections do not mean what they are read as, instead of scoring them.

    `sizes`: width and height of each image, 0 where unknown. Boxes are of other pixels, or not corners; both ends are
    swapped; or names are numbered in another order, so that each stands for one other name. Returns a note on
    detections that lie on no true pair, as those of a bad detector do; "" for others.
    """
    best = best_first(found, BEST)
    located, names = _located(best, truth), {"object_labels": objects, "predicates": predicates}
    if faults := [*_box_faults(found, truth, sizes), *_name_faults(best, truth, located, names)]:
        raise FatalError(f"{path}: its figures would be wrong:\n  " + "\n  ".join(faults))
    note = f"{path.name}: of {len(truth):,} true pairs of boxes, none has a prediction on it (both IoU of at least 0.5)"
    return "" if len(located[1]) or min(len(best), len(truth)) < LEAST else note


def _box_faults(found: Relations, truth: Relations, sizes: Integers) -> Iterator[str]:
    boxes, true = (np.concatenate([each.subject_boxes, each.object_boxes]) for each in (found, truth))
    known = np.isfinite(boxes).all(axis=1)
    size = np.tile(sizes[found.image], (2, 1))[known]
    boxes = boxes[known]
    if len(boxes) < LEAST:
        return
    if found.masks is not None:
        from pycocotools.mask import toBbox

        left, top, width, height = toBbox(found.masks.T.reshape(-1)[known].tolist()).T
        around = np.stack([left, top, left + width, top + height], axis=1)
        if np.mean(aligned_iou(boxes, around, pixel=0) >= 0.5) < 0.5:
            yield "most masks don't match their boxes; encode them by columns, in the order of `boxes`"
    frame = "write them in pixels of the image as it is stored"
    if np.mean((boxes[:, 2:] < boxes[:, :2]).any(axis=1)) > INVERTED:
        yield (
            "many boxes end before they start; write the corners (left, top, right, bottom), or sides where they are "
            "read"
        )
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = ((centre > size) & (size > 0)).any(axis=1) | (centre < 0).any(axis=1)
    if np.mean(outside) > OUTSIDE:
        yield f"the centres of {outside.sum():,} of {len(boxes):,} boxes lie outside their images; {frame}"
    elif np.isfinite(true).any():
        reach, true_reach = boxes[:, 2:].max(axis=0), np.nanmax(true[:, 2:], axis=0)
        if (reach < true_reach / 2).all() or (reach > true_reach * 2).all():
            yield f"boxes reach to {_listed(reach)}, the true ones to {_listed(true_reach)}; {frame}"


def _listed(place: Floats) -> str:
    return ", ".join(f"{side:.4g}" for side in place)


def _name_faults(
    best: Relations, truth: Relations, located: tuple[Integers, Integers], names: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    prediction, true = located
    subjects, things = (
        each - np.tile((each[:, 2:] - each[:, :2]) / 2, 2) for each in (best.subject_boxes, best.object_boxes)
    )
    moved = replace(best, subject_boxes=subjects, object_boxes=things)
    if len(_located(moved, truth)[1]) > max(LEAST, 2 * len(true)):
        yield "boxes start at the centres of the true ones; write their left and top sides"
    ends = {"subject": "object", "object": "subject"}
    turned = {f"{end}_{part}": getattr(best, f"{other}_{part}") for end, other in ends.items() for part in _PARTS}
    right, turned_right = (
        int(np.count_nonzero(best.predicates[at] == truth.predicates[there]))
        for at, there in ((prediction, true), _located(replace(best, **turned), truth))
    )
    if turned_right > max(LEAST, 2 * right):
        yield "subjects are where true objects are, and vice versa; swap them"
    for kind, own in names.items():
        if meant := _renamed(getattr(best, kind)[prediction], getattr(truth, kind)[true], own):
            yield (
                f"{kind.replace('_labels', 's')} are numbered in a different order than the ground truth's names: "
                f"{meant}"
            )


_PARTS = ("boxes", "labels")


def _located(found: Relations, truth: Relations) -> tuple[Integers, Integers]:
    """Returns each truth whose two boxes a prediction has, whatever the names, with the best of these predictions."""
    pairs = [np.stack([near.truth, near.prediction])[:, near.overlap >= 0.5] for near in near_truths(found, truth)] or [
        np.zeros((2, 0), np.int64)
    ]
    true, prediction = np.concatenate(pairs, axis=1)
    located, first = np.unique(true, return_index=True)  # predictions of an image come best first
    return prediction[first], located


def _renamed(found: Integers, true: Integers, names: Sequence[str]) -> str:
    """Describes a one-to-one renaming that corrects most of the names that are wrong as they are."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((len(names), len(names)), np.int64)
    named = (found >= 0) & (true >= 0)
    np.add.at(counts, (found[named], true[named]), 1)
    repeated = np.where(counts >= REPEATED, counts, 0)
    rows, columns = linear_sum_assignment(-repeated)
    matched = repeated[rows, columns]
    renamed = (matched > 0) & (rows != columns)
    if matched.sum() < max(LEAST, named.sum() / 2) or renamed.sum() < 3 or np.trace(counts) > matched.sum() / 4:
        return ""
    first = int(np.flatnonzero(renamed)[matched[renamed].argmax()])
    return f"{names[rows[first]]!r} appears where {names[columns[first]]!r} is true"
