"""Synthetic test sets of the size of V-COCO and Open Images, with detections some of which are right.

A prediction is a true relation of its image with boxes moved a little, or a random one, so that matches, duplicates and wrong
labels all occur, as with a network.
"""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.relations import Relations
from pipeline.evaluation.vcoco_detections import VcocoDetections
from pipeline.evaluation.vcoco_truth import VcocoTruth

ROLES = {
    "hold": ["obj"], "stand": [], "sit": ["instr"], "ride": ["instr"], "walk": [], "look": ["obj"], "hit": ["instr", "obj"],
    "eat": ["obj", "instr"], "jump": ["instr"], "lay": ["instr"], "talk_on_phone": ["instr"], "carry": ["obj"],
    "throw": ["obj"], "catch": ["obj"], "cut": ["instr", "obj"], "run": [], "work_on_computer": ["instr"], "ski": ["instr"],
    "surf": ["instr"], "skateboard": ["instr"], "smile": [], "drink": ["instr"], "kick": ["obj"], "point": ["instr"],
    "read": ["obj"], "snowboard": ["instr"],
}  # fmt: skip


def vcoco_set(images: int = 4946, per_image: int = 100, seed: int = 0) -> tuple[VcocoDetections, VcocoTruth]:
    """Returns `per_image` persons of each image with all agent and role scores, and true persons, three on average."""
    generator = np.random.default_rng(seed)
    roles = tuple((action, role) for action, names in ROLES.items() for role in names)
    image = np.sort(generator.integers(0, images, 3 * images))
    labels = (generator.random((len(image), len(ROLES))) < 0.15).astype(np.int64)
    labels[generator.random(len(image)) < 0.1] = -1
    truth = VcocoTruth(
        images,
        tuple(ROLES),
        roles,
        image,
        _boxes(generator, len(image)),
        labels,
        _boxes(generator, len(image) * len(roles)).reshape(-1, len(roles), 4),
    )
    does = labels[:, [list(ROLES).index(action) for action, _ in roles]] == 1
    truth.role_boxes[~does | (generator.random(does.shape) < 0.3)] = np.nan
    row, found_in = _drawn(generator, image, images, per_image)
    persons = np.where((row >= 0)[:, None], _moved(generator, truth.boxes[row]), _boxes(generator, len(row)))
    role = generator.integers(0, len(roles), len(row))
    things = np.where((row >= 0)[:, None], _moved(generator, truth.role_boxes[row, role]), _boxes(generator, len(row)))
    none = np.zeros(len(row), np.int64)
    found = Relations(images, found_in, persons, things, none, none, role, generator.random(len(row)))
    return VcocoDetections(found, found_in, persons, generator.random((len(row), len(ROLES)))), truth


def open_images_set(
    images: int = 5322, per_image: int = 100, seed: int = 0, objects: int = 288, predicates: int = 30
) -> tuple[Relations, Relations]:
    """Returns `per_image` relations of each image, and true relations, three on average."""
    generator = np.random.default_rng(seed)
    count = 3 * images
    truth = Relations(
        images,
        np.sort(generator.integers(0, images, count)),
        _boxes(generator, count),
        _boxes(generator, count),
        generator.geometric(0.05, count) % objects,
        generator.geometric(0.05, count) % objects,
        generator.geometric(0.2, count) % predicates,
    )
    row, image = _drawn(generator, truth.image, images, per_image)
    known = row >= 0
    predicted = Relations(
        images,
        image,
        np.where(known[:, None], _moved(generator, truth.subject_boxes[row]), _boxes(generator, len(row))),
        np.where(known[:, None], _moved(generator, truth.object_boxes[row]), _boxes(generator, len(row))),
        np.where(known, truth.subject_labels[row], generator.integers(0, objects, len(row))),
        np.where(known, truth.object_labels[row], generator.integers(0, objects, len(row))),
        np.where(
            known & (generator.random(len(row)) < 0.5),
            truth.predicates[row],
            generator.integers(0, predicates, len(row)),
        ),
        generator.random(len(row)) * np.where(known, 1.0, 0.8),
    )
    return predicted, truth


def _drawn(
    generator: np.random.Generator, image: np.ndarray, images: int, per_image: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `per_image` rows of each image's truth, -1 for half of them and where there is none, and the images."""
    start, end = np.searchsorted(image, np.arange(images)), np.searchsorted(image, np.arange(images), "right")
    place = np.repeat(np.arange(images), per_image)
    row = start[place] + (generator.random(len(place)) * (end - start)[place]).astype(np.int64)
    return np.where((end == start)[place] | (generator.random(len(place)) < 0.5), -1, row), place


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corner = generator.uniform(0, 400, (count, 2))
    return np.concatenate([corner, corner + generator.uniform(30, 240, (count, 2))], axis=1)


def _moved(generator: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    return boxes + generator.normal(0, 8, boxes.shape)
