"""Reads the files of the synthetic world with the readers of the public formats. No planted relation may get lost."""

from __future__ import annotations

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


def test_coco(made: SceneFolders) -> None:
    source = DataSource(
        name="coco",
        format="coco",
        images=made.coco_images,
        annotations=made.coco_instances,
        relations=made.coco_relations,
    )
    records = checked(source)
    assert len(records) == 6 and read_back(records) == planted(made.coco_relations)
    assert [len(record.relations) for record in records] == relations(made.coco_relations, "relations")
    assert all(box.source_id > 0 for record in records for box in record.boxes)


def test_objects365(made: SceneFolders) -> None:
    source = DataSource(
        name="o365",
        format="objects365",
        images=made.objects365_images,
        annotations=made.objects365_instances,
        relations=made.objects365_relations,
    )
    records = checked(source)
    assert len(records) == 4 and read_back(records) == planted(made.objects365_relations)
    assert all(box.source_id > 0 for record in records for box in record.boxes)


def test_visual_genome(made: SceneFolders) -> None:
    source = DataSource(
        name="vg",
        format="visual_genome",
        images=made.vg_images,
        annotations=made.vg_relationships,
        image_data=made.vg_image_data,
        objects=made.vg_objects,
    )
    records = checked(source)
    assert [len(record.relations) for record in records] == relations(made.vg_relationships, "relationships")
    assert [len(record.boxes) for record in records] == relations(made.vg_objects, "objects")


def test_hico_det(made: SceneFolders) -> None:
    source = DataSource(
        name="hico",
        format="hico_det",
        split="test",
        images=made.hico_images,
        annotations=made.hico_test,
        verbs=made.hico_verbs,
        objects=made.hico_objects,
    )
    records = checked(source)
    assert [len(record.relations) for record in records] == relations(made.hico_test, "hoi_annotation")
