"""Lists of images that must not be trained on: which files are read, which images they name, and what contaminates."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.data.datasets.annotations import as_id
from pipeline.data.exclusions import Contamination, ExclusionList, exclusion_files, read_list
from storage.errors import FatalError
from storage.tables import FINGERPRINTS
from tests.data.toy_sets import save_json, text


def ids_of(path: Path) -> frozenset[int]:
    listed = read_list(path)
    return listed.ids | listed.numbers


def excluded(lists: list[ExclusionList], dataset: str) -> dict[int, str]:
    """The images with ids up to 3 that lists exclude, with the reason."""
    kept_out = Contamination(lists, None, None)
    found = {n: kept_out.listed(dataset, n, f"{n}.jpg") for n in range(4)}
    return {n: each.reason for n, each in found.items() if each is not None}


def a_list(path: Path, reason: str = "V-COCO test", **settings: Any) -> ExclusionList:
    return ExclusionList(ids=path, reason=reason, **settings)


CONTENTS: dict[str, Any] = {
    "ids": [42, "43", 44.0],
    "file names": ["COCO_val2014_000000000042.jpg", "some/folder/000000000043.png", "HICO_test2015_00000044.jpg"],
    "COCO captions": [{"image_id": 42, "id": 7, "caption": ""}, {"image_id": 43, "id": 8}, {"image_id": 44, "id": 9}],
    "HICO-DET": [{"file_name": f"HICO_test2015_000000{i}.jpg", "img_id": i} for i in (42, 43, 44)],
    "objects with a file name": [{"file_name": f"HICO_test2015_000000{i}.jpg"} for i in (42, 43, 44)],
    "COCO": {
        "info": {},
        "annotations": [{"id": 1, "image_id": 42}],
        "images": [{"id": i, "file_name": f"{i + 100}.jpg"} for i in (42, 43, 44)],
    },
    "annotations alone": {"annotations": [{"id": 1, "image_id": i} for i in (42, 43, 44, 44)]},
    "names apart from their annotations": {"filenames": ["42.jpg", "43.jpg", "44.jpg"], "annotation": [{}, {}, {}]},
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_json_files_that_name_images(tmp_path, kind):
    assert ids_of(save_json(tmp_path / "list.json", CONTENTS[kind])) == {42, 43, 44}


def test_coco_annotations_also_exclude_images_that_other_datasets_number_otherwise(tmp_path):
    listed = read_list(save_json(tmp_path / "val.json", {"images": [{"id": 139, "file_name": "000000000139.jpg"}]}))
    assert listed.find(7 * 10**15, "photos/000000000139.jpg") == "name 000000000139.jpg"
    assert listed.find(139, "elsewhere.jpg") == "id 139" and not listed.find(7, "000000000140.jpg")


def test_ids_below_0_as_open_images_has_are_numbers(tmp_path):
    assert ids_of(save_json(tmp_path / "list.json", [-5, 5])) == {-5, 5}
    with pytest.raises(FatalError, match="line 2 is an id below 0 as text: -5; give ids as numbers, in JSON"):
        read_list(text(tmp_path / "list.ids", "7\n-5\n"))
    written = ("-5", " -7 ", str(-(2**63)), str(2**63 - 1), str(2**63), "--7", "-a7", "-")
    assert [as_id(each) for each in written] == [-5, -7, -(2**63), 2**63 - 1, None, None, None, None]


def test_a_text_file_has_comments_and_names(tmp_path):
    content = "# the test split\n\n42\n  43  # twice labelled\r\nCOCO_val2014_000000000044.jpg\n"
    assert ids_of(text(tmp_path / "list.ids", content)) == {42, 43, 44}


@pytest.mark.parametrize("content, fault", [
    ("42\nforty-three\n", r"line 2 is not an image id: forty-three"),
    ('[42, {"name": "x"}]', r"element 2 is not an image id"),
    ("[42, true]", r"element 2 is not an image id: True"),
    ('{"images": [{"id": 42}, {"id": null}]}', r"images 2 is not an image id"),
    ('{"annotations": [{"id": 42}]}', r"annotations 1 is not an image id"),
    ('{"splits": [42]}', r"has no field 'images'"),
    ('{"images": [{"id": 42}', r"not valid JSON at line 1"),
    ('{"annotations": [{"image_id": 42}]', r"not valid JSON at line 1"),
    ("# nothing\n", r"names no image"),
    ("139,285,632\n", r"line 1 is not an image id: 139,285,632"),
    ("139.jpg, 285.jpg\n", r"line 1 is not an image id: 139\.jpg, 285\.jpg"),
    ("ImageID,LabelName1\n000a1aa0a2e5b5d1,/m/01g317\n", r"line 1 is not an image id: ImageID,LabelName1"),
    ("42\n\udcff\udcfe\n", r"not UTF-8"),
])  # fmt: skip
def test_a_file_at_fault_is_named_with_what_is_allowed(tmp_path, content, fault):
    path = tmp_path / "list.txt"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(FatalError, match=rf"list\.txt: .*{fault}.*expected image ids: a text file with one id"):
        ids_of(path)


def test_a_missing_file_is_found_before_anything_runs(tmp_path):
    there = text(tmp_path / "there.ids", "1")
    lists = [a_list(there), a_list(there, map=tmp_path / "image_data.json", datasets=("vg",))]
    with pytest.raises(FatalError, match=r"image_data\.json: no such file; expected a map of image ids"):
        exclusion_files(lists)
    with pytest.raises(FatalError, match=r"gone\.ids: no such file; expected image ids"):
        exclusion_files([a_list(tmp_path / "gone.ids")])


def test_a_key_holds_what_the_files_say_and_not_where_they_lie(tmp_path):
    one = a_list(tmp_path / "one.ids", datasets=("vg",), map=tmp_path / "map.json")
    other = a_list(tmp_path / "other.ids", datasets=("vg",))
    assert one.row_settings() == other.row_settings() == {"reason": "V-COCO test", "datasets": ["vg"]}
    for name in ("one.ids", "other.ids", "map.json"):
        text(tmp_path / name, "1")
    files = exclusion_files([one, other])
    assert sorted(path.name for path in files.values()) == ["map.json", "one.ids", "other.ids"]


def test_a_list_holds_for_its_datasets_and_the_first_gives_the_reason(tmp_path):
    first = a_list(text(tmp_path / "a.ids", "1\n2\n"), "V-COCO test", datasets=("coco",))
    second = a_list(text(tmp_path / "b.ids", "2\n3\n"), "held out")
    assert excluded([first, second], "coco") == {1: "V-COCO test", 2: "V-COCO test", 3: "held out"}
    assert excluded([first, second], "o365") == {2: "held out", 3: "held out"}
    assert excluded([], "coco") == {}


@pytest.mark.parametrize("content", [
    [{"image_id": 1, "coco_id": None}, {"image_id": 2, "coco_id": 42}, {"image_id": 3, "coco_id": 7}],
    {"1": None, "2": 42, "3": 7},
])  # fmt: skip
def test_a_map_finds_the_images_of_another_numbering(tmp_path, content):
    listed = text(tmp_path / "coco.ids", "42\n3\n")
    mapped = a_list(listed, datasets=("vg",), map=save_json(tmp_path / "image_data.json", content))
    assert excluded([mapped], "vg") == {2: "V-COCO test"}
    assert excluded([mapped], "coco") == {}


@pytest.mark.parametrize("content, fault", [
    ([{"image_id": 1, "coco_id": None}], "maps no image to an id"), ([{"coco_id": 1}], "element 1 has no image_id"),
    ({"one": 42}, "one → 42 maps no image id"), (42, "contains a JSON number"),
])  # fmt: skip
def test_a_map_at_fault_is_named_with_what_is_allowed(tmp_path, content, fault):
    listed = text(tmp_path / "coco.ids", "42\n")
    mapped = a_list(listed, datasets=("vg",), map=save_json(tmp_path / "map.json", content))
    with pytest.raises(FatalError, match=rf"map\.json: {fault}.*image_data\.json"):
        excluded([mapped], "vg")


def test_a_map_is_for_named_datasets_only(tmp_path):
    with pytest.raises(ValidationError, match="map: applies only to datasets whose image ids it maps"):
        a_list(tmp_path / "coco.ids", map=tmp_path / "image_data.json")


def test_real_lists(shared):
    data = shared / "data"
    test = ids_of(data / "vcoco/vcoco_test.ids")
    train, val = (ids_of(data / f"vcoco/vcoco_{split}.ids") for split in ("train", "val"))
    assert (len(test), len(train), len(val)) == (4946, 2533, 2867)
    assert not test & (train | val)
    assert ids_of(data / "vcoco/instances_vcoco_train.json") <= train | val
    hico = ids_of(data / "hico_det/ground_truth_800.json")
    assert len(hico) == 800 and 1535 in hico
    sample = json.loads((data / "coco/annotations/instances_sample2017.json").read_text())
    assert ids_of(data / "coco/annotations/instances_sample2017.json") == {image["id"] for image in sample["images"]}
    assert len(ids_of(data / "blip_captions/BLIP_ViT-L.json")) == 5000


def fingerprints(*rows: tuple[str, int, str, int | None]) -> pa.Table:
    names = FINGERPRINTS.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=FINGERPRINTS)


TESTS = (("test", 1, "aa", 0xFF << 56), ("test", 42, "bb", 0b1111), ("other", 7, "bb", None))


def test_a_test_image_is_recognised_by_its_surest_sign(tmp_path):
    lists = [a_list(text(tmp_path / "a.ids", "123"), datasets=("coco",))]
    kept_out = Contamination(lists, fingerprints(*TESTS), distance=3)
    assert kept_out.listed("coco", 123, "a.jpg") == ("V-COCO test", "id 123")
    assert kept_out.listed("o365", 123, "a.jpg") is None
    assert kept_out.find("coco", 5, "bb", 0xFF << 56) == ("same bytes as an evaluation image", "test/42")
    assert kept_out.find("test", 42, "cc", None) == ("same image id as an evaluation image", "test/42")
    assert kept_out.find("coco", 5, "cc", 0b1000) == ("near-duplicate of an evaluation image", "test/42 at distance 3")
    assert kept_out.find("coco", 5, "cc", 0x7F << 56) == (
        "near-duplicate of an evaluation image",
        "test/1 at distance 1",
    )
    assert kept_out.find("coco", 42, "cc", 0b1111 << 20) is None


@pytest.mark.parametrize("entry, image_id, uri, how", [
    ("IMG_2034.jpg", 0, "IMG_2034.jpg", "name IMG_2034.jpg"), ("IMG_2034.jpg", 2034, "IMG_9.jpg", None),
    ("test\\a.jpg", 5, "more/a.jpg", "name a.jpg"),
    ("St.John, NY.jpg", 5, "more/St.John, NY.jpg", "name St.John, NY.jpg"),
    ("test/a.jpg", 5, "more/a.jpg", "name a.jpg"), ("a.jpg", 5, "a.png", None),
    ("000a1aa0a2e5b5d1.jpg", 1, "COCO_000001.jpg", None),
    ("000a1aa0a2e5b5d1", 7, "000a1aa0a2e5b5d1.jpg", "name 000a1aa0a2e5b5d1"),
    ("COCO_val2014_000000000042.jpg", 42, "000000000042.jpg", "id 42"),
])  # fmt: skip
def test_names_in_a_list_are_matched_as_names(tmp_path, entry, image_id, uri, how):
    kept_out = Contamination([a_list(text(tmp_path / "a.ids", entry))], None, None)
    assert kept_out.listed("mine", image_id, uri) == (how and ("V-COCO test", how))


def test_the_nearest_of_several_near_duplicates_is_named():
    kept_out = Contamination([], fingerprints(("a", 1, "aa", 0b111), ("b", 2, "bb", 0b1), ("c", 3, "cc", 0b11)), 8)
    assert kept_out.find("coco", 5, "dd", 0) == ("near-duplicate of an evaluation image", "b/2 at distance 1")


def test_lists_are_known_before_an_image_is_read_and_no_distance_compares_no_hashes(tmp_path):
    kept_out = Contamination([a_list(text(tmp_path / "a.ids", "123"))], None, distance=4)
    assert kept_out.listed("coco", 123, "a.jpg") == ("V-COCO test", "id 123")
    assert kept_out.listed("coco", 124, "123.jpg") == ("V-COCO test", "name 123")
    assert kept_out.listed("coco", 124, "a.jpg") is kept_out.find("coco", 124, "aa", 0) is None
    assert Contamination([], fingerprints(*TESTS), distance=None).find("coco", 5, "cc", 0b1111) is None
    assert Contamination([], fingerprints(*TESTS), distance=0).find("coco", 5, "cc", 0b1111) is not None
