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

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation_sets import open_images_set, vcoco_set
from pipeline.evaluation.bootstrap import bootstrap, resampled
from pipeline.evaluation.hico import HicoRules, Triplet, match_hico, score_hico
from pipeline.evaluation.open_images import score_open_images
from pipeline.evaluation.relations import Integers, Relations
from pipeline.evaluation.vcoco import score_vcoco

HICO_IMAGES, DETECTIONS, TRIPLETS, TRUTHS = 9658, 100, 600, 3.5
"""Size of HICO-DET's test set, with the mean number of true interactions of an image."""

Box = tuple[float, float, float, float]
PlainRelation = tuple[float, Box, Box, Triplet]
"""Score, box of the subject, box of the object, labels."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one metric took. Goals are those of the project."""

    metric: str
    images: int
    detections: int
    seconds: float
    """Median over the repeats."""
    most_seconds: float
    """Goal."""
    peak_gb: float
    most_gb: float
    """Goal."""
    plain_images: int
    """Number of images that the loop ran on."""
    plain_seconds: float
    """The loop's time, scaled to all images."""
    least_ratio: float
    """Goal."""
    interval_seconds: float
    """Seconds for an interval from 1,000 resamples, scaled from fewer."""

    @property
    def ratio(self) -> float:
        """How many times longer the loop takes."""
        return self.plain_seconds / self.seconds


