"""Reimplements the authors' labelling: one image at a time, repeated per group, with all texts encoded in every call.

Tests compare its scores, and `benchmarks/labelling.py` its speed, with `tagger.labelling.labeller`.

Shapes: G groups, P pairs per group, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.relation_tagger import PairQueries, RelationTagger
from tagger.labelling.tagging_image import TaggingImage

GROUPS_A_CALL = 16
"""The authors' value for ResNet-50."""

Scores = dict[tuple[int, str, int], float]
"""(subject box, predicate, object box) → score"""


def label_sequentially(
    tagger: RelationTagger,
    image: TaggingImage,
    categories: Sequence[str],
    predicates: Sequence[str] | None = None,
    groups_a_call: int = GROUPS_A_CALL,
    repeated: bool = False,
) -> Scores:
    """Scores every text of a call on every pair of the call.

    `categories`: the dataset's names, without the text for no objects. `predicates`: the texts of every call; default:
    those of its groups in the order of first appearance, as the authors merge them. `repeated`: a pair is in the groups
    once per text, and the last group may be empty, as in the authors' files. Then a pair's best score counts, and the
    repetition also changes the scores of other pairs in its groups.
    """
    size = tagger.config.pairs
    ends = sorted((pair.subject, pair.object) for pair in image.pairs)
    if not repeated:
        ends = sorted(set(ends))
    groups = [ends[start : start + size] for start in range(0, len(ends) + repeated, size)]
    scores: Scores = {}
    for start in range(0, len(groups), groups_a_call):
        stacked = groups[start : start + groups_a_call]
        inside = {pair for group in stacked for pair in group}
        proposed = dict.fromkeys(p.predicate for p in image.pairs if (p.subject, p.object) in inside)
        texts = list(proposed if predicates is None else predicates)
        pixels = image.load()
        assert isinstance(pixels, Tensor)
        repeated_G3HW = pixels[None].repeat(len(stacked), 1, 1, 1)
        features = tagger.encode_texts([*categories, "no objects", *texts])
        objects_TE, predicates_TE = features[: len(categories) + 1], features[len(categories) + 1 :]
        queries = _queries(image, stacked, categories, size)
        logits = tagger.predict(repeated_G3HW, None, objects_TE, predicates_TE, queries).predicate_logits
        found = logits.float().sigmoid()
        for row, group in enumerate(stacked):
            for slot, (subject, object_) in enumerate(group):
                for column, text in enumerate(texts):
                    # The authors also read each score individually.
                    score = found[row, slot, column].item()
                    scores[subject, text, object_] = max(score, scores.get((subject, text, object_), 0.0))
    return scores


def _queries(
    image: TaggingImage, groups: Sequence[Sequence[tuple[int, int]]], categories: Sequence[str], slots: int
) -> PairQueries:
    """Returns queries for all slots of every group, including empty ones."""
    sides = image.width, image.height
    frames = [
        ((b.x + b.w / 2) / sides[0], (b.y + b.h / 2) / sides[1], b.w / sides[0], b.h / sides[1]) for b in image.boxes
    ]
    boxes = torch.tensor(frames)
    labels = torch.tensor([categories.index(box.category) for box in image.boxes])
    subject_boxes, object_boxes = torch.zeros(2, len(groups), slots, 4)
    subject_labels, object_labels = torch.zeros(2, len(groups), slots, dtype=torch.long)
    valid = torch.zeros(len(groups), slots, dtype=torch.bool)
    for row, group in enumerate(groups):
        for slot, (subject, object_) in enumerate(group):
            subject_boxes[row, slot], object_boxes[row, slot] = boxes[subject], boxes[object_]
            subject_labels[row, slot], object_labels[row, slot] = labels[subject], labels[object_]
            valid[row, slot] = True
    return PairQueries(subject_boxes, object_boxes, subject_labels, object_labels, valid)
