"""Runs stage `caption` on given images."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from toy_store import commit

from pipeline.captioning.settings import CaptionSettings
from pipeline.runtime.stage import Inputs
from pipeline.stages.caption import CaptionStage
from storage.artifact import Artifact
from storage.digests import digest_file
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.tables import IMAGES, table_bytes

ONE_BOX = {"category": "dog", "x": 0, "y": 0, "w": 5, "h": 5, "crowd": False, "source_id": 1}


def images_artifact(root: Path, images: Sequence[dict[str, Any]]) -> Artifact:
    """Commit rows of the images table to a store at `root`, as stage `ingest` does."""
    data = table_bytes(pa.Table.from_pylist(list(images), schema=IMAGES))
    return commit(
        LocalStore(root), KeyTerms("ingest", 1, {}, {}), "images.parquet", data, partition="set/0000", rows=len(images)
    )


def caption_rows(
    folder: Path, pictures: list[Image.Image], boxes: Sequence[dict[str, Any]] = (ONE_BOX,), **changed: Any
) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """Caption `pictures`. Returns the captions of each row, and the facts of the stage."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    images = []
    for number, picture in enumerate(pictures):
        path = folder / "pictures" / f"{number}.png"
        picture.save(path)
        row = {"image_id": number, "dataset": "set", "uri": path.name, "digest": digest_file(path)}
        images.append({**row, "boxes": list(boxes)})
    stage = CaptionStage(CaptionSettings(**changed), {"set": folder / "pictures"})
    stage.open(Inputs())
    inputs = Inputs({"images": [images_artifact(folder / "store", images)]})
    output = stage.run(inputs, folder, lambda done, total, note="": None)
    return [row["captions"] for row in output.table.to_pylist()], stage.describe(inputs, output.table) | dict(
        output.facts
    )
