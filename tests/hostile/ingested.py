"""Feeds a dataset to the stage that reads it, planned first as a run does."""

from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.data.datasets.source import DataSource
from pipeline.runtime.stage import Inputs
from pipeline.stages.ingest import IngestSettings, IngestStage
from storage.local_store import LocalStore
from tests.hostile.case import written

GOOD = "good.png"
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 2, "name": "horse"}]


def good_image(folder: Path) -> None:
    """Writes the one image of a set that nothing is wrong with."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (90, 90, 200)).save(folder / GOOD)


def instances(images: list[Any] | None = None, annotations: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    """A set with one good image and one good box, and with what a case adds."""
    first = {"id": 1, "file_name": GOOD, "width": 64, "height": 48}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 30], "iscrowd": 0}
    return {
        "images": [*(images or []), first], "annotations": [box, *(annotations or [])], "categories": CATEGORIES, **more,
    }  # fmt: skip


def ingested(folder: Path, content: Any, root: Path | str | None = None, **source: Any) -> str:
    """Reads a set as a run does, in COCO's format by default, from `content` or else from what lies in set.json already.

    Tells how many images came out, and each reason with its value.
    """
    pictures = folder / "images" if root is None else root
    if isinstance(pictures, Path) and pictures.suffix != ".tar":
        good_image(pictures)
    annotations = folder / "set.json"
    if content is not None:
        written(annotations, content)
    given = DataSource(**{"name": "set", "format": "coco", "images": pictures, "annotations": annotations, **source})
    settings = IngestSettings(sources=(given,), indexes=folder / "indexes", partition_size=1000)
    stage, store = IngestStage(settings), LocalStore(folder / "store")
    kept, reasons = [], []
    for partition in stage.partitions("set", store):
        output = stage.run(Inputs(partition=partition.name, image_ids=partition.image_ids), folder, lambda *_: None)
        kept += output.table.to_pylist()
        reasons += [f"{reject.image_id} {reject.reason}: {reject.value}" for reject in output.rejected]
    boxes = sum(len(row["boxes"]) for row in kept)
    return f"kept {len(kept)} images, {boxes} boxes; quarantined {'; '.join(reasons) or 'nothing'}"
