"""Measures the metrics of relation detection at full size: `python -m benchmarks.evaluation` (`--help`).

hico    HICO-DET: 9,658 images with 100 detections each, 600 triplets, suppression of duplicates; and 95 % intervals from
        resampled images. The loop beside it does what the rules say for one image after the other, with Python's numbers
        (`plain_hico`); it runs on a part of the images, and its time is scaled to all of them. Both must give the same
        average precisions on that part.
vcoco, open_images
        V-COCO's role AP (4,946 images) and score_wtd (5,322), each with 100 detections an image; no loop stands beside them.

Boxes, labels and scores are synthetic. Each metric runs in a process of its own, whose peak memory includes the relations.
"""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks.evaluation_sets import HICO_IMAGES, open_images_set, synthetic, vcoco_set
from benchmarks.harness import Goal, Row, at_most, in_own_process, parser, peak_mib, run, wall_seconds
from pipeline.evaluation.bootstrap import bootstrap, resampled
from pipeline.evaluation.hico import HicoRules, Triplet, match_hico, score_hico
from pipeline.evaluation.open_images import score_open_images
from pipeline.evaluation.relations import Integers, Relations
from pipeline.evaluation.vcoco import score_vcoco

Box = tuple[float, float, float, float]
PlainRelation = tuple[float, Box, Box, Triplet]
"""Score, box of the subject, box of the object, labels."""
SETS: dict[str, tuple[Callable[..., tuple[Any, Any]], Callable[..., Any], Goal]] = {
    "hico": (synthetic, lambda *sides: score_hico(*sides, HicoRules()), at_most(5)),
    "vcoco": (vcoco_set, score_vcoco, at_most(30)),
    "open_images": (open_images_set, score_open_images, at_most(30)),
}
"""Metric → what makes its set, what computes it, and the goal for its seconds."""


def plain_hico(
    predicted: list[list[PlainRelation]], truth: list[list[PlainRelation]], rules: HicoRules
) -> dict[Triplet, float]:
    """Returns HICO-DET's average precision per triplet, by loops over images, predictions and truths."""
    ranked: dict[Triplet, list[tuple[float, bool]]] = defaultdict(list)
    truths: dict[Triplet, int] = defaultdict(int)
    for found, given in zip(predicted, truth, strict=True):
        kept: list[PlainRelation] = []
        for one in sorted(found, key=lambda relation: -relation[0])[: rules.per_image]:
            if not any(_is_duplicate(one, other, rules) for other in kept):
                kept.append(one)
        taken = [False] * len(given)
        for one in kept:
            nearest, most = -1, 0.0
            for place, other in enumerate(given):
                subject, object_ = plain_iou(one[1], other[1]), plain_iou(one[2], other[2])
                if one[3] == other[3] and min(subject, object_) >= rules.overlap and min(subject, object_) > most:
                    nearest, most = place, min(subject, object_)
            right = nearest >= 0 and not taken[nearest]
            if right:
                taken[nearest] = True
            ranked[one[3]].append((one[0], right))
        for other in given:
            truths[other[3]] += 1
    return {triplet: _plain_precision(ranked[triplet], number) for triplet, number in truths.items()}


def plain_iou(one: Box, other: Box) -> float:
    """Returns the IoU of two boxes whose sides include both ends."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = (width + 1) * (height + 1)
    areas = (one[2] - one[0] + 1) * (one[3] - one[1] + 1) + (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
    return common / (areas - common)


def plain_relations(relations: Relations) -> list[list[PlainRelation]]:
    """Returns the relations of each image as Python's numbers."""
    made: list[list[PlainRelation]] = [[] for _ in range(relations.images)]
    scores = np.zeros(len(relations)) if relations.scores is None else relations.scores
    rows = zip(
        relations.image.tolist(),
        scores.tolist(),
        relations.subject_boxes.tolist(),
        relations.object_boxes.tolist(),
        relations.triplets.tolist(),
        strict=True,
    )
    for image, score, subject, object_, labels in rows:
        made[image].append((score, tuple(subject), tuple(object_), Triplet(*labels)))
    return made


def _is_duplicate(one: PlainRelation, other: PlainRelation, rules: HicoRules) -> bool:
    if rules.suppression is None or one[3] != other[3]:
        return False
    subject, object_ = plain_iou(one[1], other[1]), plain_iou(one[2], other[2])
    return subject**rules.subject_power * object_**rules.object_power > rules.suppression


def _plain_precision(ranked: list[tuple[float, bool]], truths: int) -> float:
    curve, found = [], 0
    for rank, (_, right) in enumerate(sorted(ranked, key=lambda each: -each[0]), start=1):
        found += right
        curve.append((found, found / rank))
    return sum(max((p for found, p in curve if 10 * found >= tenth * truths), default=0.0) for tenth in range(11)) / 11


def measure_metric(metric: str, images: int | None, repeats: int) -> list[Row]:
    """Measures the median time of a metric, and the memory of this process."""
    make, compute, goal = SETS[metric]
    sides = make(*([images] if images else []))
    seconds = median(wall_seconds(lambda: compute(*sides)) for _ in range(repeats))
    memory = peak_mib() * 2**20 / 1e9
    return [Row(metric, "s", seconds, goal=goal), Row(f"{metric}: peak memory", "GB", memory, goal=at_most(2))]


def beside_the_loop(images: int, plain_images: int, resamples: int) -> list[Row]:
    """Measures HICO-DET's metric beside the loop, and its intervals. Raises RuntimeError if the loop disagrees."""
    (predicted, truth), rules = synthetic(images), HicoRules()
    matches = match_hico(predicted, truth, rules)

    def mean(chosen: Integers) -> dict[str, float]:
        return {"mAP": matches.scores(chosen).mean()}

    interval = wall_seconds(lambda: bootstrap(mean, images, resamples=resamples)) * 1000 / resamples
    few = np.arange(min(plain_images, images))
    part = resampled(predicted, few), resampled(truth, few)
    plain, expected = [plain_relations(side) for side in part], {}
    loop = wall_seconds(lambda: expected.update(plain_hico(*plain, rules))) * images / len(few)
    ours = score_hico(*part, rules).average_precision
    if expected.keys() != ours.keys() or any(abs(expected[each] - ours[each]) > 1e-9 for each in ours):
        raise RuntimeError("the loop gives other average precisions")
    seconds = wall_seconds(lambda: score_hico(predicted, truth, rules))
    note = f"the loop ran on {len(few):,} images and is scaled"
    return [
        Row("hico, beside a plain loop over images", "s", seconds, loop, Goal(1 / 100, most=True), note),
        Row("hico: an interval from 1,000 resamples", "s", interval),
    ]


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the rows of the metrics that were asked for."""
    for metric in given.metrics or SETS:
        yield from in_own_process(measure_metric, metric, given.images, given.repeats)
        if metric == "hico":
            yield from in_own_process(beside_the_loop, given.images or HICO_IMAGES, given.plain_images, given.resamples)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("metrics", nargs="*", help=f"any of {', '.join(SETS)}; all by default")
    options.add_argument("--images", type=int, help="instead of the size of the public test sets")
    options.add_argument("--plain-images", type=int, default=200, help="number of images that the loop runs on")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--resamples", type=int, default=50)
    run(options, measure)
