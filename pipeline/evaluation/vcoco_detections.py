"""Detections in V-COCO's images: persons with a score for each action, and things in the roles of actions.

They come from a file, or from a network's relations, whose predicates are turned into roles ("hit with" → hit, instr).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.datasets.annotations import AnnotationError, as_id, as_number
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.pairs import vcoco_predicate
from pipeline.data.datasets.vcoco import AGENT
from pipeline.evaluation.matching import pair_numbers
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, scores_of
from pipeline.evaluation.vcoco_truth import Role, VcocoTruth
from tagger.english.predicates import canonical

EXPECTED = "a list of detections with image_id, person_box, <action>_agent and <action>_<role>"


@dataclass(frozen=True)
class VcocoDetections:
    """N found persons, and relations between persons and the things of a role, of the same images.

    The predicates of `roles` are indices into `VcocoTruth.roles`; labels do not count. An object box of NaN or zeros
    says that there is no thing. A score of NaN says that nothing was predicted.
    """

    roles: Relations
    agent_image: Integers
    agent_boxes: Floats
    agent_scores: Floats
    """N×A: one score for each action"""


def read_vcoco_detections(path: Path, truth: VcocoTruth, allow_missing: bool = False) -> VcocoDetections:
    """Reads the JSON form of the detections that vsrl_eval takes as a pickle, which is never opened.

    Raises `AnnotationError` for a file of another kind, a detection that lacks a field, an image that the truth lacks,
    or, unless `allow_missing`, images of the truth without a detection.
    """
    position = {image_id: place for place, image_id in enumerate(truth.image_ids)}
    agents = [f"{action}_{AGENT}" for action in truth.actions]
    roles = [f"{action}_{role}" for action, role in truth.roles]
    images, numbers = array("q"), array("d")
    unknown: dict[Any, int] = {}
    for number, row in enumerate(stream_rows(path, EXPECTED)):
        try:
            image_id = as_id(row["image_id"])
            numbers.extend(_numbers(row, "person_box", 4))
            numbers.extend(_number(row[name]) for name in agents)
            for name in roles:
                numbers.extend(_numbers(row, name, 5))
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(f"{path}: detection {number}: {error!r}; expected {EXPECTED}") from error
        place = position.get(image_id) if image_id is not None else None
        if place is None:
            unknown[row["image_id"]] = number
        images.append(-1 if place is None else place)
    if unknown:
        raise AnnotationError(
            f"{path}: {len(unknown)} images are not in the ground truth, e.g. {list(unknown)[:3]}; remove them, or "
            "name the annotations of their test set"
        )
    image = np.array(images, np.int64)
    lacking = sorted(set(range(truth.images)) - set(image.tolist()))
    if lacking and not allow_missing:
        ids = [truth.image_ids[place] for place in lacking[:3]]
        raise AnnotationError(
            f"{path}: {len(lacking)} of {truth.images} images have no detection, e.g. {ids}; predict these, or count "
            "them as images without detections with --allow-missing"
        )
    order = np.argsort(image, kind="stable")
    columns = np.array(numbers).reshape(len(image), 4 + len(agents) + 5 * len(roles))[order]
    persons, scores, things = np.split(columns, [4, 4 + len(agents)], axis=1)
    found = things.reshape(-1, 5)
    none = np.zeros(len(found), np.int64)
    return VcocoDetections(
        roles=Relations(
            images=truth.images,
            image=np.repeat(image[order], len(roles)),
            subject_boxes=np.repeat(persons, len(roles), axis=0),
            object_boxes=found[:, :4],
            subject_labels=none,
            object_labels=none,
            predicates=np.tile(np.arange(len(roles)), len(image)),
            scores=found[:, 4],
        ),
        agent_image=image[order],
        agent_boxes=persons,
        agent_scores=scores,
    )


def _numbers(row: Mapping[str, Any], name: str, count: int) -> list[float]:
    values = row[name]
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{name} is not a list of {count} numbers")
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    """Converts a number; JSON writers that know no NaN write null."""
    if value is None:
        return float("nan")
    if (number := as_number(value)) is None:
        raise ValueError(f"{str(value)[:100]!r} is not a number")
    return number


AUTHORS_WORDS = {
    "sit instr": ("sit on/at", "sit at"),
    "jump instr": ("jump",),
    "talk_on_phone instr": ("talk on phone",),
    "work_on_computer instr": ("work on computer",),
    "ski instr": ("ski",),
    "surf instr": ("surf",),
    "skateboard instr": ("skateboard",),
    "snowboard instr": ("snowboard",),
    "point instr": ("point",),
}
"""What RLIPv2's authors call a role, where our reader of V-COCO has another word."""
BOARDS = {"surfboard": ("surf", "instr"), "skateboard": ("skateboard", "instr"), "snowboard": ("snowboard", "instr")}
"""Objects that decide the role of "ride", our reader's word for all of these."""


