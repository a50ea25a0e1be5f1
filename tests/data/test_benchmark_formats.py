"""Tests the readers of public benchmarks: HICO-DET and V-COCO in each of their layouts, VRD, Open Images, VG150."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.names import COCO_CATEGORIES, read_names
from pipeline.data.datasets.open_images import id_of
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.data.datasets.record_index import open_index, open_source
from pipeline.data.datasets.source import DataSource, annotation_source
from pipeline.data.datasets.validate import RELATION_REASONS
from pipeline.evaluation.ground_truth import GroundTruth
from storage.errors import FatalError
from tests.data.toy_sets import read_all, save_json, save_picture, text

HICO: dict[str, Any] = {
    "objects": ["airplane", "dining_table", "person"],
    "verbs": ["adjust", "no_interaction"],
    "filenames": ["HICO_test2015_00000007.jpg", "HICO_test2015_00000009.jpg"],
    "size": [[100, 80], [50, 40]],
    "annotation": [
        {
            "boxes_h": [[1, 2, 11, 22], [1, 2, 11, 22]], "boxes_o": [[5, 5, 9, 9], [5, 5, 9, 8]], "hoi": [0, 1],
            "object": [1, 1], "verb": [0, 1],
        },
        {"boxes_h": [], "boxes_o": [], "hoi": [], "object": [], "verb": []},
    ],
}  # fmt: skip
PEOPLE = {"id": 1, "name": "person"}, {"id": 49, "name": "knife"}
INSTANCES: dict[str, Any] = {
    "categories": PEOPLE,
    "images": [
        {"id": 5, "file_name": "a.jpg", "width": 100, "height": 80},
        {"id": 3, "file_name": "b.jpg"},
        {"id": 9, "file_name": "c.jpg"},
    ],
    "annotations": [
        {"id": 11, "image_id": 5, "category_id": 1, "bbox": [1, 1, 10, 20]},
        {"id": 12, "image_id": 5, "category_id": 49, "bbox": [4, 4, 3, 3]},
        {"id": 13, "image_id": 3, "category_id": 1, "bbox": [0, 0, 9, 9]},
        {"id": 14, "image_id": 9, "category_id": 1, "bbox": [0, 0, 9, 9]},
    ],
}


def action(name: str, roles: list[str], rows: list[tuple[int, int, int, list[int]]]) -> dict[str, Any]:
    """An action of V-COCO; rows are (person, image, label, objects by role)."""
    people = [row[0] for row in rows]
    return {
        "action_name": name, "role_name": ["agent", *roles], "ann_id": people, "image_id": [row[1] for row in rows],
        "label": [row[2] for row in rows],
        "role_object_id": people + [row[3][k] for k in range(len(roles)) for row in rows],
    }  # fmt: skip


VCOCO = [
    action("cut", ["instr", "obj"], [(11, 5, 1, [12, 0]), (13, 3, 0, [0, 0])]),
    action("walk", [], [(11, 5, 0, []), (13, 3, 1, [])]),
]
PERSON, HAT = {"category": 0, "bbox": [1, 21, 2, 12]}, {"category": 1, "bbox": [5, 9, 6, 8]}
VRD = {
    "31_a_b.jpg": [
        {"predicate": 1, "subject": PERSON, "object": HAT},
        {"predicate": 0, "subject": HAT, "object": PERSON},
    ],
    "47_c_o.jpg": [],
}
RELATIONS = """ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel
fe00000000000001,/m/1,/m/2,0.1,0.3,0.2,0.4,0.5,0.75,0.5,1.0,holds
fe00000000000001,/m/2,/m/wood,0.5,0.75,0.5,1.0,0.5,0.75,0.5,1.0,is
0000000000000002,/m/1,/m/2,0.1,0.3,0.2,0.4,0.5,0.75,0.5,1.0,at
"""
BOXES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded
fe00000000000001,x,/m/2,1,0.5,0.75,0.5,1.0,0
fe00000000000001,x,/m/1,1,0.0,0.5,0.0,0.5,0
00000000000000aa,x,/m/1,1,0.0,0.5,0.0,0.5,0
"""
CLASSES = "/m/1,Man\n/m/2,Coffee cup\n"


