"""Compares the speed of labelling with the authors' procedure: `python -m benchmarks.labelling`.

The images are a mix like COCO's: boxes per image are exponentially distributed with mean 7.3, up to 60; all 80 names
are in the list of texts; every ordered pair is a candidate with probability 1/2 (up to 1,500 per image), with one to
four predicates. The mix has classes by number of boxes. One image per class is timed, weighted by the class's share.

The authors' procedure (`label_sequentially`) encodes an image once per group of pairs, up to 16 groups per
call, repeats a pair for each of its predicates, encodes all texts in every call, and processes images without
candidates like others. It uses our network as trained. Both run on random weights of the released sizes (R-Tagger,
ResNet-50); the minimum CPU-seconds of interleaved turns count. bf16 is left out on processors without kernels for it.

Shapes: G groups, H×W pixels, T texts, E width.
"""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, best_of, parser, run
from models.config import NetworkConfig
from models.layers import can_pack
from models.relation_tagger import PairQueries, RelationTagger
from pipeline.runtime.processes import keep_freed_memory
from pipeline.stages.tag import TagSettings
from pipeline.training.settings import TaggerSettings
from tagger.box import Box
from tagger.labelling.labeller import TaggerLabeller
from tagger.labelling.tagging_image import TaggingImage
from tagger.pair import Pair

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


MEAN_BOXES, MAX_BOXES, MAX_PAIRS = 7.3, 60, 1500
CLASSES = ((0, 1), (2, 4), (5, 8), (9, 14), (15, 24), (25, 39), (40, MAX_BOXES))
"""Smallest and largest number of boxes of each class."""
TURNS = 2
TOKENIZER = Path(__file__).parents[1] / "scenes/weights/text"
WORDS = [word[1:] for word in json.loads((TOKENIZER / "vocab.json").read_text()) if re.fullmatch("Ġ[a-z]{3,}", word)]
# Three to five tokens including start and end, like COCO's names in RoBERTa's vocabulary.
NAMES = [*WORDS[:79], " ".join(WORDS[80:83])]
PREDICATES = [f"{word} {WORDS[-1]}" for word in WORDS[:30]]
SMALL = {"backbone": "resnet18", "width": 64, "feedforward": 128, "fusion_width": 64}


def mix(shape: tuple[int, int]) -> list[tuple[float, TaggingImage]]:
    """Returns each class's share of the images, and an example with the root mean square of its numbers of boxes.

    Pairs grow with boxes squared.
    """
    draws = np.random.default_rng(7)
    counts = np.arange(MAX_BOXES + 1)
    ends = np.exp(-np.maximum(counts - 0.5, 0) / MEAN_BOXES)
    chances = ends - np.append(ends[1:], 0.0)
    made = []
    for number, (first, last) in enumerate(CLASSES):
        own, chance = counts[first : last + 1], chances[first : last + 1]
        boxes = round(math.sqrt((chance * own**2).sum() / chance.sum()))
        made.append((float(chance.sum()), _image(draws, boxes, shape, number)))
    return made


def _image(draws: np.random.Generator, boxes: int, shape: tuple[int, int], seed: int) -> TaggingImage:
    names = draws.integers(0, len(NAMES), boxes)
    sides = draws.uniform(20, 400, (boxes, 2))
    corners = draws.uniform(0, 1, (boxes, 2)) * (np.array([640, 480]) - sides)
    frames = np.concatenate((corners, sides), 1).tolist()
    made = [Box(NAMES[n], x, y, w, h) for n, (x, y, w, h) in zip(names, frames, strict=True)]
    ends = [(s, o) for s in range(boxes) for o in range(boxes) if s != o and draws.random() < 0.5][:MAX_PAIRS]
    stated = draws.choice(len(PREDICATES), 8, replace=False)
    pairs = [
        Pair(subject, object_, PREDICATES[int(place)], 0, 1)
        for subject, object_ in ends
        for place in draws.choice(stated, int(draws.integers(1, 5)), replace=False)
    ]
    pixels = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    return TaggingImage(640, 480, made, pairs, shape, lambda: pixels)


def measure(given: Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    precisions = ["float32"]
    if can_pack(torch.device("cpu"), torch.bfloat16):
        precisions.append("bfloat16")
    else:
        yield Row("bfloat16", note="not measured: this processor has no kernels for it")
    kind = {"architecture": "parsed", "tagger": True, "official_compat": True}
    sizes = TaggerSettings.network_defaults | (SMALL if given.small else {}) | kind
    tagger = RelationTagger(NetworkConfig.from_dict(sizes), TOKENIZER).eval()
    classes = mix((96, 128) if given.small else (800, 1088))
    labeller = partial(TaggerLabeller, tagger, NAMES, scope="image", floor=TagSettings().floor)
    label = {name: labeller(precision=name).label for name in precisions}
    # Warm-up: the first pass builds kernels, and a worker encodes each text only once.
    largest, every = classes[-1][1], [Pair(0, 1, predicate, 0, 1) for predicate in PREDICATES]
    for way in label.values():
        way([replace(largest, pairs=[*largest.pairs, *every])])
    totals: dict[str, float] = defaultdict(float)
    for share, image in classes:
        work = {"authors": partial(label_sequentially, tagger, image, NAMES, repeated=True)}
        work |= {name: partial(way, [image]) for name, way in label.items()}
        with torch.inference_mode():
            best = best_of(work, TURNS)
        for name, seconds in best.items():
            totals[name] += share * seconds
    for name in precisions:
        yield Row(f"mix, {name}, beside the authors' procedure", "CPU-s/image", totals[name], totals["authors"])


if __name__ == "__main__":
    run(parser(__doc__, small=True), measure)
