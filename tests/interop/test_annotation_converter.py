"""Tests that annotations survive a conversion to another public layout, read by our own readers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.mask import decode

from pipeline.cli.data import convert
from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import annotation_source
from pipeline.data.images.folders import open_folder
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.interop.annotation_converter import convert_annotations
from storage.errors import FatalError
from tests.data.toy_sets import save_json

HICO: dict[str, Any] = {
    "objects": ["dining_table", "person", "unused"],
    "verbs": ["hold", "no_interaction"],
    "filenames": ["x/HICO_test2015_00000007.jpg", "HICO_test2015_00000009.jpg"],
    "size": [[100, 80], [50, 40]],
    "annotation": [
        {
            "boxes_h": [[1, 2, 11, 22], [1, 2, 11, 22], [0, 0, 5, 5]],
            "boxes_o": [[5, 5, 9, 9], [5, 5, 9, 7], [5, 5, 9, 9]], "object": [0, 0, 0], "verb": [0, 0, 1],
        },
        {"boxes_h": [], "boxes_o": [], "object": [], "verb": []},
    ],
}  # fmt: skip
FILES = {
    "coco": ("instances.json", {}),
    "psg": ("psg.json", {}),
    "hico_det": ("annotations.json", {"verbs": "verbs.json", "objects": "objects.json"}),
    "vcoco": ("vcoco.json", {"instances": "instances.json"}),
    "visual_genome": ("relationships.json", {"image_data": "image_data.json", "objects": "objects.json"}),
}

UNSIZED = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [], "categories": []}


def content_of(folder: Path, form: str) -> dict[int, set[tuple[Any, ...]]]:
    """Image id → (subject box, predicate, object box) of what a converted folder holds."""
    main, more = FILES[form]
    source = annotation_source(form, folder / main, {field: folder / name for field, name in more.items()})
    return {
        record.image_id: {
            (record.boxes[r.subject][:5], r.predicate, None if r.object < 0 else record.boxes[r.object][:5])
            for r in record.relations
        }
        for record in open_source(source, with_images=False).annotations()
    }


PERSON, CHILD = ("person", 1, 2, 10, 20), ("person", 0, 0, 5, 5)
TABLE, LOW = ("dining table", 5, 5, 4, 4), ("dining table", 5, 5, 4, 2)


@pytest.mark.parametrize(("form", "role"), [(form, " obj" if form == "vcoco" else "") for form in FILES])
def test_relations_survive(tmp_path, form, role):
    made = convert_annotations("hico_instances", save_json(tmp_path / "a.json", HICO), form, tmp_path / "out")
    expected = {(PERSON, f"hold{role}", TABLE), (PERSON, f"hold{role}", LOW), (CHILD, f"no interaction{role}", TABLE)}
    found = content_of(tmp_path / "out", form)
    assert found[7] == expected
    assert form == "vcoco" or found[9] == set()
    assert made.wrote == {"images": 2, "boxes": 4, "relations": 3}
    assert made.lost.get("image without a person, which V-COCO's file does not list", 0) == (form == "vcoco")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [FILES[form][0], *FILES[form][1].values()]
    )


def test_v_coco_becomes_v_coco_again(tmp_path):
    instances = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": [
            {"id": 11, "image_id": 5, "category_id": 1, "bbox": [1, 1, 10, 20], "iscrowd": 0},
            {"id": 7, "image_id": 5, "category_id": 49, "bbox": [4, 4, 3, 3], "iscrowd": 0},
            {"id": 8, "image_id": 5, "category_id": 1, "bbox": [9, 9, 30, 30], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 49, "name": "knife"}],
    }
    cut = {"action_name": "cut", "role_name": ["agent", "instr", "obj"], "ann_id": [11], "image_id": [5], "label": [1],
           "role_object_id": [11, 7, 0], "include": ["agent", "instr", "obj"]}  # fmt: skip
    walk = {"action_name": "walk", "role_name": ["agent"], "ann_id": [11], "image_id": [5], "label": [0],
            "role_object_id": [11], "include": ["agent"]}  # fmt: skip
    given = save_json(tmp_path / "v.json", [cut, walk])
    files = {"instances": save_json(tmp_path / "i.json", instances)}
    convert_annotations("vcoco", given, "vcoco", tmp_path / "out", files)
    assert json.loads((tmp_path / "out/vcoco.json").read_text()) == [cut, walk]
    written = json.loads((tmp_path / "out/instances.json").read_text())
    assert [each["id"] for each in written["annotations"]] == [11, 7, 8]
    assert {each["name"]: each["id"] for each in written["categories"]}["knife"] == 49
    made = convert_annotations("vcoco", given, "visual_genome", tmp_path / "vg", files)
    assert made.lost == {
        "relation without object": 1, "crowd box": 1, "file name (images are named by their ids)": 1,
    }  # fmt: skip


def test_subjects_that_are_no_people_are_lost_to_v_coco(tmp_path):
    files = {
        "objects": save_json(tmp_path / "o.json", ["dog", "ball"]),
        "predicates": save_json(tmp_path / "p.json", ["on"]),
    }
    dog, ball = ({"category": k, "bbox": [1, 9, 1, 9]} for k in (0, 1))
    given = save_json(tmp_path / "a.json", {"5_x.jpg": [{"predicate": 0, "subject": dog, "object": ball}]})
    made = convert_annotations("vrd", given, "vcoco", tmp_path / "out", files)
    assert made.lost["relation whose subject is not a person"] == 1 and not made.wrote.get("relations")


def test_v_coco_has_a_role_once_and_loses_what_crowds_do(tmp_path):
    boxes = [
        {"id": key, "image_id": 5, "category_id": 1, "bbox": [key, 1, 9, 9], "iscrowd": key == 3} for key in (1, 2, 3)
    ]
    ends = ((1, 2, 0), (2, 1, 1), (3, 1, 0))
    relations = [{"image_id": 5, "subject_id": s, "object_id": o, "predicate_id": p} for s, o, p in ends]
    given = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 100, "height": 80}], "annotations": boxes,
        "categories": [{"id": 1, "name": "person"}], "rel_annotations": relations,
        "rel_categories": [{"id": 0, "name": "hold"}, {"id": 1, "name": "hold obj"}],
    }  # fmt: skip
    made = convert_annotations("coco", save_json(tmp_path / "a.json", given), "vcoco", tmp_path / "out")
    assert made.lost == {"relation whose subject is a crowd": 1} and made.wrote["relations"] == 2
    (hold,) = json.loads((tmp_path / "out/vcoco.json").read_text())
    assert hold["role_name"] == ["agent", "obj"] and hold["role_object_id"] == [1, 2, 2, 1]


def test_what_can_not_be_converted_leaves_nothing(tmp_path):
    given = save_json(tmp_path / "a.json", HICO)
    with pytest.raises(FatalError, match=r"no export 'yolo'.*hico_det, "):
        convert_annotations("hico_instances", given, "yolo", tmp_path / "out")
    header = "ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel\n"
    (tmp_path / "vrd.csv").write_text(header + "fe00000000000001,/m/1,/m/1,0,1,0,1,0,1,0,1,hold\n")
    (tmp_path / "classes.csv").write_text("/m/1,Person\n")
    files = {"classes": tmp_path / "classes.csv"}
    with pytest.raises(FatalError, match="boxes are shares of images of unknown size; add --file image_data="):
        convert_annotations("open_images", tmp_path / "vrd.csv", "hico_det", tmp_path / "out", files)
    (tmp_path / "cut.json").write_text(json.dumps(HICO)[:-9])
    with pytest.raises(FatalError, match="ends in the middle of its JSON"):
        convert_annotations("hico_instances", tmp_path / "cut.json", "vcoco", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(FatalError, match="out already exists"):
        convert_annotations("hico_instances", given, "vcoco", tmp_path / "out")


def test_the_command_tells_what_was_written_and_lost(tmp_path, capsys):
    given = save_json(tmp_path / "a.json", HICO)
    convert("hico_instances", given, "visual_genome", tmp_path / "out", [], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"] == ["image_data.json", "objects.json", "relationships.json"]
    assert printed["lost"] == {"file name (images are named by their ids)": 2}
    more = [f"verbs={tmp_path}/out2/verbs.json", f"objects={tmp_path}/out2/objects.json"]
    convert("hico_instances", given, "hico_det", tmp_path / "out2", [], as_json=False)
    convert("hico_det", tmp_path / "out2/annotations.json", "hico_det", tmp_path / "out3", more, as_json=False)
    assert "2 images, 4 boxes, 3 relations" in capsys.readouterr().out
    assert (tmp_path / "out3/annotations.json").read_bytes() == (tmp_path / "out2/annotations.json").read_bytes()
    with pytest.raises(FatalError, match="--file verb=x: expected FIELD=PATH, with one of the fields boxes, classes"):
        convert("hico_det", given, "vcoco", tmp_path / "no", ["verb=x"], as_json=True)


def psg_image(number: int, predicate: int) -> dict[str, Any]:
    things = {"category_id": 1, "isthing": 1, "iscrowd": 1, "area": 900, "id": 3226956}
    stuff = {"category_id": 2, "isthing": 0, "iscrowd": 0, "area": 1500, "id": 5}
    return {
        "file_name": f"val2017/{number:012d}.jpg", "width": 100, "height": 80, "image_id": str(number),
        "pan_seg_file_name": f"panoptic_val2017/{number:012d}.png", "coco_image_id": f"{number}0",
        "segments_info": [things, stuff],
        "annotations": [
            {"bbox": [1, 2, 31, 42], "bbox_mode": 0, "category_id": 1},
            {"bbox": [0, 0, 100, 20.5], "bbox_mode": 0, "category_id": 2},
        ],
        "relations": [[0, 1, predicate], [1, 0, 0]],
    }  # fmt: skip


PSG_NAMES = {
    "thing_classes": ["car", "person"], "stuff_classes": ["sky-other-merged"], "predicate_classes": ["over", "on"],
}  # fmt: skip


def test_psg_comes_back_from_coco_unchanged(tmp_path):
    images = [psg_image(7, 1), psg_image(8, 0)]
    given = save_json(tmp_path / "psg.json", {"data": images, **PSG_NAMES, "test_image_ids": ["8"]})
    made = convert_annotations("psg", given, "coco", tmp_path / "coco", split="test")
    coco = json.loads((tmp_path / "coco/instances.json").read_text())
    assert made.lost == {"mask in a PNG, read with --masks": 2} and coco["annotations"][0]["area"] == 900
    assert coco["rel_annotations"][0] == {"id": 0, "image_id": 8, "subject_id": 1, "predicate_id": 0, "object_id": 2}
    made = convert_annotations("coco", tmp_path / "coco/instances.json", "psg", tmp_path / "psg", split="test")
    assert made.lost == {}
    again = json.loads((tmp_path / "psg/psg.json").read_text())
    assert again == {"data": images[1:], **PSG_NAMES, "test_image_ids": ["8"]}
    del images[1]["pan_seg_file_name"]
    bare = save_json(tmp_path / "bare.json", {"data": images, **PSG_NAMES, "test_image_ids": ["8"]})
    assert convert_annotations("psg", bare, "coco", tmp_path / "no masks", split="test").lost == {}


def test_outlines_and_run_lengths_become_the_masks_of_psg(tmp_path):
    outline = {"size": [80, 100], "counts": [0, 80 * 100]}
    boxes = [[1, 2, 30, 40], [0, 0, 100, 80], [50, 50, 5, 5]]
    shapes = [[[1, 2, 31, 2, 31, 42, 1, 42]], outline, [[1]]]
    named = {
        "info": {"year": 2017},
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80, "license": 3}],
        "categories": [{"id": 1, "name": "person"}, {"id": 9, "name": "sky", "isthing": 0}],
        "annotations": [
            {"id": key, "image_id": 7, "category_id": category, "bbox": box, "segmentation": shape}
            for key, category, box, shape in zip((4, 5, 6), (1, 9, 1), boxes, shapes, strict=True)
        ],
        "rel_annotations": [{"image_id": 7, "subject_id": 4, "predicate_id": 0, "object_id": 5, "score": 0.5}],
        "rel_categories": [{"id": 0, "name": "under"}],
    }
    given = save_json(tmp_path / "a.json", named)
    made = convert_annotations("coco", given, "psg", tmp_path / "psg", split="test")
    assert made.files == ["masks/7.png", "psg.json"]
    assert made.lost == {
        "pixel of a mask under another one": 1200, "box without a usable mask": 1, "field images.license": 1,
        "field info": 1, "field rel_annotations.score": 1,
    }  # fmt: skip
    truth = GroundTruth.open("psg", tmp_path / "psg/psg.json").with_masks(
        tmp_path / "psg/psg.json", open_folder(tmp_path / "psg")
    )
    person, sky = decode([*truth.relations.masks[0]]).transpose(2, 0, 1).astype(bool)
    expected = np.zeros((80, 100), bool)
    expected[2:42, 1:31] = True
    assert (person == expected).all() and (sky == ~expected).all()
    psg = (tmp_path / "psg/psg.json", "coco", tmp_path / "again")
    with pytest.raises(FatalError, match=r"--masks: masks/7.png: missing file"):
        convert_annotations("psg", *psg, split="test", masks=tmp_path)
    convert_annotations("psg", *psg, split="test", masks=tmp_path / "psg")
    boxes = json.loads((tmp_path / "again/instances.json").read_text())["annotations"]
    assert (decode(boxes[0]["segmentation"]) == expected).all() and boxes[2]["segmentation"] == []
    made = convert_annotations("coco", given, "hico_det", tmp_path / "hico")
    assert made.lost == {
        "field annotations.segmentation": 3, "field categories.isthing": 1, "field images.license": 1,
        "field info": 1, "field rel_annotations.score": 1,
    }  # fmt: skip


def test_vg150_comes_back_from_coco_unchanged(tmp_path):
    h5py = pytest.importorskip("h5py")
    columns = {
        "boxes_1024": [[101, 50, 41, 20], [512, 256, 512, 256], [30, 33, 4, 5]],
        "labels": [[3], [2], [1]], "relationships": [[0, 1], [1, 0], [1, 0]], "predicates": [[1], [2], [1]],
        "split": [2, 2, 2], "img_to_first_box": [0, -1, 2], "img_to_last_box": [1, -1, 2],
        "img_to_first_rel": [0, -1, -1], "img_to_last_rel": [2, -1, -1],
    }  # fmt: skip
    with h5py.File(tmp_path / "VG-SGG.h5", "w") as file:
        for name, values in columns.items():
            file[name] = np.array(values, np.int32)
    labels, predicates = ("woman", "hat", "a man", "unused"), ("wearing", "on")
    names = {
        key: value
        for kind, own in (("label", labels), ("predicate", predicates))
        for key, value in (
            (f"{kind}_to_idx", {name: number for number, name in enumerate(own, 1)}),
            (f"idx_to_{kind}", {str(number): name for number, name in enumerate(own, 1)}),
        )
    }
    sizes = [{"image_id": number, "width": 333, "height": 499} for number in (4, 5, 6)]
    files = {"dictionary": save_json(tmp_path / "d.json", names), "image_data": save_json(tmp_path / "i.json", sizes)}
    made = convert_annotations("vg150", tmp_path / "VG-SGG.h5", "coco", tmp_path / "coco", files, "test")
    assert made.lost == {"image whose attributes of VG-SGG-with-attri.h5 are never read": 3}
    made = convert_annotations("coco", tmp_path / "coco/instances.json", "vg150", tmp_path / "vg", split="test")
    assert made.lost == {} and made.wrote == {"images": 3, "boxes": 3, "relations": 3}
    with h5py.File(tmp_path / "vg/VG-SGG.h5") as file:
        assert {name: file[name][:].tolist() for name in file} == columns
    assert json.loads((tmp_path / "vg/VG-SGG-dicts.json").read_text()) == names
    assert json.loads((tmp_path / "vg/image_data.json").read_text()) == sizes
    with pytest.raises(FatalError, match="no image has a known size; state sizes"):
        convert_annotations("coco", save_json(tmp_path / "c.json", UNSIZED), "vg150", tmp_path / "unsized")
    made = convert_annotations("hico_instances", save_json(tmp_path / "a.json", HICO), "vg150", tmp_path / "rounded")
    assert made.lost["box in parts of 1/1024 of the longer side"] == 4
    assert [number for reason, number in made.lost.items() if 'readers take for "val"' in reason] == [1]
    named = {"dictionary": tmp_path / "rounded/VG-SGG-dicts.json", "image_data": tmp_path / "rounded/image_data.json"}
    with pytest.raises(FatalError, match="none of its 2 images is of split 'test'"):
        convert_annotations("vg150", tmp_path / "rounded/VG-SGG.h5", "coco", tmp_path / "none", named, "test")
    dot = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 1, 1]}
    wide = {"images": [{"id": 1, "file_name": "1.jpg", "width": 4000, "height": 9}], "annotations": [dot]}
    wide["categories"] = [{"id": 1, "name": "cup"}]
    convert_annotations("coco", save_json(tmp_path / "w.json", wide), "vg150", tmp_path / "wide")
    with h5py.File(tmp_path / "wide/VG-SGG.h5") as file:
        assert file["boxes_1024"][:].tolist() == [[2, 2, 1, 1]]
