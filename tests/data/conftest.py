"""Builds small datasets on disk for the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.datasets.source import DataSource
from tests.data.toy_sets import save_json, save_picture

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 19, "name": "horse"}]
Build = Callable[..., DataSource]


@pytest.fixture
def coco(tmp_path: Path) -> Build:
    """Returns a function that writes a COCO-format dataset, with a 100 x 80 image per file name not in `without`."""

    def build(
        images: list[Any],
        annotations: list[Any],
        relations: Any = None,
        categories: list[Any] = CATEGORIES,
        without: tuple[str, ...] = (),
        **settings: Any,
    ) -> DataSource:
        folder = tmp_path / "images"
        folder.mkdir()
        for image in images:
            name = image.get("file_name") if isinstance(image, dict) else None
            if isinstance(name, str) and name not in without and ".." not in name and not name.startswith("/"):
                save_picture(folder / name)
        content = {"images": images, "annotations": annotations, "categories": categories}
        chosen: dict[str, Any] = {
            "name": "toy", "format": "coco", "images": folder,
            "annotations": save_json(tmp_path / "instances.json", content), **settings,
        }  # fmt: skip
        if relations is not None:
            chosen["relations"] = save_json(tmp_path / "relations.json", relations)
        return DataSource(**chosen)

    return build
