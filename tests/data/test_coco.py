"""Tests datasets in COCO format and their relation files."""

import json
from typing import Any

import pytest

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.record import AnnotatedRelation, Box
from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import DataSource
from pipeline.data.datasets.validate import RELATION_REASONS
from tests.data.toy_sets import checked, read_all, save_json, save_picture

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}


def box(number: int, category: Any, bbox: Any, image: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **more}


def test_images_and_boxes_in_file_order(coco):
    images = [IMAGE, {"id": 3, "file_name": "sub/b.jpg"}, {"id": 5, "file_name": "c.jpg", "height": 0}]
    boxes = [box(1, 18, [1, 2, 3, 4]), box(2, 1, [5, 6, 7.5, 8], 3), box(3, 1, [0, 0, 9, 9], iscrowd=1)]
    _, records = read_all(coco(images, boxes, split="val"))
    assert [record.image_id for record in records] == [7, 3, 5]
    first = records[0]
    assert (first.dataset, first.split, first.path.name, first.width, first.height) == ("toy", "val", "a.jpg", 100, 80)
    assert first.boxes == (Box("dog", 1, 2, 3, 4, False, 1), Box("person", 0, 0, 9, 9, True, 3))
    assert records[1].boxes == (Box("person", 5, 6, 7.5, 8, False, 2),)
    assert records[1].path.parent.name == "sub"
    assert (records[2].boxes, records[2].height) == ((), None)


def test_images_that_share_an_id_get_nobodys_boxes(coco):
    images = [IMAGE, {**IMAGE, "file_name": "b.jpg"}, {"id": 5, "file_name": "c.jpg"}, {"id": 5, "file_name": "c.jpg"}]
    reader, records = read_all(coco(images, [box(1, 18, [1, 2, 3, 4]), box(2, 1, [5, 6, 7.5, 8], 5)]))
    assert [(record.image_id, len(record.boxes)) for record in records] == [(5, 1)]
    assert [(r.image_id, r.reason, r.value) for r in reader.rejects] == [
        (7, "image id of several files", "a.jpg"), (7, "image id of several files", "b.jpg"),
        (5, "duplicate image id", "c.jpg"),
    ]  # fmt: skip


def test_file_names_with_folders_as_windows_writes_them_are_found(coco):
    source = coco([IMAGE | {"file_name": "sub\\a.jpg"}], [], without=("sub\\a.jpg",))
    save_picture(source.images / "sub/a.jpg")
    _, (record,) = read_all(source)
    assert record.path == source.images / "sub/a.jpg"


def test_a_dataset_without_a_usable_image_is_reported_with_an_example_of_each_reason(coco):
    with pytest.raises(AnnotationError, match=r"no usable image for dataset 'toy' \(file name not usable: /a\.jpg\)"):
        read_all(coco([IMAGE | {"file_name": "/a.jpg"}, {"id": 8, "file_name": "/b.jpg"}], []))


def test_a_folder_without_any_of_the_images_stops_before_work(coco):
    source = coco([IMAGE], [], without=("a.jpg",))
    with pytest.raises(AnnotationError, match=r"images: none of the 1 images of 'toy'.*a\.jpg; the folder is empty"):
        next(open_source(source).read())
    save_picture(source.images / "other.jpg")
    with pytest.raises(AnnotationError, match=r"it contains other\.jpg"):
        next(open_source(source).read())


def test_missing_files_are_named_all_at_once(tmp_path):
    files = {"annotations": tmp_path / "no.json", "relations": tmp_path / "r.json"}
    source = DataSource(name="toy", format="coco", images=tmp_path / "no", **files)
    assert len(source.missing()) == 3
    with pytest.raises(AnnotationError, match=r"'toy' \(coco\): images: no folder .*annotations: no file .*relations"):
        open_source(source)


def pair(action: str, name: str, object_box: Any, person_box: Any = (10, 10, 50, 70), **more: Any) -> dict[str, Any]:
    return {"person_box": list(person_box), "action": action, "object": name, "object_box": object_box, **more}


