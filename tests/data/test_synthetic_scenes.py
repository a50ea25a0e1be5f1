"""Reads the files of the synthetic world with the readers of the public formats. No planted relation may get lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.datasets.record import ImageRecord
from pipeline.data.datasets.source import DataSource
from pipeline.data.datasets.validate import validate
from scenes.dataset import SceneFolders, write_scenes
from scenes.settings import SceneSettings
from tests.data.toy_sets import read_all


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SceneFolders:
    """Writes a few scenes in each format."""
    settings = SceneSettings(seed=3, train=6, objects365=4, relations=5, test=4, processes=1)
    return write_scenes(tmp_path_factory.mktemp("made") / "scenes", settings)


def checked(source: DataSource) -> list[ImageRecord]:
    reader, records = read_all(source)
    assert not reader.rejects
    found = []
    for record in records:
        usable, rejects = validate(record)
        assert usable is not None and [reject.reason for reject in rejects] == []
        found.append(usable)
    return found


def planted(path: Path) -> list[set[tuple[str, str, str]]]:
    return [
        {(relation["subject"], relation["predicate"], relation["object"]) for relation in image["relations"]}
        for image in json.loads(path.read_text())
    ]


def read_back(records: list[ImageRecord]) -> list[set[tuple[str, str, str]]]:
    return [
        {(r.boxes[x.subject].category, x.predicate, r.boxes[x.object].category) for x in r.relations} for r in records
    ]


def relations(path: Path, field: str) -> list[int]:
    content: list[dict[str, Any]] = json.loads(path.read_text())
    return [len(image[field]) for image in content]


SETS = {
    "coco": ("coco_images", "coco_instances", {"relations": "coco_relations"}),
    "objects365": ("objects365_images", "objects365_instances", {"relations": "objects365_relations"}),
    "visual_genome": ("vg_images", "vg_relationships", {"image_data": "vg_image_data", "objects": "vg_objects"}),
    "hico_det": ("hico_images", "hico_test", {"verbs": "hico_verbs", "objects": "hico_objects"}),
}
"""Format → the folder of images, the annotations, and further files, by their names in `SceneFolders`."""


@pytest.mark.parametrize("format_name", SETS)
def test_no_relation_gets_lost(made, format_name):
    images, annotations, more = SETS[format_name]
    files = {setting: getattr(made, name) for setting, name in more.items()}
    places = {"images": getattr(made, images), "annotations": getattr(made, annotations)}
    records = checked(DataSource(name="made", format=format_name, split="test", **places, **files))
    fields = {"visual_genome": "relationships", "hico_det": "hoi_annotation"}
    written = places["annotations"] if format_name in fields else files["relations"]
    counts = relations(written, fields.get(format_name, "relations"))
    assert records and [len(record.relations) for record in records] == counts
    if "relations" in files:
        assert read_back(records) == planted(written)
        assert all(box.source_id > 0 for record in records for box in record.boxes)
    if format_name == "visual_genome":
        assert [len(record.boxes) for record in records] == relations(made.vg_objects, "objects")
