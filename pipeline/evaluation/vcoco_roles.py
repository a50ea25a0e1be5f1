"""Turns relations with predicates in words into detections in V-COCO's roles ("hit with" → hit, instr)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.data.datasets.pairs import vcoco_predicate
from pipeline.evaluation.relations import Relations
from pipeline.evaluation.vcoco import Role
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import VcocoTruth
from tagger.english.predicates import canonical

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
"""What RLIPv2's authors call a role, where it is another word than that of our reader of V-COCO."""
BOARDS = {"surfboard": ("surf", "instr"), "skateboard": ("skateboard", "instr"), "snowboard": ("snowboard", "instr")}
"""Objects that tell the role of "ride", which our reader calls all of these."""


def in_roles(
    relations: Relations, objects: Sequence[str], predicates: Sequence[str], truth: VcocoTruth
) -> VcocoDetections:
    """Converts a network's relations, whose labels are indices into names. Those of no role are left out.

    "ride" of a board is that board's role, unless the network was asked for its own word ("surf"), too. Raises ValueError if
    no predicate names a role.
    """
    words = [_words(role) for role in truth.roles]
    canonical_names = [canonical(name) for name in predicates]
    own = {role for role, known in zip(truth.roles, words, strict=True) if (known - {"ride"}) & {*canonical_names}}
    table = np.full((len(predicates), len(objects)), -1, np.int64)
    for place, name in enumerate(canonical_names):
        meant = [role for role, known in zip(truth.roles, words, strict=True) if name in known]
        plain = [role for role in meant if role not in BOARDS.values()]
        for role in plain[:1] if name == "ride" else meant:
            table[place] = truth.roles.index(role)
        for thing, role in BOARDS.items() if name == "ride" else ():
            if role in meant and role not in own and thing in objects:
                table[place, objects.index(thing)] = truth.roles.index(role)
    if (table < 0).all():
        raise ValueError(
            f"no predicate of the test set is a role of V-COCO; they are {', '.join([*predicates][:5])}, ..., and the roles "
            f"{', '.join(' '.join(role) for role in truth.roles[:5])}, ..."
        )
    place_of = table[relations.predicates, relations.object_labels]
    known = relations.take(place_of >= 0)
    names = [f"{action}_{name}" for action, name in truth.roles]
    return VcocoDetections.of(replace(known, predicates=place_of[place_of >= 0]), names, truth)


def _words(role: Role) -> frozenset[str]:
    name = " ".join(role)
    return frozenset(canonical(word) for word in (vcoco_predicate(name), *AUTHORS_WORDS.get(name, ())))
