"""Writes a run as a COCO dataset with captions, and with relations between annotations as SGG-Benchmark reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.interop.further_fields import PNG, FurtherFields, further_fields, keeps_fields
from pipeline.interop.json_writer import number, write_object
from pipeline.interop.run_rows import RunRows, Tally, captions_of, numbered_names, relations_of, size_fields

_OF_CATEGORIES = ("neg_category_ids", "not_exhaustive_category_ids")
"""Fields of LVIS's images that list ids of categories."""
Annotations = Mapping[int, list[dict[str, Any]]]
"""Image id → the entries of its boxes, in stored order."""


@keeps_fields
def write_coco(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `instances.json` and `captions.json` for each dataset.

    Fields that the store's tables lack come from the run's annotation file, if it still exists. Ids of `rel_categories`
    are places in that list, from 0, as SGG-Benchmark takes them.
    """
    for dataset, place in rows.folders(folder):
        objects, predicates = numbered_names(rows, dataset, threshold)
        stated = further_fields(rows, dataset, tally)
        instances, annotations = coco_instances(rows, dataset, objects, stated, tally)
        if relations := list(_relations(rows, dataset, threshold, tally, annotations, predicates)):
            instances["rel_annotations"] = relations
        if predicates:
            instances["rel_categories"] = [{"id": key - 1, "name": name} for name, key in predicates.items()]
        write_object(place / "instances.json", instances.items())
        if captions := list(_captions(rows, dataset, tally)):
            listed = {**stated.header, "images": instances["images"], "annotations": captions}
            write_object(place / "captions.json", listed.items())


def coco_instances(
    rows: RunRows, dataset: str, objects: Mapping[str, int], stated: FurtherFields, tally: Tally
) -> tuple[dict[str, Any], Annotations]:
    """Returns the fields of COCO's instances JSON, and its annotations by image.

    A box keeps its source id if that is positive and not yet taken, and its further fields, e.g. outline and its area.
    """
    images: list[dict[str, Any]] = []
    annotations: dict[int, list[dict[str, Any]]] = {}
    taken: set[int] = set()
    following = 1
    is_renumbered = any(stated.numbers.get(name, key) != key for name, key in objects.items())
    for image in rows.images(dataset, "images"):
        row, own = image.rows["images"], annotations.setdefault(image.image_id, [])
        known = {"id": image.image_id, "file_name": row["uri"], **size_fields(row)}
        common = stated.image(image.image_id)
        for name in _OF_CATEGORIES if is_renumbered else ():
            lost = common.pop(name, None) is not None
            tally.note(f"field images.{name}, since categories have other ids here", int(lost))
        images.append({**known, **common})
        for box, further in zip(row["boxes"], stated.boxes(row, tally), strict=True):
            has_png = "segments_info" in further and (PNG in further or PNG in common)
            unread = has_png and "segmentation" not in further
            tally.note("mask in a PNG, read with --masks", int(unread))
            key = box["source_id"]
            if key is None or key <= 0 or key in taken:
                while following in taken:
                    following += 1
                key = following
            taken.add(key)
            own.append(
                {
                    "id": key,
                    "image_id": image.image_id,
                    "category_id": objects[box["category"]],
                    "bbox": [number(box[side]) for side in "xywh"],
                    "area": number(box["w"] * box["h"]),
                    "iscrowd": int(box["crowd"]),
                    "segmentation": [],  # without it, CVAT refuses the file, and pycocotools draws no boxes
                    **further,
                }
            )
        tally.note("digest of an image", int(bool(row["digest"])))
    categories = [{"id": key, "name": name, **stated.category(name)} for name, key in objects.items()]
    every = [box for own in annotations.values() for box in own]
    tally.wrote.update({"images": len(images), "boxes": len(every)})
    return {**stated.header, "images": images, "annotations": every, "categories": categories}, annotations


def _relations(
    rows: RunRows, dataset: str, threshold: float, tally: Tally, annotations: Annotations, predicates: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    key = count()
    for image in rows.images(dataset, "images", "relations"):
        ids = [box["id"] for box in annotations.get(image.image_id, ())]
        for relation in relations_of(image, threshold, tally):
            is_scored = "score" in relation
            tally.note("origin and calibration of a relation", int(is_scored))
            tally.wrote["relations"] += 1
            yield {
                "id": next(key),
                "subject_id": ids[relation["subject"]],
                "predicate_id": predicates[relation["predicate"]] - 1,
                "object_id": ids[relation["object"]],
                "image_id": image.image_id,
                **({"score": number(relation["score"])} if is_scored else {}),
            }


def _captions(rows: RunRows, dataset: str, tally: Tally) -> Iterator[dict[str, Any]]:
    key = count(1)
    for image in rows.images(dataset, "captions"):
        for caption in captions_of(image, tally):
            yield {"id": next(key), "image_id": image.image_id, "caption": caption["text"]}
