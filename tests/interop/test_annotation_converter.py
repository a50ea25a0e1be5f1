"""Tests that annotations survive a conversion to another public layout, read by our own readers."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.data import convert
from pipeline.data.datasets.record_index import open_annotations
from pipeline.data.datasets.source import annotation_source
from pipeline.interop.annotation_converter import convert_annotations
from storage.errors import FatalError

HICO: dict[str, Any] = {
    "objects": ["dining_table", "person", "unused"],
    "verbs": ["hold", "no_interaction"],
    "filenames": ["x/HICO_test2015_00000007.jpg", "HICO_test2015_00000009.jpg"],
    "size": [[100, 80], [50, 40]],
    "annotation": [
        {
            "boxes_h": [[1, 2, 11, 22], [1, 2, 11, 22], [0, 0, 5, 5]],
            "boxes_o": [[5, 5, 9, 9], [5, 5, 9, 7], [5, 5, 9, 9]],
            "object": [0, 0, 0],
            "verb": [0, 0, 1],
        },
        {"boxes_h": [], "boxes_o": [], "object": [], "verb": []},
    ],
}
FILES = {
    "hico_det": ("annotations.json", {"verbs": "verbs.json", "objects": "objects.json"}),
    "vcoco": ("vcoco.json", {"instances": "instances.json"}),
    "visual_genome": ("relationships.json", {"image_data": "image_data.json", "objects": "objects.json"}),
}


def saved(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def content_of(folder: Path, form: str) -> dict[int, set[tuple[Any, ...]]]:
    """Image id → (subject box, predicate, object box) of what a converted folder holds."""
    main, more = FILES[form]
    source = annotation_source(form, folder / main, {field: folder / name for field, name in more.items()})
    return {
        record.image_id: {
            (record.boxes[r.subject][:5], r.predicate, None if r.object < 0 else record.boxes[r.object][:5])
            for r in record.relations
        }
        for record in open_annotations(source).annotations()
    }


PERSON, CHILD = ("person", 1, 2, 10, 20), ("person", 0, 0, 5, 5)
TABLE, LOW = ("dining table", 5, 5, 4, 4), ("dining table", 5, 5, 4, 2)


@pytest.mark.parametrize(("form", "role"), [("hico_det", ""), ("vcoco", " obj"), ("visual_genome", "")])
def test_relations_survive(tmp_path, form, role):
    tally = convert_annotations("hico_instances", saved(tmp_path / "a.json", HICO), form, tmp_path / "out")
    expected = {(PERSON, f"hold{role}", TABLE), (PERSON, f"hold{role}", LOW), (CHILD, f"no interaction{role}", TABLE)}
    found = content_of(tmp_path / "out", form)
    assert found[7] == expected
    assert form == "vcoco" or found[9] == set()
    assert tally.wrote["relations"] == 3 and tally.wrote["boxes"] == 4 and tally.wrote["images"] == 2
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
    given = saved(tmp_path / "v.json", [cut, walk])
    files = {"instances": saved(tmp_path / "i.json", instances)}
    convert_annotations("vcoco", given, "vcoco", tmp_path / "out", files)
    assert json.loads((tmp_path / "out/vcoco.json").read_text()) == [cut, walk]
    written = json.loads((tmp_path / "out/instances.json").read_text())
    assert [each["id"] for each in written["annotations"]] == [11, 7, 8]
    assert {each["name"]: each["id"] for each in written["categories"]}["knife"] == 49
    tally = convert_annotations("vcoco", given, "visual_genome", tmp_path / "vg", files)
    assert tally.counts == {
        "relation without object": 1,
        "crowd box": 1,
        "file name (images are named by their ids)": 1,
    }


def test_subjects_that_are_no_people_are_lost_to_v_coco(tmp_path):
    files = {"objects": saved(tmp_path / "o.json", ["dog", "ball"]), "predicates": saved(tmp_path / "p.json", ["on"])}
    dog, ball = ({"category": k, "bbox": [1, 9, 1, 9]} for k in (0, 1))
    given = saved(tmp_path / "a.json", {"5_x.jpg": [{"predicate": 0, "subject": dog, "object": ball}]})
    tally = convert_annotations("vrd", given, "vcoco", tmp_path / "out", files)
    assert tally.counts["relation whose subject is no person"] == 1 and not tally.wrote["relations"]


def test_what_can_not_be_converted_leaves_nothing(tmp_path):
    given = saved(tmp_path / "a.json", HICO)
    with pytest.raises(FatalError, match="no target format 'yolo'; the formats are hico_det, vcoco, visual_genome"):
        convert_annotations("hico_instances", given, "yolo", tmp_path / "out")
    header = "ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel\n"
    (tmp_path / "vrd.csv").write_text(header + "fe00000000000001,/m/1,/m/1,0,1,0,1,0,1,0,1,hold\n")
    (tmp_path / "classes.csv").write_text("/m/1,Person\n")
    files = {"classes": tmp_path / "classes.csv"}
    with pytest.raises(FatalError, match="boxes are shares of images of unknown size; add image_data"):
        convert_annotations("open_images", tmp_path / "vrd.csv", "hico_det", tmp_path / "out", files)
    (tmp_path / "cut.json").write_text(json.dumps(HICO)[:-9])
    with pytest.raises(FatalError, match="ends in the middle of its JSON"):
        convert_annotations("hico_instances", tmp_path / "cut.json", "vcoco", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(FatalError, match="out: exists already"):
        convert_annotations("hico_instances", given, "vcoco", tmp_path / "out")


def test_the_command_tells_what_was_written_and_lost(tmp_path, capsys):
    given = saved(tmp_path / "a.json", HICO)
    convert("hico_instances", given, "visual_genome", tmp_path / "out", [], as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "out"),
        "wrote": {"images": 2, "boxes": 4, "relations": 3},
        "lost": {"file name (images are named by their ids)": 2},
    }
    more = [f"verbs={tmp_path}/out2/verbs.json", f"objects={tmp_path}/out2/objects.json"]
    convert("hico_instances", given, "hico_det", tmp_path / "out2", [], as_json=False)
    convert("hico_det", tmp_path / "out2/annotations.json", "hico_det", tmp_path / "out3", more, as_json=False)
    assert "2 images, 4 boxes, 3 relations" in capsys.readouterr().out
    assert (tmp_path / "out3/annotations.json").read_bytes() == (tmp_path / "out2/annotations.json").read_bytes()
    with pytest.raises(FatalError, match="--file verb=x: expected FIELD=PATH, with one of the fields boxes, classes"):
        convert("hico_det", given, "vcoco", tmp_path / "no", ["verb=x"], as_json=True)
