"""Labels on detected boxes are judged by relations between given ones: a box counts as the given one that it overlaps."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from located_truth import located_agreement

from pipeline.training.sample import SampleRelation
from storage.tables import IMAGES


def image(image_id: int, boxes: list[tuple[str, float]], relations: list[tuple[int, str, int]] = []) -> dict[str, Any]:  # noqa: B006
    """An image with boxes of 10 x 10 pixels at these x coordinates."""
    return {
        "dataset": "d", "split": "train", "image_id": image_id, "uri": "a.jpg", "digest": "", "width": 100, "height": 20,
        "boxes": [
            {"category": name, "x": x, "y": 0, "w": 10, "h": 10, "crowd": False, "source_id": -1} for name, x in boxes
        ],
        "relations": [{"subject": s, "predicate": p, "object": o} for s, p, o in relations],
    }  # fmt: skip


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=IMAGES)


def label(subject: int, predicate: str, object_: int) -> SampleRelation:
    return SampleRelation(subject, object_, predicate, 1.0)


GIVEN = image(1, [("person", 0), ("horse", 40), ("person", 70)], [(0, "riding", 1), (2, "next to", 1)])


def test_labels_on_the_same_boxes_are_right_where_they_are_stated() -> None:
    kept = {1: (label(0, "ride", 1), label(1, "next to", 2), label(2, "ride", 1))}
    found = located_agreement(table(GIVEN), kept, table(GIVEN))
    assert (found.kept, found.truths, found.right) == (3, 2, 2)


def test_boxes_in_another_order_and_a_little_off_are_the_same_objects() -> None:
    detected = image(9, [("horse", 42), ("person", 1), ("person", 71)])
    kept = {9: (label(1, "ride", 0), label(2, "ride", 0))}
    found = located_agreement(table(detected), kept, table(GIVEN))
    assert (found.kept, found.truths, found.right) == (2, 2, 1)


def test_a_box_of_another_name_or_place_is_another_object() -> None:
    for boxes in ([("person", 0.0), ("cow", 40)], [("person", 0.0), ("horse", 46)]):
        found = located_agreement(table(image(9, boxes)), {9: (label(0, "ride", 1),)}, table(GIVEN))
        assert (found.kept, found.truths, found.right) == (1, 2, 0)


def test_of_two_boxes_on_one_object_the_nearer_is_it() -> None:
    detected = image(9, [("person", 2), ("person", 0), ("horse", 40)])
    for box, right in ((0, 0), (1, 1)):
        assert located_agreement(table(detected), {9: (label(box, "ride", 2),)}, table(GIVEN)).right == right


def test_a_picture_that_was_lost_costs_its_relations() -> None:
    found = located_agreement(table(), {}, table(GIVEN))
    assert (found.kept, found.truths, found.right) == (0, 2, 0)
