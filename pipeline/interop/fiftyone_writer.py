"""Writes a run as folders that FiftyOne loads as `fiftyone.types.FiftyOneDataset` (docs/review.md, Exchange).

Since `metadata.json` states no version, FiftyOne reads `samples.json` as plain `Sample.from_dict` documents, which need
no database ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.interop.json_writer import number, write_list
from pipeline.interop.run_rows import RunRows, Tally, corners_of, labelled_images


def write_fiftyone(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `metadata.json` and `samples.json` for each dataset. Put the images in `data/` next to them."""
    for dataset, place in rows.folders(folder):
        info = {"run": rows.run.name, "dataset": dataset}
        (place / "metadata.json").write_text(json.dumps({"name": f"{rows.run.name}-{dataset}", "info": info}) + "\n")
        write_list(place / "samples.json", _samples(rows, dataset, threshold, tally), within="samples")


def _samples(rows: RunRows, dataset: str, threshold: float, tally: Tally) -> Iterator[dict[str, Any]]:
    for row, relations in labelled_images(rows, dataset, threshold, tally, sized=True):
        yield {
            "filepath": f"data/{row['uri']}",
            "tags": [row["split"]] if row["split"] else [],
            "metadata": {"_cls": "ImageMetadata", "width": row["width"], "height": row["height"]},
            "image_id": row["image_id"],
            "digest": row["digest"],
            "boxes": _detections([_box(row, box, place) for place, box in enumerate(row["boxes"])]),
            "relations": _detections([_relation(row, relation) for relation in relations]),
        }


def _detections(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"_cls": "Detections", "detections": found}


def _box(row: Mapping[str, Any], box: Mapping[str, Any], place: int) -> dict[str, Any]:
    return {**_detection(row, box["category"], corners_of(box)), "index": place, "iscrowd": bool(box["crowd"])}


def _relation(row: Mapping[str, Any], relation: Mapping[str, Any]) -> dict[str, Any]:
    """A relation as a detection around both of its boxes. `subject` and `object` are the `index` of these boxes."""
    ends = row["boxes"][relation["subject"]], row["boxes"][relation["object"]]
    lefts, tops, rights, bottoms = zip(*map(corners_of, ends), strict=True)
    corners = min(lefts), min(tops), max(rights), max(bottoms)
    names = {"subject_category": ends[0]["category"], "object_category": ends[1]["category"]}
    score = {"confidence": number(relation["score"])} if "score" in relation else {}
    places = {"subject": relation["subject"], "object": relation["object"]}
    return {**_detection(row, relation["predicate"], corners), **score, **places, **names}


def _detection(row: Mapping[str, Any], label: str, corners: tuple[float, float, float, float]) -> dict[str, Any]:
    """FiftyOne's detection: left, top, width and height relative to the image's size."""
    left, top, right, bottom = corners
    sides = left / row["width"], top / row["height"], (right - left) / row["width"], (bottom - top) / row["height"]
    return {"_cls": "Detection", "tags": [], "label": label, "bounding_box": [round(side, 6) for side in sides]}
