"""V-COCO's roles as relations, for what looks at single predictions: costs of errors, pairs, images."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.interactions import Floats, Integers
from pipeline.evaluation.ranking import scores_of
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.vcoco import of_annotated_persons
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import VcocoTruth


class VcocoRoles(NamedTuple):
    """Persons in the roles of actions. V-COCO's detections do not name things, so all have one name."""

    predicted: Relations
    """Only predictions that count: neither those without a score nor those of persons that nobody annotated"""
    truth: Relations
    objects: tuple[str, ...]
    """Names that labels refer to"""
    predicates: tuple[str, ...]
    """Action and role"""

    @classmethod
    def of(cls, predicted: VcocoDetections, truth: VcocoTruth) -> VcocoRoles:
        """Takes the roles of both. An object without a box is named "nothing"."""
        found = predicted.roles
        counted = of_annotated_persons(found.image, found.subject_boxes, truth) & ~np.isnan(scores_of(found))
        found = found.take(counted)
        none = (np.isnan(found.object_boxes) | (found.object_boxes == 0)).all(axis=1)
        things = np.where(none[:, None], np.nan, found.object_boxes)
        action_of = np.array([truth.actions.index(action) for action, _ in truth.roles], np.int64)
        person, role = np.nonzero(truth.labels[:, action_of] == 1)
        boxes = truth.role_boxes[person, role]
        true = Relations(
            images=truth.images,
            image=truth.image[person],
            subject_boxes=truth.boxes[person],
            object_boxes=boxes,
            subject_labels=np.zeros(len(person), np.int64),
            object_labels=_labels(boxes),
            predicates=role.astype(np.int64),
        )
        own = replace(
            found,
            object_boxes=things,
            subject_labels=np.zeros(len(found), np.int64),
            object_labels=_labels(things),
        )
        return cls(own, true, ("person", "thing", "nothing"), tuple(" ".join(role) for role in truth.roles))


def _labels(boxes: Floats) -> Integers:
    return np.where(np.isnan(boxes).all(axis=1), 2, 1).astype(np.int64)
