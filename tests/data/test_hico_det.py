"""Tests HICO-DET in the authors' layout, and the name lists that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.names import COCO_CATEGORIES, read_names
from pipeline.data.datasets.record import AnnotatedRelation, Box
from pipeline.data.datasets.source import DataSource
from tests.data.toy_sets import read_all, save_json, save_picture

VERBS = ["adjust", "no_interaction", "sit_on"]


def hico(folder: Path, entries: Any, verbs: Any = VERBS, **more: Any) -> DataSource:
    images = folder / "images"
    for number in (1, 2):
        save_picture(images / f"HICO_test2015_{number:08}.jpg")
    return DataSource(
        name="hico",
        format="hico_det",
        split="test",
        images=images,
        annotations=save_json(folder / "test_hico.json", entries),
        verbs=save_json(folder / "verbs.json", verbs),
        **more,
    )


def entry(number: Any, boxes: Any, pairs: Any) -> dict[str, Any]:
    name = f"HICO_test2015_{number:08}.jpg" if isinstance(number, int) else "x.jpg"
    return {"file_name": name, "img_id": number, "annotations": boxes, "hoi_annotation": pairs}


def item(category: Any, bbox: Any) -> dict[str, Any]:
    return {"bbox": bbox, "category_id": category}


def hoi(subject: int, verb: int, target: int) -> dict[str, Any]:
    return {"subject_id": subject, "object_id": target, "category_id": verb, "hoi_category_id": 5}


def test_boxes_and_pairs(tmp_path: Path) -> None:
    boxes = [item(1, [10, 10, 50, 70]), item(90, [1, 2, 4, 8])]
    _, records = read_all(hico(tmp_path, [entry(2, boxes, [hoi(0, 3, 1), hoi(0, 2, 1)]), entry(1, [], [])]))
    assert [record.image_id for record in records] == [2, 1]
    assert records[0].boxes == (Box("person", 10, 10, 40, 60, False, 0), Box("toothbrush", 1, 2, 3, 6, False, 1))
    assert records[0].relations == (AnnotatedRelation(0, "sit on", 1), AnnotatedRelation(0, "no interaction", 1))
    assert records[0].split == "test"


def test_pairs_follow_the_boxes_that_stay(tmp_path: Path) -> None:
    boxes = [item(12, [0, 0, 5, 5]), item(1, [10, 10, 50, 70]), item(1, "nowhere"), item(18, [1, 2, 4, 8])]
    pairs = [hoi(1, 1, 3), hoi(0, 1, 3), hoi(1, 1, 2), hoi(1, 99, 3), hoi(1, 1, -1), hoi(1, 1, 40), "nonsense"]
    _, (record,) = read_all(hico(tmp_path, [entry(1, boxes, pairs)]))
    assert [box.category for box in record.boxes] == ["person", "dog"]
    assert record.relations == (AnnotatedRelation(0, "adjust", 1),)
    assert [reject.reason for reject in record.rejects] == [
        "unknown category id",
        "box malformed",
        "relation without box",
        "relation without box",
        "unknown verb id",
        "relation without box",
        "relation without box",
        "unknown verb id",
    ]


def test_names_may_come_in_three_layouts(tmp_path: Path) -> None:
    table = tmp_path / "table.txt"
    table.write_text("id   verb\n----------\n001  adjust        \n002  no_interaction\n")
    assert read_names(table) == {1: "adjust", 2: "no interaction"}
    assert read_names(save_json(tmp_path / "a.json", ["adjust", "ride"])) == {1: "adjust", 2: "ride"}
    assert read_names(save_json(tmp_path / "b.json", {"person": 1, "dog": 18})) == {1: "person", 18: "dog"}


@pytest.mark.parametrize("content", ["", "[1, 2]", "{broken", "no ids here"])
def test_names_that_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=r"names\.txt: no names found; expected names by id"):
        read_names(path)


def test_own_object_names(tmp_path: Path) -> None:
    objects = save_json(tmp_path / "objects.json", ["robot"])
    source = hico(tmp_path, [entry(1, [item(1, [0, 0, 9, 9]), item(2, [0, 0, 9, 9])], [])], objects=objects)
    _, (record,) = read_all(source)
    assert [box.category for box in record.boxes] == ["robot"]


def test_coco_names() -> None:
    assert len(COCO_CATEGORIES) == 80
    assert [COCO_CATEGORIES[i] for i in (1, 13, 62, 72, 90)] == ["person", "stop sign", "chair", "tv", "toothbrush"]


def test_real_name_lists(shared: Path) -> None:
    verbs = read_names(shared / "data" / "hico_det" / "hico_list_vb.txt")
    assert len(verbs) == 117 and verbs[1] == "adjust" and "no interaction" in verbs.values()
