"""Writes a run in RLIPv2's HICO-DET layout: boxes as corners, pairs by box index, names in separate files by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.interop.coco_writer import category_ids
from pipeline.interop.json_writer import number, write_list, write_object
from pipeline.interop.run_rows import RunRows, Tally, relations_of, without_crowds


def write_hico(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `annotations.json`, `verbs.json` and `objects.json` for each dataset."""
    rows.require_kept()
    for dataset in rows.ingested():
        place = folder / dataset
        place.mkdir()
        objects = category_ids(rows, dataset)
        verbs: dict[str, int] = {}
        write_list(place / "annotations.json", _elements(rows, dataset, threshold, tally, objects, verbs))
        write_object(place / "objects.json", objects.items())
        write_object(place / "verbs.json", verbs.items())


def _elements(
    rows: RunRows, dataset: str, threshold: float, tally: Tally, objects: dict[str, int], verbs: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yields images with their pairs and adds each new predicate to `verbs`, with ids from 1."""
    for image in rows.images(dataset, "images", "relations"):
        row = image.rows.get("images")
        if row is None:
            continue
        boxes, relations = without_crowds(image, relations_of(image, threshold, tally), tally)
        tally.note("score, origin and calibration of a relation", sum("score" in relation for relation in relations))
        tally.note("size and digest of an image", 1)
        tally.wrote.update({"images": 1, "boxes": len(boxes), "relations": len(relations)})
        yield hico_image(
            {"file_name": row["uri"], "img_id": row["image_id"]},
            [([box[side] for side in "xywh"], objects[box["category"]]) for box in boxes],
            [
                (each["subject"], verbs.setdefault(each["predicate"], len(verbs) + 1), each["object"])
                for each in relations
            ],
        )


def hico_image(
    head: dict[str, Any], boxes: Iterable[tuple[Sequence[float], int]], relations: Iterable[tuple[int, int, int]]
) -> dict[str, Any]:
    """An element of `annotations.json`.

    `head`: file name and id. `boxes`: x, y, width, height and object id. `relations`: index of the subject's box, verb
    id and index of the object's box.
    """
    return {
        **head,
        "annotations": [
            {"bbox": [number(side) for side in (x, y, x + w, y + h)], "category_id": category}
            for (x, y, w, h), category in boxes
        ],
        "hoi_annotation": [
            {"subject_id": subject, "object_id": object_, "category_id": verb} for subject, verb, object_ in relations
        ],
    }