def test_pairs_find_their_boxes_or_bring_them(coco):
    boxes = [box(1, 1, [11, 10, 40, 60]), box(2, 19, [20, 30, 50, 40]), box(3, 19, [60, 30, 30, 40])]
    relations = [
        {
            "image_id": 7,
            "relations": [
                pair("ride instr", "horse", [20, 31, 70, 70]), pair("look obj", "horse", [58, 30, 90, 70]),
                pair("hold obj", "dog", [1, 1, 8, 8]), pair("hold obj", "dog", [1, 1, 8, 8]),
            ],
        }
    ]  # fmt: skip
    _, (record,) = read_all(coco([IMAGE], boxes, relations))
    assert record.relations == (
        AnnotatedRelation(0, "ride", 1), AnnotatedRelation(0, "look at", 2), AnnotatedRelation(0, "hold", 3),
        AnnotatedRelation(0, "hold", 3),
    )  # fmt: skip
    assert record.boxes[3] == Box("dog", 1, 1, 7, 7)
    usable, rejects = checked(record)
    assert usable is not None and len(usable.relations) == 3
    assert [reject.reason for reject in rejects] == ["relation duplicate"]


def test_pairs_that_can_not_be_used(coco):
    bad = [
        pair("hold obj", "unicorn", [1, 2, 3, 4]), pair("hold obj", "dog", None), pair("", "dog", [1, 2, 3, 4]),
        "nonsense",
    ]  # fmt: skip
    relations = [{"image_id": 7, "relations": bad}, {"image_id": 99, "relations": bad}, {"relations": []}]
    reader, (record,) = read_all(coco([IMAGE], [], relations))
    assert [reject.reason for reject in record.rejects] == [
        "relation of unknown category", "relation without box", "relation malformed", "relation malformed",
    ]  # fmt: skip
    assert {reject.reason for reject in record.rejects} <= RELATION_REASONS, "what the limit on rejects counts"
    assert record.boxes == () and record.relations == ()
    assert [(r.image_id, r.reason) for r in reader.rejects] == [
        (-1, "relations malformed"),
        (99, "relations of unknown image"),
    ]
    assert {reject.reason for reject in reader.rejects} & RELATION_REASONS == {"relations malformed"}


def test_relations_of_another_dataset_are_refused(coco):
    pairs = [{"image_id": number, "relations": [{}]} for number in (99, 98)]
    with pytest.raises(AnnotationError, match=r"relations\.json: none of its 2 images is in .*instances.*image 98"):
        read_all(coco([IMAGE, {"id": 8, "file_name": "b.jpg"}], [], pairs))


def test_a_small_sample_of_a_dataset_may_have_none_of_the_images_with_relations(coco):
    reader, _ = read_all(coco([IMAGE], [], [{"image_id": number, "relations": [{}]} for number in (99, 98)]))
    assert [(reject.image_id, reject.reason) for reject in reader.rejects] == [
        (98, "relations of unknown image"),
        (99, "relations of unknown image"),
    ]


def test_pairs_name_categories_in_any_case(coco):
    boxes = [box(1, 1, [11, 10, 40, 60]), box(2, 19, [20, 30, 50, 40])]
    relations = [{"image_id": 7, "relations": [pair("ride instr", "Horse", [20, 31, 70, 70])]}]
    _, (record,) = read_all(coco([IMAGE], boxes, relations))
    assert record.relations == (AnnotatedRelation(0, "ride", 1),) and len(record.boxes) == 2


def test_a_crowd_is_nobodys_box(coco):
    boxes = [box(1, 1, [10, 10, 40, 60], iscrowd=1)]
    relations = [{"image_id": 7, "relations": [pair("hold obj", "dog", [1, 1, 8, 8])]}]
    _, (record,) = read_all(coco([IMAGE], boxes, relations))
    assert record.relations == (AnnotatedRelation(1, "hold", 2),)


def test_objects365_names_files_and_doubled_boxes(coco):
    images = [{"id": 1, "file_name": "images/v2/patch16/objects365_v2_01.jpg", "width": 100, "height": 80}]
    categories = [
        {"id": 1, "name": "Person"}, {"id": 38, "name": "Moniter/TV"}, {"id": 197, "name": "Cigar/Cigarette "},
        {"id": 300, "name": "Tape Measur/ Ruler"},
    ]  # fmt: skip
    boxes = [box(n, category, [1, 2, 30, 40], 1) for n, category in enumerate((1, 1, 38, 197, 300))]
    source = coco(images, boxes, categories=categories, format="objects365")
    save_picture(source.images / "patch16" / "objects365_v2_01.jpg")
    _, (record,) = read_all(source)
    assert record.path == source.images / "patch16" / "objects365_v2_01.jpg"
    usable, rejects = checked(record)
    assert usable is not None
    named = ["person", "monitor/tv", "cigar/cigarette", "tape measure/ruler"]
    assert [found.category for found in usable.boxes] == named
    assert [reject.reason for reject in rejects] == ["box duplicate"]


