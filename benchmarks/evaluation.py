"""Measures HICO-DET's metric at full size, and Visual Genome's: `python -m benchmarks.evaluation` (`--help`).

9,658 `--images` have 100 detections each, of 600 triplets, with suppression of duplicates; 95 % intervals are from
`--resamples` of the images. The loop beside it does what the rules say image by image, with Python's numbers
(`plain_hico`). It runs on `--plain-images`, its time scaled to all. Both must give the same average precisions there.
Visual Genome's metric is measured on the images of `--graphs`, reading a table of detections on those of `--table`.

A synthetic prediction is a true relation of its image with boxes moved a little, or a random one, so that matches,
duplicates and wrong labels all occur, as with a network. Tests compare the metrics with the loops on such sets.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, cpu_seconds, in_own_process, parser, peak_mib, run
from pipeline.evaluation.bootstrap import bootstrap, resampled
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.detections.read import read_detections
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.hico import POWERS, HicoRules, TripletClass, match_hico
from pipeline.evaluation.predictor import Found, Names
from pipeline.evaluation.relations import Integers, Relations, aligned_iou, scores_of
from pipeline.evaluation.scene_graph_recall import SceneGraphRules, match_scene_graphs, that_count
from storage.tables import DETECTIONS

PART = 100
"""Images that are drawn for a table, which repeats them."""
HICO_IMAGES, TRIPLETS, TRUTHS = 9658, 600, 3.5
"""Size of HICO-DET's test set, with the mean number of true interactions of an image."""
GRAPH_NAMES = Names(*(tuple(map(str, range(count))) for count in (150, 50)))
"""As many names of objects and of predicates as Visual Genome's scene graphs have."""
Box = tuple[float, float, float, float]
Metric = Callable[[Relations, Relations], Mapping[Any, float]]
PlainRelation = tuple[float, Box, Box, TripletClass]
"""Score, box of the subject, box of the object, labels."""


