"""Writes a run in RLIPv2's HICO-DET layout: boxes as corners, pairs by box index, names in separate files by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.interop.json_writer import number, write_list, write_object
from pipeline.interop.run_rows import RunRows, Tally, corners_of, labelled_images, numbered_names, size_fields


def write_hico(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `annotations.json`, `verbs.json` and `objects.json` for each dataset."""
    rows.require_kept()
    for dataset, place in rows.folders(folder):
        objects, verbs = numbered_names(rows, dataset, threshold)
        write_list(place / "annotations.json", _elements(rows, dataset, threshold, tally, objects, verbs))
        write_object(place / "objects.json", objects.items())
        write_object(place / "verbs.json", verbs.items())


def _elements(
    rows: RunRows, dataset: str, threshold: float, tally: Tally, objects: Mapping[str, int], verbs: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    for row, relations in labelled_images(rows, dataset, threshold, tally, crowds=False, scored=False):
        yield {
            "file_name": row["uri"],
            "img_id": row["image_id"],
            **size_fields(row),
            "annotations": [
                {"bbox": list(map(number, corners_of(box))), "category_id": objects[box["category"]]}
                for box in row["boxes"]
            ],
            "hoi_annotation": [
                {"subject_id": each["subject"], "object_id": each["object"], "category_id": verbs[each["predicate"]]}
                for each in relations
            ],
        }