def annotations(reader: Reader) -> list[ImageRecord]:
    return list(reader.annotations())


def opened(format_name: str, path: Path, **files: Path) -> Reader:
    return open_source(annotation_source(format_name, path, files), with_images=False)


def reasons(record: ImageRecord) -> list[str]:
    return [reject.reason for reject in record.rejects]


def vrd(folder: Path, content: Any) -> Reader:
    objects, predicates = (
        save_json(folder / "objects.json", ["person", "hat"]),
        save_json(folder / "p.json", ["on", "wear"]),
    )
    return opened("vrd", save_json(folder / "a.json", content), objects=objects, predicates=predicates)


def open_images(folder: Path, relations: str = RELATIONS, **more: str) -> Reader:
    files = {"classes": text(folder / "classes.csv", CLASSES)}
    files |= {name: text(folder / f"{name}.csv", content) for name, content in more.items()}
    return opened("open_images", text(folder / "vrd.csv", relations), **files)


def vcoco(folder: Path, actions: Any = VCOCO, instances: Any = INSTANCES) -> Reader:
    named = save_json(folder / "instances.json", instances)
    return opened("vcoco", save_json(folder / "vcoco.json", actions), instances=named)


def test_pairs_of_hico_det_share_equal_boxes(tmp_path):
    reader = opened("hico_instances", save_json(tmp_path / "instances.json", HICO))
    first, second = annotations(reader)
    assert (first.image_id, first.width, first.height, second.image_id) == (7, 100, 80, 9)
    assert first.boxes == (
        Box("person", 1, 2, 10, 20), Box("dining table", 5, 5, 4, 4), Box("dining table", 5, 5, 4, 3),
    )  # fmt: skip
    assert first.relations == (AnnotatedRelation(0, "adjust", 1), AnnotatedRelation(0, "no interaction", 2))
    assert second.boxes == ()
    assert reader.objects == ("airplane", "dining table", "person")
    assert reader.predicates == ("adjust", "no interaction")


@pytest.mark.parametrize("changed, reason", [
    ({"verb": [0, 7]}, "unknown verb id"), ({"object": [1, -1]}, "unknown category id"),
    ({"boxes_o": [[5, 5, 9, 9], [5, 5]]}, "relation without box"), ({"object": [1]}, "relations malformed"),
])  # fmt: skip
def test_bad_pairs_are_quarantined(tmp_path, changed, reason):
    content = {**HICO, "annotation": [{**HICO["annotation"][0], **changed}, HICO["annotation"][1]]}
    first, _ = annotations(opened("hico_instances", save_json(tmp_path / "instances.json", content)))
    assert reasons(first) == [reason]
    assert len(first.relations) == (0 if reason == "relations malformed" else 1)


