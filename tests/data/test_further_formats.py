"""Tests readers of sets of boxes and scene graphs: LVIS, COCO panoptic, relations in COCO, PSG, GQA, Open Images."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.record import AnnotatedRelation, Box
from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import DataSource, annotation_source
from pipeline.data.datasets.validate import RELATION_REASONS
from pipeline.evaluation.ground_truth import GroundTruth
from tests.data.test_benchmark_formats import BOXES, CLASSES, annotations, opened, reasons
from tests.data.toy_sets import read_all, save_json, save_picture, text

SIZE = {"width": 100, "height": 80}
IMAGE = {"id": 7, "file_name": "a.jpg", **SIZE}
CATEGORIES = [{"id": 0, "name": "person"}, {"id": 5, "name": "hat"}]
ANNOTATIONS = [
    {"id": 0, "image_id": 7, "category_id": 0, "bbox": [1, 2, 30, 40]},
    {"id": 3, "image_id": 7, "category_id": 5, "bbox": [5, 2, 9, 8]},
]
COCO = {"images": [IMAGE], "annotations": ANNOTATIONS, "categories": CATEGORIES}


def relation(subject: Any, predicate: Any, target: Any, image: Any = 7) -> dict[str, Any]:
    return {"image_id": image, "subject_id": subject, "predicate_id": predicate, "object_id": target}


def test_coco_with_relations_between_annotations(tmp_path):
    stated = [
        relation(0, 4, 3), relation(0, 9, 3), relation(0, 4, 8), relation(0, 4, 3, image=8), relation(0, 4, 3, None),
    ]  # fmt: skip
    content = {"rel_annotations": stated, "rel_categories": [{"id": 4, "name": "wears"}], **COCO}
    reader = opened("coco", save_json(tmp_path / "a.json", content))
    (record,) = annotations(reader)
    assert record.relations == (AnnotatedRelation(0, "wears", 1),)
    assert reasons(record) == ["unknown verb id", "relation without box"]
    assert reader.predicates == ("wears",)
    assert [reject.reason for reject in reader.rejects] == ["relations of unknown image"] * 2


def test_a_box_without_a_usable_id_has_no_relations(tmp_path):
    boxes = [*ANNOTATIONS, *({"id": id, "image_id": 7, "category_id": 5, "bbox": [5, 2, 9, 8]} for id in (None, -4))]
    stated = {
        "rel_annotations": [relation(0, 4, None), relation(-4, 4, 3)],
        "rel_categories": [{"id": 4, "name": "on"}],
    }
    (record,) = annotations(opened("coco", save_json(tmp_path / "a.json", COCO | {"annotations": boxes} | stated)))
    assert len(record.boxes) == 4 and record.relations == ()
    assert reasons(record) == ["relation without box"] * 2


def test_a_relation_of_an_id_that_several_boxes_have_is_rejected(tmp_path):
    boxes = [*ANNOTATIONS, ANNOTATIONS[0], ANNOTATIONS[1] | {"bbox": [50, 2, 9, 8]}, ANNOTATIONS[1] | {"id": 4}]
    stated = {
        "rel_annotations": [relation(0, 1, 3), relation(3, 1, 0), relation(0, 1, 4)],
        "rel_categories": [{"id": 1, "name": "on"}],
    }
    (record,) = annotations(opened("coco", save_json(tmp_path / "a.json", COCO | {"annotations": boxes} | stated)))
    assert [record.boxes[each.object].source_id for each in record.relations] == [4]
    assert reasons(record) == ["relation of an id of several boxes"] * 2 and set(reasons(record)) <= RELATION_REASONS


def test_relations_in_the_file_and_beside_it_are_joined(tmp_path):
    content = COCO | {"rel_annotations": [relation(0, 4, 3)], "rel_categories": [{"id": 4, "name": "wears"}]}
    pair = {"subject": "person", "subject_bbox": [1, 2, 30, 40], "predicate": "holds", "object": "hat"}
    pairs = [{"image_id": 7, "relations": [pair | {"object_bbox": [5, 2, 9, 8]}]}]
    path = save_json(tmp_path / "a.json", content)
    (record,) = annotations(opened("coco", path, relations=save_json(tmp_path / "pairs.json", pairs)))
    assert [(each.predicate, each.subject, each.object) for each in record.relations] == [
        ("wears", 0, 1),
        ("holds", 0, 1),
    ]


def test_lvis_names_images_by_their_address(tmp_path):
    save_picture(tmp_path / "val2017/000000000007.jpg")
    content = {
        "images": [
            {"id": 7, "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg", **SIZE},
            {"id": 8, **SIZE},
        ],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 30, 40], "segmentation": []}],
        "categories": [{"id": 2, "name": "alarm_clock", "synset": "alarm_clock.n.01", "frequency": "f"}],
    }
    path = save_json(tmp_path / "lvis_v1_val.json", content)
    reader, (record,) = read_all(DataSource(name="lvis", format="lvis", images=tmp_path, annotations=path))
    assert record.boxes == (Box("alarm clock", 1, 2, 30, 40, False, 1),) and record.path.is_file()
    assert [(reject.image_id, reject.reason) for reject in reader.rejects] == [(8, "file name not usable")]


def test_objects365_v1_lies_in_one_folder(tmp_path):
    content = COCO | {"images": [IMAGE | {"file_name": "obj365_val_000000000007.jpg"}]}
    (record,) = annotations(opened("objects365", save_json(tmp_path / "objects365_val.json", content)))
    assert record.path.name == "obj365_val_000000000007.jpg" and len(record.boxes) == 2


def test_coco_panoptic_has_a_box_for_each_segment(tmp_path):
    segments = [
        {"id": 901, "category_id": 0, "bbox": [1, 2, 30, 40], "area": 9, "iscrowd": 0},
        {"id": 902, "category_id": 187, "bbox": [0, 0, 100, 20], "area": 9, "iscrowd": 1},
    ]
    content = {
        "images": [IMAGE],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}, {"image_id": 7}],
        "categories": [CATEGORIES[0], {"id": 187, "name": "sky-other-merged", "isthing": 0}],
    }
    reader = opened("coco_panoptic", save_json(tmp_path / "panoptic_val2017.json", content))
    (record,) = annotations(reader)
    assert record.boxes == (
        Box("person", 1, 2, 30, 40, False, 901),
        Box("sky-other-merged", 0, 0, 100, 20, True, 902),
    )
    assert reasons(record) == ["unknown category id"]


def psg(image: str, relations: Any, **more: Any) -> dict[str, Any]:
    boxes = [{"bbox": [1, 2, 31, 42], "bbox_mode": 0, "category_id": 0}, {"bbox": [0, 0, 100, 20], "category_id": 1}]
    entry = {"image_id": image, "file_name": f"val2017/{image}.jpg", **SIZE, "annotations": boxes}
    return entry | {"relations": relations, **more}


def psg_file(folder: Path, *data: Any) -> Path:
    lists = {"thing_classes": ["person"], "stuff_classes": ["sky-other-merged"], "predicate_classes": ["over", "on"]}
    return save_json(folder / "psg.json", {"data": data, **lists, "test_image_ids": ["7", "8"]})


def test_psg_relates_segments_by_their_places(tmp_path):
    faulty = [[1, 0, 0], [1, 0, 0], [1, 0, 2], [1, 2, 0], [1, 0]]
    path = psg_file(
        tmp_path, psg("7", faulty), psg("5", [[0, 1, 1]]), psg("8", [], annotations=[{"bbox": [0, 0, 1, 1]}])
    )
    truth = GroundTruth.open("psg", path)
    assert truth.objects == ("person", "sky-other-merged") and truth.predicates == ("over", "on")
    assert truth.uris == ("val2017/7.jpg", "val2017/8.jpg") and truth.sizes.tolist() == [[100, 80]] * 2
    assert truth.relations.triplets.tolist() == [[1, 0, 0]]
    assert truth.relations.object_boxes.tolist() == [[1, 2, 31, 42]]
    expected = [
        "unknown verb id", "relation without box", "unknown verb id", "relation duplicate", "unknown category id",
    ]  # fmt: skip
    assert [reject.reason for reject in truth.rejects] == expected
    train = annotation_source("psg", path, {}).model_copy(update={"split": "train"})
    (record,) = annotations(open_source(train, with_images=False))
    assert record.image_id == 5 and record.relations == (AnnotatedRelation(0, "on", 1),)
    with pytest.raises(AnnotationError, match="'val' is not a split of PSG"):
        annotations(open_source(train.model_copy(update={"split": "val"}), with_images=False))


def test_gqa_relates_objects_by_their_ids(tmp_path):
    sides = {"x": 1, "y": 2, "w": 30, "h": 40}
    objects = {
        "11": {
            "name": "man",
            **sides,
            "relations": [{"name": "wearing", "object": "12"}, {"name": "on", "object": "99"}],
        },
        "12": {"name": "hat", **sides, "relations": [], "attributes": ["red"]},
        "13": {"name": "tree", **sides, "w": None, "relations": [{"name": "on", "object": "12"}]},
    }
    content = {"2407890": {**SIZE, "objects": objects}, "n1": {"objects": {}}, "3": {**SIZE, "objects": 5}}
    reader = opened("gqa", save_json(tmp_path / "train_sceneGraphs.json", content))
    first, second = annotations(reader)
    assert first.path.name == "2407890.jpg" and (first.width, first.height) == (100, 80)
    assert first.boxes == (Box("man", 1, 2, 30, 40, False, 11), Box("hat", 1, 2, 30, 40, False, 12))
    assert first.relations == (AnnotatedRelation(0, "wearing", 1),)
    assert reasons(first) == ["box malformed", "relation without box", "relation without box"]
    assert reasons(second) == ["unknown category id"]
    assert [reject.reason for reject in reader.rejects] == ["image id not an integer"]


def test_open_images_boxes_take_sizes_from_the_images(tmp_path):
    for name in ("fe00000000000001", "00000000000000aa"):
        save_picture(tmp_path / f"{name}.jpg", 200, 100)
    files = {"annotations": text(tmp_path / "b.csv", BOXES), "classes": text(tmp_path / "classes.csv", CLASSES)}
    _, records = read_all(DataSource(name="oi", format="open_images_boxes", images=tmp_path, **files))
    assert [(each.width, each.height, each.relations) for each in records] == [(200, 100, ())] * 2
    assert records[0].boxes == (Box("Coffee cup", 100, 50, 50, 50), Box("Man", 0, 0, 100, 50))
