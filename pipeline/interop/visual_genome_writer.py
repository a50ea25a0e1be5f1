"""Writes annotations in Visual Genome's layout, whose images are named by their ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.interop.annotation_images import AnnotationImages, size_fields
from pipeline.interop.json_writer import number, write_list


def write_visual_genome_annotations(images: AnnotationImages, folder: Path) -> None:
    """Writes `relationships.json`, `objects.json` and `image_data.json`, with object ids from 1."""
    sizes: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    write_list(folder / "relationships.json", _relationships(images, sizes, objects))
    write_list(folder / "objects.json", objects)
    write_list(folder / "image_data.json", sizes)


def _relationships(
    images: AnnotationImages, sizes: list[dict[str, Any]], objects: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yields the relations of each image, and adds its size and objects to their lists."""
    following = 1
    for record, uri in images:
        boxes, relations = images.without_crowds(record)
        images.tally.note("file name (images are named by their ids)", int(uri != f"{record.image_id}.jpg"))
        items = [
            {"object_id": key, "names": [box.category], **{side: number(getattr(box, side)) for side in "xywh"}}
            for key, box in enumerate(boxes, start=following)
        ]
        following += len(items)
        sizes.append({"image_id": record.image_id, **size_fields(record)})
        objects.append({"image_id": record.image_id, "objects": items})
        yield {
            "image_id": record.image_id,
            "relationships": [
                {"predicate": each.predicate, "subject": items[each.subject], "object": items[each.object]}
                for each in relations
            ],
        }
