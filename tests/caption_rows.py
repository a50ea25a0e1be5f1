"""Stage `caption` run on pictures that are given."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.captioning.settings import CaptionSettings
from pipeline.stage import Inputs
from pipeline.stages.caption import CaptionStage
from storage.artifact import Artifact
from storage.tables import IMAGES, write_table

ONE_BOX = {"category": "dog", "x": 0, "y": 0, "w": 5, "h": 5, "crowd": False, "source_id": 1}


def caption_rows(
    folder: Path, pictures: list[Image.Image], boxes: Sequence[dict[str, Any]] = (ONE_BOX,), **changed: Any
) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """The captions of the stage's rows, and its facts."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    images = []
    for number, picture in enumerate(pictures):
        picture.save(folder / "pictures" / f"{number}.png")
        images.append({"image_id": number, "dataset": "set", "uri": f"{number}.png", "boxes": list(boxes)})
    write_table(pa.Table.from_pylist(images, schema=IMAGES), folder / "images.parquet")
    stage = CaptionStage(CaptionSettings(**changed), {"set": folder / "pictures"})
    stage.open(Inputs())
    inputs = Inputs({"images": [Artifact(folder)]})
    output = stage.run(inputs, folder, lambda done, total, note="": None)
    return [row["captions"] for row in output.table.to_pylist()], stage.describe(inputs, output.table) | dict(
        output.facts
    )