def synthetic(images: int = HICO_IMAGES, per_image: int = 100, seed: int = 0) -> tuple[Relations, Relations]:
    """Returns predictions and truth of `images` images.

    An image's predictions are of a tenth as many pairs of boxes. Half of the pairs lie near true ones, and half of
    their predictions have the right labels.
    """
    draws = np.random.default_rng(seed)
    names = np.stack([np.zeros(TRIPLETS, np.int64), np.arange(TRIPLETS) % 80, np.arange(TRIPLETS) % 117], axis=1)
    chances = 1.0 / (1 + np.arange(TRIPLETS))
    counts = 1 + draws.poisson(TRUTHS - 1, images)
    kinds = names[draws.choice(TRIPLETS, counts.sum(), p=chances / chances.sum())]
    pairs = max(per_image // 10, 1)
    truth, of_truth, near, boxes = _truth_and_pairs(draws, counts, kinds, pairs, 0.5)
    pair = np.sort(np.tile(np.arange(pairs), -(-per_image // pairs))[:per_image])
    pair = (np.arange(images)[:, None] * pairs + pair).reshape(-1)
    right = near[pair] & (draws.random(len(pair)) < 0.5)
    labels = np.where(right[:, None], truth.triplets[of_truth[pair]], names[draws.choice(TRIPLETS, len(pair))])
    scores = draws.random(len(pair)) * np.where(right, 1.0, 0.7)
    return _relations(images, pair // pairs, boxes[pair], labels, scores), truth


def _truth_and_pairs(
    draws: np.random.Generator, counts: Integers, kinds: Integers, pairs: int, share: float
) -> tuple[Relations, Integers, np.ndarray, np.ndarray]:
    """Draws boxes of true relations, `counts` of them in each image, and of `pairs` predicted pairs an image.

    Returns the truth, a true relation for each pair, whether the pair lies near it, as a share does, and its boxes.
    """
    images, number = len(counts), len(counts) * pairs
    true_boxes = _pairs(draws, len(kinds))
    truth = _relations(images, np.repeat(np.arange(images), counts), true_boxes, kinds, None)
    of_truth = np.repeat(np.cumsum(counts) - counts, pairs) + draws.integers(0, np.repeat(counts, pairs))
    near = draws.random(number) < share
    moved = true_boxes[of_truth] + draws.normal(0, 8, (number, 2, 4))
    return truth, of_truth, near, np.where(near[:, None, None], moved, _pairs(draws, number))


def _pairs(draws: np.random.Generator, number: int) -> np.ndarray:
    """Returns number×2×4 boxes in an image of 640 × 480: subjects and objects."""
    sides = draws.uniform(30, 300, (number, 2, 2))
    corners = draws.random((number, 2, 2)) * (np.array([640.0, 480.0]) - sides)
    return np.concatenate([corners, corners + sides], axis=2)


def _relations(
    images: int, image: Integers, boxes: np.ndarray, labels: Integers, scores: np.ndarray | None
) -> Relations:
    subjects, objects = np.ascontiguousarray(boxes[:, 0]), np.ascontiguousarray(boxes[:, 1])
    return Relations(images, image, subjects, objects, labels[:, 0], labels[:, 1], labels[:, 2], scores)


def plain_hico(
    predicted: list[list[PlainRelation]], truth: list[list[PlainRelation]], rules: HicoRules
) -> dict[TripletClass, float]:
    """Returns HICO-DET's average precision per triplet, by loops over images, predictions and truths."""
    ranked: dict[TripletClass, list[tuple[float, bool]]] = defaultdict(list)
    truths: dict[TripletClass, int] = defaultdict(int)
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


def graphs(images: int, pairs: int = 150, predicates: int = 50, seed: int = 0) -> tuple[Relations, Relations]:
    """Returns predicted and true scene graphs: each predicate of `pairs` pairs of an image, seven truths on average.

    A third of the pairs lie near true ones; most of these have the right names.
    """
    draws = np.random.default_rng(seed)
    counts = 1 + draws.poisson(6, images)
    kinds = np.stack([draws.integers(0, size, counts.sum()) for size in (150, 150, predicates)], axis=1)
    truth, of_truth, near, boxes = _truth_and_pairs(draws, counts, kinds, pairs, 0.3)
    number = len(near)
    named = near & (draws.random(number) < 0.7)
    names = np.where(named[:, None], kinds[of_truth][:, :2], draws.integers(0, 150, (number, 2)))
    pair = np.repeat(np.arange(number), predicates)
    labels = np.concatenate([names[pair], np.tile(np.arange(predicates), number)[:, None]], axis=1)
    return _relations(images, pair // pairs, boxes[pair], labels, draws.random(len(pair)) ** 4), truth


def plain_graphs(predicted: Relations, truth: Relations, rules: SceneGraphRules) -> dict[str, float]:
    """Returns R@K, mR@K and the same without the graph constraint, by a loop over images.

    With `official`, an image goes through the steps of Tang et al.'s evaluator: NumPy within an image, a list of found
    truths for each prediction, and their union for each K.
    """
    recalls: dict[str, list[float]] = defaultdict(list)
    by_predicate: dict[tuple[str, int], list[float]] = defaultdict(list)
    for image in range(truth.images):
        found, given = (
            each.take(slice(*np.searchsorted(each.image, (image, image + 1)))) for each in (predicted, truth)
        )
        if not len(given):
            continue
        found = found.take(np.argsort(-scores_of(found), kind="stable"))
        boxes = [found.subject_boxes.copy(), found.object_boxes.copy()]
        if not rules.official and rules.same_object is not None:
            _show_one_object(boxes, [found.subject_labels, found.object_labels], rules.same_object)
        pair = [
            (*ends[0], *ends[1], *labels)
            for *ends, labels in zip(*(each.tolist() for each in boxes), found.triplets[:, :2].tolist(), strict=True)
        ]
        one = [*{key: row for row, key in reversed([*enumerate(pair)])}.values()]
        every = [*range(len(pair))]
        if not rules.official:
            keys = [(*key, name) for key, name in zip(pair, found.predicates.tolist(), strict=True)]
            every = [*{key: row for row, key in reversed([*enumerate(keys)])}.values()]
        for kind, rows in (("", sorted(one)), ("ng-", sorted(every))):
            best = np.array(rows[: max(rules.limits)], np.int64)
            matches = _matches(found.take(best), [each[best] for each in boxes], given, rules)
            for limit in rules.limits:
                union = functools.reduce(np.union1d, matches[:limit], np.zeros(0)).astype(np.int64)
                recalls[f"{kind}R@{limit}"].append(len(union) / len(given))
                for predicate in np.unique(given.predicates).tolist():
                    own = given.predicates == predicate
                    by_predicate[f"{kind}mR@{limit}", predicate].append(own[union].sum() / own.sum())
    for (name, _), values in by_predicate.items():
        recalls[name].append(float(np.mean(values)))
    return {name: float(np.mean(values)) for name, values in recalls.items()}


def _show_one_object(boxes: list[np.ndarray], labels: list[Integers], same: float) -> None:
    """Replaces each box by the best of those that show the same object."""
    shown: dict[tuple[int, Box], Box] = {}
    kept: list[tuple[int, Box]] = []
    for row in range(len(labels[0])):
        for end in (0, 1):
            name, box = int(labels[end][row]), tuple(boxes[end][row].tolist())
            if (name, box) not in shown:
                better = [other for known, other in kept if known == name and plain_iou(other, box) > same]
                shown[name, box] = better[0] if better else box
                kept += [] if better else [(name, box)]
            boxes[end][row] = shown[name, box]


def _matches(found: Relations, boxes: list[np.ndarray], given: Relations, rules: SceneGraphRules) -> list[list[int]]:
    """Returns the truths that each prediction finds."""
    overlaps = np.zeros((len(found), len(given)))
    for place, triplet in enumerate(given.triplets):
        rows = np.flatnonzero((found.triplets == triplet).all(axis=1))
        true = given.subject_boxes[place], given.object_boxes[place]
        least = np.minimum(*(aligned_iou(own[rows], end[None]) for own, end in zip(boxes, true, strict=True)))
        overlaps[rows, place] = np.where(least >= rules.overlap, least, 0)
    if rules.official:
        return [np.flatnonzero(row).tolist() for row in overlaps]
    matches: list[list[int]] = []
    for row in overlaps:
        best = int(row.argmax())
        matches.append([best] if row[best] else [])
        overlaps[:, matches[-1]] = 0
    return matches


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
        relations.image.tolist(), scores.tolist(), relations.subject_boxes.tolist(), relations.object_boxes.tolist(),
        relations.triplets.tolist(), strict=True,
    )  # fmt: skip
    for image, score, subject, object_, labels in rows:
        made[image].append((score, tuple(subject), tuple(object_), TripletClass(*labels)))
    return made


def _is_duplicate(one: PlainRelation, other: PlainRelation, rules: HicoRules) -> bool:
    if rules.suppression is None or one[3] != other[3]:
        return False
    subject, object_ = plain_iou(one[1], other[1]), plain_iou(one[2], other[2])
    return subject ** POWERS[0] * object_ ** POWERS[1] > rules.suppression


def _plain_precision(ranked: list[tuple[float, bool]], truths: int) -> float:
    curve, found = [], 0
    for rank, (_, right) in enumerate(sorted(ranked, key=lambda each: -each[0]), start=1):
        found += right
        curve.append((found, found / rank))
    return sum(max((p for found, p in curve if 10 * found >= tenth * truths), default=0.0) for tenth in range(11)) / 11


def hico(images: int, plain_images: int, repeats: int, resamples: int) -> list[Row]:
    """Measures HICO-DET's metric, beside the loop, and its intervals. Raises RuntimeError if the loop disagrees."""
    sides, rules = synthetic(images), HicoRules()
    seconds = median(cpu_seconds(lambda: match_hico(*sides, rules).scores()) for _ in range(repeats))
    peak = peak_mib() * 2**20 / 1e9
    matches = match_hico(*sides, rules)

    def mean(chosen: Integers) -> dict[str, float]:
        return {"mAP": matches.scores(chosen).mean()}

    interval = cpu_seconds(lambda: bootstrap(mean, images, resamples=resamples))
    loop = seconds_of_loop(
        lambda predicted, truth: plain_hico(plain_relations(predicted), plain_relations(truth), rules),
        lambda predicted, truth: match_hico(predicted, truth, rules).scores().average_precision, *sides, plain_images,
    )  # fmt: skip
    return [
        Row("HICO-DET's metric, beside a plain loop over images", "s", seconds, loop),
        Row("peak memory", "GB", peak),
        Row(f"an interval from {resamples:,} resamples", "s", interval),
    ]


def scene_graphs(images: int, plain_images: int) -> list[Row]:
    """Measures Visual Genome's metric on 7,500 rows an image beside the loop. Raises RuntimeError if it disagrees."""
    sides, rules = graphs(images), SceneGraphRules(official=True)
    loop = seconds_of_loop(
        lambda predicted, truth: plain_graphs(predicted, truth, rules),
        lambda predicted, truth: match_scene_graphs(predicted, truth, rules).scores().figures, *sides, plain_images,
    )  # fmt: skip
    seconds = cpu_seconds(lambda: match_scene_graphs(*sides, rules).scores())
    name = "Visual Genome's metric, 7,500 rows an image, beside a loop over images"
    return [Row(name, "s", seconds, loop, note=f"{images:,} images")]


def seconds_of_loop(plain: Metric, metric: Metric, predicted: Relations, truth: Relations, plain_images: int) -> float:
    """Returns the loop's CPU-seconds on all images, scaled from some, on which both must give the same figures."""
    few = np.arange(min(plain_images, truth.images))
    part = resampled(predicted, few), resampled(truth, few)
    expected: dict[Any, float] = {}
    seconds = cpu_seconds(lambda: expected.update(plain(*part)))
    found = metric(*part)
    if any(abs(found[name] - value) > 1e-9 for name, value in expected.items()):
        raise RuntimeError("the loop gives other figures")
    return seconds * truth.images / len(few)


def write_graphs(path: Path, images: int) -> None:
    """Writes the predictions of `graphs` for a hundred images as our table, which has them over and over."""
    found, rows = graphs(PART)[0], []
    for image in range(PART):
        its = found.take(found.image == image)
        pairs = len(its) // 50
        boxes, labels = (
            np.concatenate([each[::50] for each in ends])
            for ends in ((its.subject_boxes, its.object_boxes), (its.subject_labels, its.object_labels))
        )
        subjects = np.repeat(np.arange(pairs), 50)
        of_image = Found(
            Detections(boxes, labels, np.ones(2 * pairs)), subjects, subjects + pairs, its.predicates, scores_of(its)
        )
        rows.append({"width": 640, "height": 480, **of_image.row(GRAPH_NAMES)})
    part = pa.Table.from_pylist(rows, schema=DETECTIONS)
    with pq.ParquetWriter(path, DETECTIONS, compression="zstd") as file:
        for first in range(0, images, PART):
            ids = np.arange(first, first + PART)
            file.write_table(pa.table([ids, ids.astype(str), *part.columns[2:]], schema=DETECTIONS))


def read_graphs(path: Path, images: int) -> list[Row]:
    """Measures reading such a table for the figures of scene graphs, and the memory of this process."""
    none, boxes = np.zeros(0, np.int64), np.zeros((0, 4))
    relations = Relations(images, none, boxes, boxes, none, none, none)
    labelled = Detections(boxes, none, crowd=none > 0)
    truth = GroundTruth(
        GRAPH_NAMES.objects, GRAPH_NAMES.predicates, np.arange(images), tuple(map(str, range(images))),
        np.tile([640, 480], (images, 1)), relations, labelled, none, np.zeros((0, 2), np.int64),
    )  # fmt: skip
    seconds = cpu_seconds(lambda: read_detections(path, truth, counts=that_count))
    note = f"{images:,} images with 7,500 pairs"
    memory = Row("reading them: peak memory", "GB", peak_mib() * 2**20 / 1e9, note=note)
    return [Row("a table of scene graphs for Visual Genome's figures, CPU time", "s", seconds, note=note), memory]


def measure(given: Namespace) -> Iterator[Row]:
    yield from in_own_process(hico, given.images, given.plain_images, given.repeats, given.resamples)
    yield from in_own_process(scene_graphs, given.graphs, given.plain_images)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graphs.parquet"
        in_own_process(write_graphs, path, given.table)
        yield from in_own_process(read_graphs, path, given.table)


if __name__ == "__main__":
    sizes = {"images": HICO_IMAGES, "plain_images": 200, "graphs": 1000, "table": 2600, "repeats": 5, "resamples": 1000}
    run(parser(__doc__, **sizes), measure)