def in_roles(
    relations: Relations, objects: Sequence[str], predicates: Sequence[str], truth: VcocoTruth
) -> VcocoDetections:
    """Converts a network's relations, whose labels are indices into names. Those without a role, and those of other
    subjects than persons, are left out.

    A predicate is a role ("cut instr"), a word for one ("cut with"), or an action that has none ("walk"). "ride" of a
    board is that board's role, unless the network was asked for its own word ("surf"), too. As the authors of RLIPv2
    write V-COCO's detections, a person's score as the agent of an action is the score of its relation, or the greater
    of two where a pair has both `instr` and `obj`. Raises ValueError if no predicate names a role.
    """
    with_role = {action for action, _ in truth.roles}
    roles: list[Role] = [*truth.roles, *((action, "") for action in truth.actions if action not in with_role)]
    words = [_words(role) for role in roles]
    forms = [_form(name) for name in predicates]
    own = {role for role, known in zip(roles, words, strict=True) if (known - {"ride"}) & {*forms}}
    table = np.full((len(predicates), len(objects) + 1), -1, np.int64)  # the last column: without object
    for place, name in enumerate(forms):
        meant = [role for role, known in zip(roles, words, strict=True) if name in known]
        plain = [role for role in meant if role not in BOARDS.values()]
        for role in plain[:1] if name == "ride" else meant:
            table[place] = roles.index(role)
        for thing, role in BOARDS.items() if name == "ride" else ():
            if role in meant and role not in own and thing in objects:
                table[place, objects.index(thing)] = roles.index(role)
    if len(table) and (table < 0).all():
        raise ValueError(
            f"no predicate of the test set is a role of V-COCO; they are {', '.join([*predicates][:5])}, ..., and the "
            f"roles {', '.join(' '.join(role) for role in truth.roles[:5])}, ..."
        )
    place_of = table[relations.predicates, relations.object_labels]
    known = (place_of >= 0) & of_persons(relations, objects)
    found, place_of = relations.take(known), place_of[known]
    # By ascending image, as pairs are numbered.
    _, first, pair = np.unique(pair_numbers(found), return_index=True, return_inverse=True)
    # Not NaN yet, which `maximum` would keep
    agents = np.full((len(first), len(truth.actions)), -np.inf)
    action_of = np.array([truth.actions.index(action) for action, _ in roles])
    np.maximum.at(agents, (pair, action_of[place_of]), scores_of(found))
    acted = place_of < len(truth.roles)
    return VcocoDetections(
        roles=replace(found.take(acted), predicates=place_of[acted]),
        agent_image=found.image[first],
        agent_boxes=found.subject_boxes[first],
        agent_scores=np.where(agents == -np.inf, np.nan, agents),
    )


def of_persons(relations: Relations, objects: Sequence[str]) -> Flags:
    """Whether the subject of each relation, whose labels are indices into `objects`, is a person."""
    return np.array([name == "person" for name in objects], bool)[relations.subject_labels]


def role_words(truth: VcocoTruth) -> tuple[str, ...]:
    """The canonical words for roles. "ride" is that of several."""
    return tuple(dict.fromkeys(word for role in truth.roles for word in sorted(_words(role))))


def _words(role: Role) -> frozenset[str]:
    name = " ".join(role).strip()
    return frozenset(_form(word) for word in (name, vcoco_predicate(name), *AUTHORS_WORDS.get(name, ())))


def _form(name: str) -> str:
    return canonical(name.replace("_", " "))
