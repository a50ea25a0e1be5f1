"""Agent and role average precision of V-COCO (Gupta and Malik 2015), as vsrl_eval computes them.

Rules: A prediction belongs to the true person that its person box overlaps most. It is correct if that person does the
action, the boxes overlap by at least half (+1 pixel convention), and no better prediction has found the person. For a
role, the box of the thing must overlap by half, too. Where the person has no thing, scenario 1 asks for a prediction
without a box, and scenario 2 accepts any. Predictions of unannotated persons do not count. Average precision
is the area under the falling envelope of precision, and recall is of all persons who do the action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.matching import MatchCandidates, joined, marked
from pipeline.evaluation.ranking import Ranking, mean_of
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, aligned_iou, scores_of
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import Role, VcocoTruth

POINT = "point"
"""The action that the mean over 24 roles leaves out, because few of its persons have a thing."""


@dataclass(frozen=True)
class VcocoScores:
    """Average precision per action and per role; NaN for actions that no person of the test set does."""

    agent: Mapping[str, float]
    scenario_1: Mapping[Role, float]
    scenario_2: Mapping[Role, float]
    persons: Mapping[str, int]
    """Number of true persons per action"""
    official: bool = False
    """Whether the mean without "point" is computed as vsrl_eval does: it takes the first role of the third action from
    the end for it, and divides by 24, whatever the actions are."""

    @property
    def figures(self) -> dict[str, float]:
        """Mean role AP of scenario 1 and 2 without the action "point", over 24 roles in V-COCO, as papers report it;
        the same over all 25 roles; and mean agent AP over the actions of the test set."""
        return {
            "role_1": self._without_point(self.scenario_1),
            "role_2": self._without_point(self.scenario_2),
            "role_1_25": mean_of(self.scenario_1.values()),
            "role_2_25": mean_of(self.scenario_2.values()),
            "agent": mean_of(self.agent.values()),
        }

    def _without_point(self, precision: Mapping[Role, float]) -> float:
        if not self.official:
            return mean_of(value for role, value in precision.items() if role[0] != POINT)
        third = [*self.persons][-3] if len(self.persons) >= 3 else None
        left_out = [value for (action, _), value in precision.items() if action == third]
        return (mean_of(precision.values()) * 25 - (left_out[0] if left_out else float("nan"))) / 24


@dataclass(frozen=True)
class VcocoMatches:
    """Which predictions are right."""

    agents: Ranking
    """By action"""
    first: Ranking
    second: Ranking
    """By role, in scenario 1 and 2"""
    official: bool

    def scores(self, chosen: Integers | None = None) -> VcocoScores:
        """Returns the scores on the chosen images (positions; repeated ones count repeatedly), all by default."""
        agent, first, second = (each.precision(chosen) for each in (self.agents, self.first, self.second))
        persons = dict(zip(self.agents.kinds, self.agents.counted(chosen)[1].tolist(), strict=True))
        return VcocoScores(agent, first, second, persons, self.official)


def match_vcoco(
    predicted: VcocoDetections, truth: VcocoTruth, *, official: bool = False, overlap: float = 0.5
) -> VcocoMatches:
    """Decides which detections are right. Equal scores keep the order of the detections.

    `overlap`: minimum IoU of persons, and of things; `official`: as in `VcocoScores`. Predictions on images without a
    person, where vsrl_eval stops with an error, are wrong. Raises ValueError if a box of a person is NaN.
    """
    for boxes in (predicted.agent_boxes, predicted.roles.subject_boxes):
        if unknown := int(np.isnan(boxes).any(axis=1).sum()):
            raise ValueError(f"{unknown} of {len(boxes)} detections have a person box with NaN")
    order = np.argsort(predicted.roles.predicates, kind="stable")
    bounds = np.searchsorted(predicted.roles.predicates[order], np.arange(len(truth.roles) + 1))
    # Sorted again, because relations are by ascending image.
    roles = [
        _role(predicted.roles.take(np.sort(order[bounds[number] : bounds[number + 1]])), truth, number, overlap)
        for number in range(len(truth.roles))
    ]
    doing = [action for action, _ in truth.roles]
    first, second = (_ranking([each[scenario] for each in roles], truth, truth.roles, doing) for scenario in (0, 1))
    agents = _ranking(_agents(predicted, truth, overlap), truth, truth.actions, truth.actions)
    return VcocoMatches(agents, first, second, official)


_Ranked = tuple[Integers, Flags]
"""The predictions of one action or role that count, best first, up to the last right one: image, and whether right."""


def _ranking(
    ranked: Sequence[_Ranked], truth: VcocoTruth, kinds: Sequence[Role] | Sequence[str], actions: Sequence[str]
) -> Ranking:
    """Joins the predictions of all actions or roles. Their truths are the persons who do the action of each."""
    person, category = _doing(truth, actions)
    bounds = np.append(0, np.cumsum([len(image) for image, _ in ranked]))
    image, right = (np.concatenate([each[part] for each in ranked]) for part in (0, 1))
    return Ranking(kinds, truth.images, bounds, image, right, category, truth.image[person])


def _doing(truth: VcocoTruth, actions: Sequence[str]) -> tuple[Integers, Integers]:
    """Returns the persons who do an action, and its position in the list, by person."""
    labels = truth.labels[:, np.array([truth.actions.index(action) for action in actions], np.int64)]
    person, place = np.nonzero(labels == 1)
    return person, place


def _agents(predicted: VcocoDetections, truth: VcocoTruth, least: float) -> list[_Ranked]:
    person, overlap = _persons(predicted.agent_image, predicted.agent_boxes, truth)
    counted = _counted(person, truth)
    close = (person >= 0) & (overlap >= least)
    rankings = []
    for action in range(len(truth.actions)):
        scores = predicted.agent_scores[:, action]
        right = close & (truth.labels[person, action] == 1) if len(truth.labels) else close
        rankings.append(_ranked(predicted.agent_image, scores, counted & ~np.isnan(scores), right, person))
    return rankings


def _role(found: Relations, truth: VcocoTruth, number: int, least: float) -> tuple[_Ranked, _Ranked]:
    """Returns the ranking of a role in scenario 1 and 2."""
    action = truth.actions.index(truth.roles[number][0])
    found = found.take(~np.isnan(scores_of(found)))
    scores = scores_of(found)
    person, overlap = _persons(found.image, found.subject_boxes, truth)
    counted = _counted(person, truth)
    if not len(truth.labels):
        return (_ranked(found.image, scores, counted, np.zeros(len(found), bool), person),) * 2
    close = (person >= 0) & (overlap >= least) & (truth.labels[person, action] == 1)
    thing = truth.role_boxes[person, number]
    same_thing = _overlaps(thing, found.object_boxes) >= least
    has_none = np.isnan(thing).all(axis=1)
    says_none = np.isnan(found.object_boxes).all(axis=1) | (found.object_boxes == 0).all(axis=1)
    return (
        _ranked(found.image, scores, counted, close & np.where(has_none, says_none, same_thing), person),
        _ranked(found.image, scores, counted, close & (has_none | same_thing), person),
    )


def _ranked(image: Integers, scores: Floats, counted: Flags, right: Flags, person: Integers) -> _Ranked:
    """Ranks the counted predictions; the first correct one finds its person."""
    order = np.argsort(-scores, kind="stable")
    order = order[counted[order]]
    hits = np.flatnonzero(right[order])
    _, first = np.unique(person[order][hits], return_index=True)
    # What follows the last hit lowers no precision at a hit.
    last = int(hits[first].max(initial=-1)) + 1
    return image[order[:last]], marked(last, hits[first])


def _persons(image: Integers, boxes: Floats, truth: VcocoTruth) -> tuple[Integers, Floats]:
    """Returns for each box its image's true person of highest IoU, -1 in images without a person, and the IoU."""
    pairs = joined(image, truth.image)
    best = MatchCandidates(*pairs, _overlaps(boxes[pairs[0]], truth.boxes[pairs[1]])).best()
    person, overlap = np.full(len(image), -1, np.int64), np.zeros(len(image))
    person[best.prediction], overlap[best.prediction] = best.truth, best.overlap
    return person, overlap