@pytest.mark.parametrize("content, message", [
    ([], r"instances\.json: is not a JSON object; expected HICO-DET"),
    ({**HICO, "filenames": HICO["filenames"][:1]}, "lists 1 images for 2 annotations"),
    ({name: value for name, value in HICO.items() if name != "verbs"}, "has no list 'verbs'"),
    ({**HICO, "objects": [1]}, "'objects' is not a list of names"),
])  # fmt: skip
def test_a_pair_file_that_does_not_fit_is_named(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        annotations(opened("hico_instances", save_json(tmp_path / "instances.json", content)))


def test_v_coco_as_pairs_keeps_its_actions_and_reads_as_predicates(tmp_path):
    content = {
        "annotations": [
            {"boxes_h": [[1, 1, 9, 9]], "boxes_o": [[2, 2, 5, 5]], "objects": [2], "actions": [1], "file_name": "x.jpg"}
        ],
        "classes": ["hold obj", "sit instr"], "objects": ["background", "person", "knife"], "images": [368],
    }  # fmt: skip
    path = save_json(tmp_path / "instances.json", content)
    reader = opened("vcoco_instances", path)
    (record,) = annotations(reader)
    assert (record.image_id, record.relations) == (368, (AnnotatedRelation(0, "sit instr", 1),))
    assert reader.objects == ("person", "knife") and record.boxes[1].category == "knife"
    save_picture(tmp_path / "x.jpg")
    source = DataSource(name="v", format="vcoco_instances", images=tmp_path, annotations=path)
    assert read_all(source)[1][0].relations == (AnnotatedRelation(0, "sit on", 1),)


def test_v_coco_as_published(tmp_path):
    reader = vcoco(tmp_path)
    second, first = annotations(reader)
    assert [record.image_id for record in (second, first)] == [3, 5]  # image 9 is not V-COCO's
    assert first.boxes == (Box("person", 1, 1, 10, 20, False, 11), Box("knife", 4, 4, 3, 3, False, 12))
    assert first.relations == (AnnotatedRelation(0, "cut instr", 1), AnnotatedRelation(0, "cut obj", -1))
    assert second.relations == (AnnotatedRelation(0, "walk", -1),)
    assert reader.predicates == ("cut instr", "cut obj", "walk") and reader.objects == ("person", "knife")
    names = ("ann_id", "image_id", "label", "role_object_id")
    nested = [each | {name: [[item] for item in each[name]] for name in names} for each in VCOCO]
    assert annotations(vcoco(tmp_path, nested)) == [second, first]


def test_v_coco_is_read_for_trainings_without_what_has_no_object(tmp_path):
    vcoco(tmp_path)
    for name in "ab":
        save_picture(tmp_path / f"{name}.jpg")
    source = DataSource(
        name="v", format="vcoco", images=tmp_path, annotations=tmp_path / "vcoco.json",
        instances=tmp_path / "instances.json",
    )  # fmt: skip
    _, (second, first) = read_all(source)
    assert first.relations == (AnnotatedRelation(0, "cut with", 1),) and second.relations == ()
    assert reasons(first) == reasons(second) == ["relation without object"]


def test_actions_that_name_no_box_or_image_are_quarantined(tmp_path):
    rows = [(11, 5, 1, [99]), (98, 5, 1, [12]), (0, 5, 1, [12]), (1, 77, 1, [1]), ("x", 5, 1, [0])]
    reader = vcoco(tmp_path, [action("hold", ["obj"], rows)])  # type: ignore[arg-type]
    (record,) = annotations(reader)
    assert reasons(record) == ["relation without box"] * 3
    assert [(reject.image_id, reject.reason) for reject in reader.rejects] == [
        (5, "relation malformed"),
        (77, "relations of unknown image"),
    ]


def test_actions_of_unequal_lists_are_refused(tmp_path):
    broken = {**VCOCO[0], "role_object_id": [11, 13, 12]}
    with pytest.raises(
        AnnotationError, match=r"action 0 \(cut\): 2 people, 2 images, 2 labels and 3 objects of 3 roles"
    ):
        annotations(vcoco(tmp_path, [broken]))


def test_vrd(tmp_path):
    reader = vrd(tmp_path, VRD)
    first, second = annotations(reader)
    assert (first.image_id, second.image_id, second.boxes) == (31, 47, ())
    assert first.boxes == (Box("person", 2, 1, 10, 20), Box("hat", 6, 5, 2, 4))
    assert first.relations == (AnnotatedRelation(0, "wear", 1), AnnotatedRelation(1, "on", 0))
    assert reader.predicates == ("on", "wear")


def test_bad_relations_of_vrd_are_quarantined(tmp_path):
    good = VRD["31_a_b.jpg"][0]
    bad = [
        {**good, "predicate": 2}, {**good, "object": {"category": 2, "bbox": [1, 2, 3, 4]}}, {**good, "subject": {}},
        4,
    ]  # fmt: skip
    reader = vrd(tmp_path, {"1_x.jpg": [*bad, good], "2_x.jpg": 5, "x.jpg": [], "../3_x.jpg": [], "1_y.jpg": []})
    first, second = annotations(reader)
    assert reasons(first) == ["unknown verb id", "unknown category id", "relation without box", "unknown verb id"]
    assert len(first.relations) == 1 and reasons(second) == ["relations malformed"]
    assert [reject.reason for reject in reader.rejects] == [
        "image id not an integer", "file name not usable", "duplicate image id",
    ]  # fmt: skip


def test_ids_of_open_images_are_reversible_and_fit_64_bits():
    for name in ("0000000000000000", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff", "fe00000000000001"):
        image_id = id_of(name)
        assert image_id is not None and -(2**63) <= image_id < 2**63 and f"{image_id % 2**64:016x}" == name
    assert id_of("ffffffffffffffff") == -1
    assert id_of("FE00000000000001") is None and id_of("12") is None


def test_open_images_in_shares_of_the_image(tmp_path):
    reader = open_images(tmp_path, boxes=BOXES)
    first, second = annotations(reader)
    assert (first.image_id % 2**64, first.path.name) == (0xFE00000000000001, "fe00000000000001.jpg")
    assert (first.width, first.height) == (1, 1)
    assert [box.category for box in first.boxes] == ["Man", "Coffee cup", "Man"]
    assert first.boxes[1] == Box("Coffee cup", 0.5, 0.5, 0.25, 0.5)
    assert first.relations == (AnnotatedRelation(0, "holds", 1),)
    assert reasons(first) == ["attribute, not a relation"]
    assert second.relations == (AnnotatedRelation(0, "at", 1),)
    assert reader.predicates == ("at", "holds")
    assert [(reject.reason, reject.value) for reject in reader.rejects] == [
        ("boxes of images without relations", "1 images")
    ]


def test_open_images_in_pixels_by_a_file_or_by_the_images(tmp_path):
    sizes = "ImageID,Width,Height\nfe00000000000001,200,100\n0000000000000002,x,1\n"
    reader = open_images(tmp_path, image_data=sizes)
    first, second = annotations(reader)
    assert (first.width, first.height) == (200, 100) and first.boxes[1] == Box("Coffee cup", 100, 50, 50, 50)
    assert (second.width, second.height) == (1, 1)
    assert [(reject.image_id, reject.reason) for reject in reader.rejects] == [(2, "image size not usable")]
    save_picture(tmp_path / "fe00000000000001.jpg", 400, 200)
    source = DataSource(
        name="o", format="open_images", images=tmp_path, annotations=tmp_path / "vrd.csv",
        classes=tmp_path / "classes.csv",
    )  # fmt: skip
    first, second = read_all(source)[1]
    assert (first.width, first.height) == (400, 200) and first.boxes[1] == Box("Coffee cup", 200, 100, 100, 100)
    assert second.width is None


def test_boxes_of_open_images_follow_images_that_come_or_change_after_the_index_is_built(tmp_path):
    source = open_images(tmp_path).source
    for name, size in (
        ("fe00000000000001", (400, 200)),
        ("0000000000000002", (80, 60)),
        ("fe00000000000001", (200, 100)),
    ):
        save_picture(tmp_path / f"{name}.jpg", *size)
        records = list(open_index(source, tmp_path / "indexes"))
        (found,) = (record for record in records if record.path.name == f"{name}.jpg")
        assert (found.width, found.height) == size and max(box.x + box.w for box in found.boxes) > 40


def test_groups_of_open_images_are_crowds(tmp_path):
    head, *rows = BOXES.splitlines()
    marked = [f"{head},IsGroupOf", *(f"{row},1" for row in rows)]
    first, _ = annotations(open_images(tmp_path, boxes="\n".join(marked)))
    assert [box.crowd for box in first.boxes] == [False, False, True], "a box of a relation is one object"


def test_bad_rows_of_open_images(tmp_path):
    head, row, *_ = RELATIONS.splitlines()
    bad = row.replace("0.1", "left"), row.replace("/m/2", "/m/3"), row.replace("fe00000000000001", "17")
    reader = open_images(tmp_path, "\n".join([head, *bad]))
    (record,) = annotations(reader)
    assert reasons(record) == ["relation without box", "relation of unknown category"]
    assert [reject.reason for reject in reader.rejects] == ["image id not 16 hex digits"]
    with pytest.raises(AnnotationError, match=r"line 2 has 5 of 12 values, so the file is damaged or incomplete"):
        annotations(open_images(tmp_path, head + "\n" + ",".join(row.split(",")[:5])))
    with pytest.raises(AnnotationError, match=r"has no column LabelName2; expected Open Images relations"):
        annotations(open_images(tmp_path, RELATIONS.replace("LabelName2", "Label2")))


@pytest.fixture
def vg150(tmp_path: Path) -> DataSource:
    """Three training images, the second without relations, and one for tests; image 1592 is in image_data only."""
    h5py = pytest.importorskip("h5py")
    columns: dict[str, Any] = {
        "boxes_1024": [[100, 50, 40, 20], [512, 256, 512, 256], [10, 10, 20, 20], [30, 30, 4, 4], [30, 30, 4, 4]],
        "labels": [[1], [2], [1], [2], [9]], "relationships": [[0, 1], [1, 0], [3, 4]], "predicates": [[1], [2], [1]],
        "split": [0, 0, 0, 2], "img_to_first_box": [0, 2, -1, 3], "img_to_last_box": [1, 2, -1, 4],
        "img_to_first_rel": [0, -1, -1, 2], "img_to_last_rel": [1, -1, -1, 2],
    }  # fmt: skip
    with h5py.File(tmp_path / "VG-SGG.h5", "w") as file:
        for name, values in columns.items():
            file[name] = values
    names = {"idx_to_label": {"1": "man", "2": "hat"}, "idx_to_predicate": {"1": "wearing", "2": "on"}}
    sizes = [{"image_id": i, "width": w, "height": h} for i, w, h in ((4, 512, 256), (1592, 9, 9), (5, 100, 200))]
    sizes += [{"image_id": i, "width": 100, "height": 100} for i in (6, 7)]
    return DataSource(
        name="vg", format="vg150", split="trainval", images=tmp_path, annotations=tmp_path / "VG-SGG.h5",
        dictionary=save_json(tmp_path / "dicts.json", names), image_data=save_json(tmp_path / "image_data.json", sizes),
    )  # fmt: skip


def test_vg150(vg150, monkeypatch):
    reader = open_source(vg150, with_images=False)
    first, second, third = annotations(reader)
    assert [record.image_id for record in (first, second, third)] == [4, 5, 6]
    assert first.boxes == (Box("man", 40, 20, 20, 10), Box("hat", 128, 64, 256, 128))
    assert first.relations == (AnnotatedRelation(0, "wearing", 1), AnnotatedRelation(1, "on", 0))
    assert second.relations == () and third.boxes == ()
    assert (reader.objects, reader.predicates) == (("man", "hat"), ("wearing", "on"))
    (test,) = annotations(open_source(vg150.model_copy(update={"split": "test"}), with_images=False))
    assert vg150.annotations and vg150.dictionary and vg150.image_data
    files = {"dictionary": vg150.dictionary, "image_data": vg150.image_data}
    assert GroundTruth.open("vg150", vg150.annotations, files).image_ids.tolist() == [test.image_id]
    assert (test.image_id, reasons(test)) == (7, ["unknown category id", "relation without box"])
    monkeypatch.setattr("pipeline.data.datasets.vg150.VALIDATION_IMAGES", 1)
    split = {
        name: [
            record.image_id
            for record in annotations(open_source(vg150.model_copy(update={"split": name}), with_images=False))
        ]
        for name in ("val", "train")
    }
    assert split == {"val": [4], "train": [5, 6]}
    assert vg150.unreadable() == []


def test_vg150_says_what_does_not_fit(vg150, tmp_path, monkeypatch):
    with pytest.raises(
        AnnotationError, match="split 'dev' is not a split of VG150; set one of train, val, trainval, test"
    ):
        annotations(open_source(vg150.model_copy(update={"split": "dev"}), with_images=False))
    fewer = save_json(tmp_path / "fewer.json", [{"image_id": 4, "width": 512, "height": 256}])
    with pytest.raises(AnnotationError, match=r"holds 4 images, .*fewer\.json lists 1"):
        annotations(open_source(vg150.model_copy(update={"image_data": fewer}), with_images=False))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(AnnotationError, match=r"pip install 'rlip\[vg150\]'"):
        annotations(open_source(vg150, with_images=False))


def test_missing_and_wrong_files_are_named(tmp_path):
    with pytest.raises(AnnotationError, match=r"classes: no file .*c\.csv"):
        opened("open_images", text(tmp_path / "a.csv", RELATIONS), classes=tmp_path / "c.csv")
    with pytest.raises(FatalError, match="no format 'voc'; the formats are coco, coco_panoptic"):
        annotation_source("voc", tmp_path / "a.json", {})
    with pytest.raises(FatalError, match=r"instances: required by format 'vcoco'; set it \(--file FIELD=PATH\)"):
        annotation_source("vcoco", tmp_path / "a.json", {})
    source = annotation_source("open_images", text(tmp_path / "a.csv", "{}"), {"classes": text(tmp_path / "c.csv", "")})
    assert [line.split(" ", 2)[2].split(";")[0] for line in source.unreadable()] == [
        "is not a CSV table: it begins with b'{}'", "is empty",
    ]  # fmt: skip


@pytest.mark.parametrize("changed, message", [
    ({"format": "voc"}, "format"),
    ({"name": "a/b"}, "name"),
    ({"verbs": "v.json"}, "verbs: not used by format 'coco'; remove it"),
    ({"format": "visual_genome", "relations": "r.json"}, "relations: not used by format 'visual_genome'"),
    ({"drop_fake": True}, "drop_fake: only for format 'objects365'; remove it"),
    ({"format": "images"}, "annotations: not used by format 'images'"),
    ({"annotations": None}, r"annotations: required by format 'coco'.*format = .images."),
    ({"images": 5}, "images"),
])  # fmt: skip
def test_a_wrong_field_of_a_source_is_named(changed, message):
    with pytest.raises(ValidationError, match=message):
        DataSource(
            **{"name": "toy", "format": "coco", "images": Path("images"), "annotations": Path("a.json"), **changed}
        )


def test_paths_are_no_part_of_a_key():
    assert DataSource(name="toy", images="images", annotations=Path("a.json")).row_settings() == {
        "name": "toy", "format": "coco", "split": "train", "drop_fake": False, "drop_reflected": False,
    }  # fmt: skip


@pytest.mark.parametrize("format_name, path, counts", [
    ("hico_instances", "hico_det/ground_truth_800.json", (800, 2621, 80, 117)),
    ("vrd", "vrd/annotations_test.json", (1000, 7638, 100, 70)),
    ("vcoco_instances", "vcoco/instances_vcoco_train.json", (2533, 6400, 80, 24)),
])  # fmt: skip
def test_real_files(shared, tmp_path, format_name, path, counts):
    lists = {"objects": 100, "predicates": 70} if format_name == "vrd" else {}
    names = {name: save_json(tmp_path / name, [f"{name} {n}" for n in range(count)]) for name, count in lists.items()}
    reader = opened(format_name, shared / "data" / path, **names)
    records = annotations(reader)
    relations = sum(len(record.relations) for record in records)
    assert (len(records), relations, len(reader.objects), len(reader.predicates)) == counts
    assert not [reject for record in records for reject in record.rejects] and not reader.rejects
    assert all(box.w > 0 and box.h > 0 for record in records for box in record.boxes)


VERBS = ["adjust", "no_interaction", "sit_on"]


def hico(folder: Path, entries: Any, verbs: Any = VERBS, **more: Any) -> DataSource:
    images = folder / "images"
    for number in (1, 2):
        save_picture(images / f"HICO_test2015_{number:08}.jpg")
    return DataSource(
        name="hico", format="hico_det", split="test", images=images,
        annotations=save_json(folder / "test_hico.json", entries), verbs=save_json(folder / "verbs.json", verbs),
        **more,
    )  # fmt: skip


def entry(number: Any, boxes: Any, pairs: Any) -> dict[str, Any]:
    name = f"HICO_test2015_{number:08}.jpg" if isinstance(number, int) else "x.jpg"
    return {"file_name": name, "img_id": number, "annotations": boxes, "hoi_annotation": pairs}


def item(category: Any, bbox: Any) -> dict[str, Any]:
    return {"bbox": bbox, "category_id": category}


def hoi(subject: int, verb: int, target: int) -> dict[str, Any]:
    return {"subject_id": subject, "object_id": target, "category_id": verb, "hoi_category_id": 5}


def test_boxes_and_pairs_which_follow_the_boxes_that_stay(tmp_path):
    boxes = [item(1, [10, 10, 50, 70]), item(90, [1, 2, 4, 8])]
    _, records = read_all(hico(tmp_path, [entry(2, boxes, [hoi(0, 3, 1), hoi(0, 2, 1)]), entry(1, [], [])]))
    assert [record.image_id for record in records] == [2, 1]
    assert records[0].boxes == (Box("person", 10, 10, 40, 60, False, 0), Box("toothbrush", 1, 2, 3, 6, False, 1))
    assert records[0].relations == (AnnotatedRelation(0, "sit on", 1), AnnotatedRelation(0, "no interaction", 1))
    assert records[0].split == "test"
    boxes = [item(12, [0, 0, 5, 5]), item(1, [10, 10, 50, 70]), item(1, "nowhere"), item(18, [1, 2, 4, 8])]
    pairs = [hoi(1, 1, 3), hoi(0, 1, 3), hoi(1, 1, 2), hoi(1, 99, 3), hoi(1, 1, -1), hoi(1, 1, 40), "nonsense"]
    _, (record,) = read_all(hico(tmp_path, [entry(1, boxes, pairs)]))
    assert [box.category for box in record.boxes] == ["person", "dog"]
    assert record.relations == (AnnotatedRelation(0, "adjust", 1),)
    lost, unknown = "relation without box", "unknown verb id"
    assert reasons(record) == ["unknown category id", "box malformed", lost, lost, unknown, lost, lost, unknown]


def test_pairs_in_a_misspelt_field_count_for_the_limit_on_lost_relations(tmp_path):
    misspelt = entry(1, [item(1, [10, 10, 50, 70])], [hoi(0, 1, 0)])
    misspelt["hoi_annotations"] = misspelt.pop("hoi_annotation")
    _, (record,) = read_all(hico(tmp_path, [misspelt]))
    assert {*reasons(record)} == {"hoi_annotation malformed"} <= RELATION_REASONS


def test_names_may_come_in_three_layouts(tmp_path):
    table = tmp_path / "table.txt"
    table.write_text("id   verb\n----------\n001  adjust        \n002  no_interaction\n")
    assert read_names(table) == {1: "adjust", 2: "no interaction"}
    assert read_names(save_json(tmp_path / "a.json", ["adjust", "ride"])) == {1: "adjust", 2: "ride"}
    assert read_names(save_json(tmp_path / "b.json", {"person": 1, "dog": 18})) == {1: "person", 18: "dog"}


@pytest.mark.parametrize("content", ["", "[1, 2]", "{broken", "no ids here"])
def test_names_that_are_none(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=r"names\.txt: no names found; expected names by id"):
        read_names(path)


def test_coco_names():
    assert len(COCO_CATEGORIES) == 80
    assert [COCO_CATEGORIES[i] for i in (1, 13, 62, 72, 90)] == ["person", "stop sign", "chair", "tv", "toothbrush"]
