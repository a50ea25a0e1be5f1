"""Synthetic test sets of the size of HICO-DET, V-COCO and Open Images, with detections some of which are right.

A prediction is a true relation of its image with boxes moved a little, or a random one, so that matches, duplicates and wrong
labels all occur, as with a network.
"""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.relations import Integers, Relations
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import VcocoTruth

HICO_IMAGES, TRIPLETS, TRUTHS = 9658, 600, 3.5
"""Size of HICO-DET's test set, with the mean number of true interactions of an image."""
ROLES = {
    "hold": ["obj"], "stand": [], "sit": ["instr"], "ride": ["instr"], "walk": [], "look": ["obj"], "hit": ["instr", "obj"],
    "eat": ["obj", "instr"], "jump": ["instr"], "lay": ["instr"], "talk_on_phone": ["instr"], "carry": ["obj"],
    "throw": ["obj"], "catch": ["obj"], "cut": ["instr", "obj"], "run": [], "work_on_computer": ["instr"], "ski": ["instr"],
    "surf": ["instr"], "skateboard": ["instr"], "smile": [], "drink": ["instr"], "kick": ["obj"], "point": ["instr"],
    "read": ["obj"], "snowboard": ["instr"],
}  # fmt: skip


def synthetic(images: int = HICO_IMAGES, per_image: int = 100, seed: int = 0) -> tuple[Relations, Relations]:
    """Returns predictions and truth of `images` images.

    An image's predictions are of a tenth as many pairs of boxes. Half of the pairs lie near true ones, and half of their
    predictions have the right labels.
    """
    draws = np.random.default_rng(seed)
    names = np.stack([np.zeros(TRIPLETS, np.int64), np.arange(TRIPLETS) % 80, np.arange(TRIPLETS) % 117], axis=1)
    chances = 1.0 / (1 + np.arange(TRIPLETS))
    counts = 1 + draws.poisson(TRUTHS - 1, images)
    kinds = draws.choice(TRIPLETS, counts.sum(), p=chances / chances.sum())
    truth = _relations(images, np.repeat(np.arange(images), counts), _pairs(draws, counts.sum()), names[kinds], None)
    pairs = max(per_image // 10, 1)
    number = images * pairs
    of_truth = np.repeat(np.cumsum(counts) - counts, pairs) + draws.integers(0, np.repeat(counts, pairs))
    near = draws.random(number) < 0.5
    boxes = np.where(
        near[:, None, None],
        np.stack([truth.subject_boxes, truth.object_boxes], axis=1)[of_truth] + draws.normal(0, 8, (number, 2, 4)),
        _pairs(draws, number),
    )
    pair = np.sort(np.tile(np.arange(pairs), -(-per_image // pairs))[:per_image])
    pair = (np.arange(images)[:, None] * pairs + pair).reshape(-1)
    right = near[pair] & (draws.random(len(pair)) < 0.5)
    labels = np.where(right[:, None], truth.triplets[of_truth[pair]], names[draws.choice(TRIPLETS, len(pair))])
    scores = draws.random(len(pair)) * np.where(right, 1.0, 0.7)
    return _relations(images, pair // pairs, boxes[pair], labels, scores), truth


def vcoco_set(images: int = 4946, per_image: int = 100, seed: int = 0) -> tuple[VcocoDetections, VcocoTruth]:
    """Returns `per_image` persons of each image with all agent and role scores, and true persons, three on average."""
    draws = np.random.default_rng(seed)
    roles = tuple((action, role) for action, names in ROLES.items() for role in names)
    image = np.sort(draws.integers(0, images, 3 * images))
    labels = (draws.random((len(image), len(ROLES))) < 0.15).astype(np.int64)
    labels[draws.random(len(image)) < 0.1] = -1
    role_boxes = _boxes(draws, len(image) * len(roles)).reshape(-1, len(roles), 4)
    truth = VcocoTruth(images, tuple(ROLES), roles, image, _boxes(draws, len(image)), labels, role_boxes)
    does = labels[:, [list(ROLES).index(action) for action, _ in roles]] == 1
    truth.role_boxes[~does | (draws.random(does.shape) < 0.3)] = np.nan
    row, found_in = _drawn(draws, image, images, per_image)
    persons = _moved_or_random(draws, row, truth.boxes[row])
    role = draws.integers(0, len(roles), len(row))
    things = _moved_or_random(draws, row, truth.role_boxes[row, role])
    none = np.zeros(len(row), np.int64)
    found = Relations(images, found_in, persons, things, none, none, role, draws.random(len(row)))
    return VcocoDetections(found, found_in, persons, draws.random((len(row), len(ROLES)))), truth


def open_images_set(images: int = 5322, per_image: int = 100, seed: int = 0) -> tuple[Relations, Relations]:
    """Returns `per_image` relations of each image, and true relations, three on average."""
    draws = np.random.default_rng(seed)
    count, objects, predicates = 3 * images, 288, 30
    image = np.sort(draws.integers(0, images, count))
    kinds = [draws.geometric(p, count) % most for p, most in ((0.05, objects), (0.05, objects), (0.2, predicates))]
    truth = Relations(images, image, _boxes(draws, count), _boxes(draws, count), *kinds)
    row, image = _drawn(draws, truth.image, images, per_image)
    known, right = row >= 0, (row >= 0) & (draws.random(len(row)) < 0.5)
    boxes = [_moved_or_random(draws, row, of[row]) for of in (truth.subject_boxes, truth.object_boxes)]
    labels = [
        np.where(like, of[row], draws.integers(0, most, len(row)))
        for like, of, most in (
            (known, truth.subject_labels, objects), (known, truth.object_labels, objects), (right, truth.predicates, predicates)
        )
    ]  # fmt: skip
    return Relations(images, image, *boxes, *labels, draws.random(len(row)) * np.where(known, 1.0, 0.8)), truth


def _drawn(draws: np.random.Generator, image: np.ndarray, images: int, per_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `per_image` rows of each image's truth, -1 for half of them and where there is none, and the images."""
    start, end = np.searchsorted(image, np.arange(images)), np.searchsorted(image, np.arange(images), "right")
    place = np.repeat(np.arange(images), per_image)
    row = start[place] + (draws.random(len(place)) * (end - start)[place]).astype(np.int64)
    return np.where((end == start)[place] | (draws.random(len(place)) < 0.5), -1, row), place


def _boxes(draws: np.random.Generator, count: int) -> np.ndarray:
    corner = draws.uniform(0, 400, (count, 2))
    return np.concatenate([corner, corner + draws.uniform(30, 240, (count, 2))], axis=1)


def _moved_or_random(draws: np.random.Generator, row: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return np.where((row >= 0)[:, None], boxes + draws.normal(0, 8, boxes.shape), _boxes(draws, len(row)))


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
