"""Tests Visual Genome's relationships, objects and aliases."""

from pathlib import Path
from typing import Any

from pipeline.data.datasets.record import AnnotatedRelation, Box
from pipeline.data.datasets.source import DataSource
from tests.data.toy_sets import checked, read_all, save_json, save_picture, text


def thing(number: int, name: str, x: int = 0, y: int = 0, w: int = 20, h: int = 20, **more: Any) -> dict[str, Any]:
    return {"object_id": number, "name": name, "x": x, "y": y, "w": w, "h": h, **more}


def fact(subject: dict[str, Any], predicate: Any, target: Any) -> dict[str, Any]:
    return {"relationship_id": 1, "subject": subject, "predicate": predicate, "object": target}


def genome(
    folder: Path, relationships: Any, files: dict[str, Any] | None = None, image_ids: tuple[int, ...] = (1,)
) -> DataSource:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for image_id in image_ids:
        save_picture(images / f"{image_id}.jpg")
    extra = {
        name: (text if isinstance(content, str) else save_json)(folder / name, content)
        for name, content in (files or {}).items()
    }
    path = save_json(folder / "relationships.json", relationships)
    return DataSource(name="vg", format="visual_genome", images=images, annotations=path, **extra)


def one(relations: list[Any], image_id: Any = 1) -> list[Any]:
    return [{"image_id": image_id, "relationships": relations}]


MAN, HAT, DOG = thing(1, "Man", 10, 10, 40, 60), thing(2, "red  Hat", 20, 5, 20, 10), thing(3, "dog", 60, 40, 30, 30)


def test_names_and_predicates_are_lower_case_and_boxes_shared(tmp_path):
    relations = [fact(MAN, "WEARS", HAT), fact(MAN, " next  to", thing(3, "", 60, 40, 30, 30, names=["Dog", "puppy"]))]
    _, (record,) = read_all(genome(tmp_path, one(relations)))
    assert record.boxes == (
        Box("man", 10, 10, 40, 60, False, 1),
        Box("red hat", 20, 5, 20, 10, False, 2),
        Box("dog", 60, 40, 30, 30, False, 3),
    )
    assert record.relations == (AnnotatedRelation(0, "wears", 1), AnnotatedRelation(0, "next to", 2))
    assert (record.dataset, record.image_id, record.path.name, record.width) == ("vg", 1, "1.jpg", None)
    assert [(reject.reason, reject.value) for reject in record.rejects] == [("further name", "dog: puppy")]


def test_exact_and_near_duplicates_go_and_aliases_only_compare(tmp_path):
    same_man = thing(11, "man", 11, 10, 40, 60)
    relations = [
        fact(MAN, "near", DOG), fact(MAN, "near", DOG), fact(same_man, "beside", DOG), fact(same_man, "holding", DOG),
        fact(thing(12, "man", 50, 10, 40, 60), "near", DOG),
    ]  # fmt: skip
    files = {"predicate_aliases": "near,next to,beside\n", "object_aliases": "man,guy\n"}
    _, (record,) = read_all(genome(tmp_path, one(relations), files))
    assert [relation.predicate for relation in record.relations] == ["near", "holding", "near"]
    assert [reject.reason for reject in record.rejects] == ["relation duplicate", "relation near-duplicate"]
    assert record.rejects[1].value == "man beside dog"


def test_an_image_keeps_its_first_hundred_relations(tmp_path):
    relations = [fact(MAN, f"predicate {number}", DOG) for number in range(105)]
    _, (record,) = read_all(genome(tmp_path, one(relations)))
    assert [relation.predicate for relation in record.relations] == [f"predicate {n}" for n in range(100)]
    assert [reject.reason for reject in record.rejects] == ["relation above 100"] * 5


def test_what_can_not_be_used(tmp_path):
    relations = [
        fact(MAN, "on", {"object_id": 9, "name": "bench", "x": 1}), fact(MAN, "on", thing(10, " ")),
        fact(MAN, "  ", DOG), fact(MAN, 5, DOG), fact(MAN, "on", None), "nonsense", fact(MAN, "near", DOG),
    ]  # fmt: skip
    content = [*one(relations), *one([]), {"image_id": 2}, {"relationships": []}, 7]
    reader, records = read_all(genome(tmp_path, content))
    assert [record.image_id for record in records] == [1]
    assert [reject.reason for reject in records[0].rejects] == [
        "relation without box", "relation without box", "relation malformed", "relation malformed",
        "relation without box", "relation malformed",
    ]  # fmt: skip
    assert [(reject.image_id, reject.reason) for reject in reader.rejects] == [
        (1, "duplicate image id"), (2, "relations malformed"), (-1, "image id not an integer"),
        (-1, "image id not an integer"),
    ]  # fmt: skip


def test_image_data_orders_and_objects_add_boxes(tmp_path):
    files = {
        "image_data": [{"image_id": 2, "width": 100, "height": 80}, {"image_id": 1, "width": 90, "height": 80}],
        "objects": [{"image_id": 1, "objects": [DOG, thing(7, "", names=["tree"])]}, {"image_id": 5, "objects": []}],
    }
    content = [*one([fact(MAN, "near", DOG)]), *one([], image_id=3)]
    reader, records = read_all(genome(tmp_path, content, files, image_ids=(1, 2)))
    assert [(record.image_id, record.width) for record in records] == [(2, 100), (1, 90)]
    assert [box.category for box in records[1].boxes] == ["man", "dog", "tree"]
    assert [(reject.image_id, reject.reason) for reject in reader.rejects] == [
        (3, "relations of unknown image"),
        (5, "annotations of unknown image"),
    ]


def test_images_may_lie_in_the_two_official_folders(tmp_path):
    content = [*one([fact(MAN, "near", DOG)]), *one([], image_id=2)]
    source = genome(tmp_path, content, image_ids=())
    save_picture(source.images / "VG_100K_2" / "1.jpg")
    save_picture(source.images / "VG_100K" / "2.jpg")
    _, records = read_all(source)
    assert [record.path.parent.name for record in records] == ["VG_100K_2", "VG_100K"]


def test_real_images(shared):
    folder = shared / "data" / "visual_genome"
    names = {"annotations": "relationships_1.json", "predicate_aliases": "predicate_alias.txt"}
    files = {setting: folder / name for setting, name in names.items()} | {
        "object_aliases": folder / "object_alias.txt"
    }
    source = DataSource(name="vg", format="visual_genome", images=folder / "images", **files)
    _, (record,) = read_all(source)
    usable, _ = checked(record)
    assert usable is not None and len(usable.relations) > 20
    assert ("man", "wearing", "glasses") in {
        (usable.boxes[r.subject].category, r.predicate, usable.boxes[r.object].category) for r in usable.relations
    }