def synthetic(images: int, per_image: int, seed: int = 0) -> tuple[Relations, Relations]:
    """Returns predictions and truth of `images` images.

    An image's predictions are of a tenth as many pairs of boxes. Half of the pairs lie near true ones, and half of their
    predictions have the right labels.
    """
    draws = np.random.default_rng(seed)
    names = np.stack([np.zeros(TRIPLETS, np.int64), np.arange(TRIPLETS) % 80, np.arange(TRIPLETS) % 117], axis=1)
    chances = 1.0 / (1 + np.arange(TRIPLETS))
    counts = 1 + draws.poisson(TRUTHS - 1, images)
    kinds = draws.choice(TRIPLETS, counts.sum(), p=chances / chances.sum())
    truth = _relations(images, np.repeat(np.arange(images), counts), _boxes(draws, counts.sum()), names[kinds], None)
    pairs = max(per_image // 10, 1)
    number = images * pairs
    of_truth = np.repeat(np.cumsum(counts) - counts, pairs) + draws.integers(0, np.repeat(counts, pairs))
    near = draws.random(number) < 0.5
    boxes = np.where(
        near[:, None, None], _pair_boxes(truth)[of_truth] + draws.normal(0, 8, (number, 2, 4)), _boxes(draws, number)
    )
    pair = np.sort(np.tile(np.arange(pairs), -(-per_image // pairs))[:per_image])
    pair = (np.arange(images)[:, None] * pairs + pair).reshape(-1)
    right = near[pair] & (draws.random(len(pair)) < 0.5)
    labels = np.where(right[:, None], truth.triplets[of_truth[pair]], names[draws.choice(TRIPLETS, len(pair))])
    scores = draws.random(len(pair)) * np.where(right, 1.0, 0.7)
    return _relations(images, pair // pairs, boxes[pair], labels, scores), truth


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


def measure_hico(images: int, plain_images: int, repeats: int, resamples: int) -> Figures:
    """Measures HICO-DET's metric. Raises RuntimeError if the loop disagrees."""
    predicted, truth = synthetic(images, DETECTIONS)
    rules = HicoRules()
    seconds = statistics.median(_seconds(lambda: score_hico(predicted, truth, rules)) for _ in range(repeats))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    matches = match_hico(predicted, truth, rules)

    def mean(chosen: Integers) -> dict[str, float]:
        return {"mAP": matches.scores(chosen).mean()}

    interval_seconds = _seconds(lambda: bootstrap(mean, images, resamples=resamples)) * 1000 / resamples
    few = np.arange(plain_images)
    part = resampled(predicted, few), resampled(truth, few)
    plain = plain_relations(part[0]), plain_relations(part[1])
    began = time.perf_counter()
    expected = plain_hico(*plain, rules)
    plain_seconds = (time.perf_counter() - began) * images / plain_images
    ours = score_hico(*part, rules).average_precision
    if expected.keys() != ours.keys() or any(abs(expected[each] - ours[each]) > 1e-9 for each in ours):
        raise RuntimeError("the loop gives other average precisions")
    return Figures(
        metric="HICO-DET",
        images=images,
        detections=len(predicted),
        seconds=seconds,
        most_seconds=5.0,
        peak_gb=peak_gb,
        most_gb=2.0,
        plain_images=plain_images,
        plain_seconds=plain_seconds,
        least_ratio=100.0,
        interval_seconds=interval_seconds,
    )


METRICS: dict[str, Callable[[int, int, int, int], Figures]] = {"hico": measure_hico}


def measure_alone(metric: str, repeats: int) -> dict[str, Any]:
    """Measures a metric that no loop stands beside: seconds (median) and peak memory in GB."""
    make, score = ALONE[metric]
    given = make()
    seconds = statistics.median(_seconds(lambda: score(*given)) for _ in range(repeats))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"metric": metric, "seconds": seconds, "most_seconds": 30.0, "peak_gb": peak_gb}


ALONE: dict[str, tuple[Callable[[], tuple[Any, Any]], Callable[..., Any]]] = {
    "vcoco": (vcoco_set, score_vcoco),
    "open_images": (open_images_set, score_open_images),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", nargs="*", help=f"any of {', '.join(METRICS | ALONE)}; all by default")
    parser.add_argument("--images", type=int, default=HICO_IMAGES)
    parser.add_argument("--plain-images", type=int, default=200, help="number of images that the loops run on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    if unknown := set(given.metrics) - METRICS.keys() - ALONE.keys():
        parser.error(f"no metric {', '.join(sorted(unknown))}")
    heads = f"{'metric':12}{'images':>8}{'detections':>12}{'seconds':>9}{'peak GB':>9}"
    print(heads + f"{'loop, s':>9}{'ratio':>7}{'1,000 resamples, s':>20}")
    rows: list[dict[str, Any]] = []
    chosen = given.metrics or [*METRICS, *ALONE]
    for name in [each for each in chosen if each in METRICS]:
        # A new process for each, since the peak of a process never falls.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            sizes = (given.images, min(given.plain_images, given.images), given.repeats, given.resamples)
            found = pool.apply(METRICS[name], sizes)
        rows.append(asdict(found) | {"ratio": found.ratio})
        print(
            f"{found.metric:12}{found.images:8,}{found.detections:12,}{found.seconds:9.2f}{found.peak_gb:9.2f}"
            f"{found.plain_seconds:9.1f}{found.ratio:7.0f}{found.interval_seconds:20.1f}\n"
            f"{'goal':12}{'':20}{found.most_seconds:9.2f}{found.most_gb:9.2f}{'':9}{found.least_ratio:7.0f}\n"
            f"loop: on {found.plain_images} of {found.images:,} images, scaled",
            flush=True,
        )
    for name in [each for each in chosen if each in ALONE]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure_alone, (name, given.repeats))
        rows.append(row)
        print(
            f"{name}: {row['seconds']:.2f} s (goal {row['most_seconds']:.0f}), peak {row['peak_gb']:.2f} GB", flush=True
        )
    print(json.dumps(rows))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(rows, indent=1))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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


def _boxes(draws: np.random.Generator, number: int) -> np.ndarray:
    """Returns number×2×4 boxes in an image of 640 × 480: subjects and objects."""
    sides = draws.uniform(30, 300, (number, 2, 2))
    corners = draws.random((number, 2, 2)) * (np.array([640.0, 480.0]) - sides)
    return np.concatenate([corners, corners + sides], axis=2)


def _pair_boxes(relations: Relations) -> np.ndarray:
    return np.stack([relations.subject_boxes, relations.object_boxes], axis=1)


def _relations(
    images: int, image: Integers, boxes: np.ndarray, labels: Integers, scores: np.ndarray | None
) -> Relations:
    subjects, objects = np.ascontiguousarray(boxes[:, 0]), np.ascontiguousarray(boxes[:, 1])
    return Relations(images, image, subjects, objects, labels[:, 0], labels[:, 1], labels[:, 2], scores)


if __name__ == "__main__":
    main()
