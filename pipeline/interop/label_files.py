"""Writes a run's labels in two simple files: JSON by image, and Parquet by label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.interop.json_writer import number, write_list
from pipeline.interop.run_rows import ImageRows, RunRows, Tally, captions_of, relations_of
from pipeline.labels.label_rows import LABELS, flat_labels
from pipeline.labels.labelled_partitions import images_with_boxes
from pipeline.runtime.stage import dataset_of
from storage.atomic import atomic_folder
from storage.errors import FatalError, translate_os_errors
from storage.runs import Run
from storage.tables import DETECTIONS_FILE, write_table

JSON, PARQUET = "labels.json", "labels.parquet"


@dataclass(frozen=True)
class LabelFiles:
    """The files written, and their contents."""

    json: str
    parquet: str
    images: int = 0
    boxes: int = 0
    captions: int = 0
    labels: int = 0
    """Relations that the run keeps."""


def write_label_files(run: Run, folder: Path) -> LabelFiles:
    """Writes a run's boxes, captions and kept labels to a folder, replacing earlier files of this command.

    Raises `FatalError` if the folder contains other files or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {JSON, PARQUET}):
        raise FatalError(
            f"{folder} exists and contains files other than {JSON} and {PARQUET}; name another folder with --out"
        )
    rows = RunRows(run)
    tally = Tally()
    with translate_os_errors(f"writing {folder}"), atomic_folder(folder, replace=True) as aside:
        write_list(aside / JSON, _images(rows, _scores(run), tally))
        tables = [table.filter(pc.field("kept")) for table in flat_labels(run)]
        write_table(pa.concat_tables([LABELS.empty_table(), *tables]), aside / PARQUET)
    return LabelFiles(str(folder / JSON), str(folder / PARQUET), **tally.wrote)


def _images(rows: RunRows, scores: Mapping[tuple[str, int], Sequence[float]], tally: Tally) -> Iterator[dict[str, Any]]:
    for dataset in rows.datasets():
        for image in rows.images(dataset, "images", "captions", "relations"):
            yield _image(image, scores.get((dataset, image.image_id), ()), tally)


def _image(image: ImageRows, scores: Sequence[float], tally: Tally) -> dict[str, Any]:
    row = image.rows["images"]
    boxes = [
        {"category": box["category"], "box": [number(box[side]) for side in "xywh"]}
        | ({"score": number(scores[place])} if scores else {})
        for place, box in enumerate(row["boxes"])
    ]
    relations = [
        {**{name: r[name] for name in ("subject", "predicate", "object")}, "score": number(r["score"])}
        for r in relations_of(image, 0.0, Tally())
        if "score" in r
    ]
    tally.wrote.update({"images": 1, "boxes": len(boxes), "labels": len(relations)})
    return {
        "file_name": row["uri"],
        "width": row["width"],
        "height": row["height"],
        "boxes": boxes,
        "captions": [caption["text"] for caption in captions_of(image, tally)],
        "relations": relations,
    }


def _scores(run: Run) -> dict[tuple[str, int], list[float]]:
    """The detector's scores by dataset and image, in the order of the boxes; empty if boxes were annotated."""
    return {
        (dataset_of(partition), row["image_id"]): [box["score"] for box in row["boxes"]]
        for partition, artifact in images_with_boxes(run).items()
        if DETECTIONS_FILE in artifact.manifest.files
        for row in artifact.table("detections").to_pylist()
    }