PATCHED = "images/v1/patch8/objects365_v1_00420917.jpg"


def test_objects365_flags_are_honoured_when_asked_for(coco):
    images = [{"id": 1, "file_name": PATCHED}]
    boxes = [
        box(1, 1, [1, 2, 30, 40], 1, isfake=1),
        box(2, 18, [1, 2, 30, 40], 1, isreflected=1, isfake=0),
        box(3, 19, [1, 2, 30, 40], 1, iscrowd=1, isreflected=0),
    ]
    source = coco(images, boxes, format="objects365")
    save_picture(source.images / "patch8" / "objects365_v1_00420917.jpg")
    _, (kept,) = read_all(source)
    assert {found.category: found.crowd for found in kept.boxes} == {"person": False, "dog": False, "horse": True}
    _, (picked,) = read_all(source.model_copy(update={"drop_fake": True, "drop_reflected": True}))
    assert [found.category for found in picked.boxes] == ["horse"]
    assert [(reject.reason, reject.value) for reject in picked.rejects] == [
        ("box of a fake", "person [1, 2, 30, 40]"),
        ("box of a reflection", "dog [1, 2, 30, 40]"),
    ]


def test_objects365_files_that_were_never_published(coco):
    names = (*(f"v1/patch6/objects365_v1_0032053{n}" for n in (2, 4)), "v2/patch16/objects365_v2_00908726")
    images = [{"id": n, "file_name": f"images/{name}.jpg"} for n, name in enumerate((*names, "v1/patch6/other"))]
    source = coco([*images, {"id": 9, "file_name": PATCHED}], [], format="objects365")
    save_picture(source.images / "patch8" / "objects365_v1_00420917.jpg")
    _, records = read_all(source)
    rejects = [[(reject.reason, reject.value) for reject in checked(record)[1]] for record in records]
    assert rejects[0] == [("never published", "objects365_v1_00320532.jpg")]
    assert [found[0][0] for found in rejects[:4]] == ["never published"] * 3 + ["missing file"]
    assert rejects[4] == []
    save_picture(source.images / "patch6" / "objects365_v1_00320534.jpg")
    assert checked(records[1])[0] is not None


def test_lists_may_stand_in_any_order(coco):
    source = coco([IMAGE, {"id": 3, "file_name": "b.jpg"}], [box(1, 18, [1, 2, 3, 4], 3), box(2, 1, [5, 6, 7, 8])])
    expected = read_all(source)[1]
    content = json.loads(source.annotations.read_text())
    order = ("annotations", "images", "categories")
    save_json(source.annotations, {"info": {"images": [1]}, **{name: content[name] for name in order}})
    assert read_all(source)[1] == expected


def test_objects365_names_become_the_authors(shared, coco):
    priors = shared / "data" / "rlipv2_priors"
    categories = json.loads((priors / "o365_categories.json").read_text())
    expected = list(json.loads((priors / "o365_obj_paraphrase.json").read_text()))
    boxes = [box(c["id"], c["id"], [1, 2, 3, 4]) for c in categories]
    source = coco([IMAGE], boxes, categories=categories, format="objects365")
    _, (record,) = read_all(source)
    assert [found.category for found in record.boxes] == expected


def test_real_coco_images(shared):
    folder = shared / "data" / "coco"
    names = {"annotations": "instances_sample2017.json", "relations": "vcoco_relations_sample2017.json"}
    files = {setting: folder / "annotations" / name for setting, name in names.items()}
    reader, records = read_all(DataSource(name="coco", format="coco", images=folder / "sample2017", **files))
    assert len(records) == 188 and not reader.rejects
    assert sum(len(record.boxes) for record in records) == 1443
    assert sum(len(record.relations) for record in records) == 103
    usable = [checked(record, verify="header") for record in records]
    assert all(record is not None and not rejects for record, rejects in usable)


def test_a_name_list_that_is_no_list_of_relations(coco, tmp_path):
    source = coco([IMAGE], [], relations={"image_id": 7})
    with pytest.raises(AnnotationError, match=r"relations\.json: contains a JSON object; expected relations: a list"):
        list(open_source(source).read())
    save_json(tmp_path / "relations.json", [])
    assert len(list(open_source(source).read())) == 1