def _counted(person: Integers, truth: VcocoTruth) -> Flags:
    """Returns which predictions count: all but those of persons without annotations."""
    # The element at the end stands for "no person".
    return ~np.append((truth.labels < 0).any(axis=1), False)[person]


def _overlaps(left: Floats, right: Floats) -> Floats:
    # Boxes that share a single row of pixels overlap here, unlike in HICO-DET.
    return aligned_iou(left, right, least=-1.0)


THINGS = ("person", "thing", "nothing")
"""What labels in `as_relations` stand for; V-COCO's detections do not name things."""


def as_relations(predicted: VcocoDetections, truth: VcocoTruth) -> tuple[Relations, Relations]:
    """The roles of both as relations, for what looks at single predictions: costs of errors, pairs, images.

    Only predictions that count are among them: with a score, and of annotated persons. Labels index `THINGS`, of which
    an object without a box is "nothing"; predicates index `truth.roles`.
    """
    found = predicted.roles
    person, _ = _persons(found.image, found.subject_boxes, truth)
    found = found.take(_counted(person, truth) & ~np.isnan(scores_of(found)))
    none = (np.isnan(found.object_boxes) | (found.object_boxes == 0)).all(axis=1)
    found = replace(found, object_boxes=np.where(none[:, None], np.nan, found.object_boxes))
    person, role = _doing(truth, [action for action, _ in truth.roles])
    boxes = truth.boxes[person], truth.role_boxes[person, role]
    # The labels of both follow.
    true = Relations(truth.images, truth.image[person], *boxes, person, person, role)
    found, true = (
        replace(
            each,
            subject_labels=np.zeros(len(each), np.int64),
            object_labels=np.where(np.isnan(each.object_boxes).all(axis=1), 2, 1).astype(np.int64),
        )
        for each in (found, true)
    )
    return found, true
