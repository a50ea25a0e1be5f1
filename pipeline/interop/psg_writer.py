"""Writes a run in PSG's layout (Yang et al. 2022): images with segments, their boxes, and relations between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.evaluation.detections.table import is_rle
from pipeline.interop.further_fields import PNG, further_fields, keeps_fields
from pipeline.interop.json_writer import number, write_object
from pipeline.interop.run_rows import RunRows, Tally, corners_of, labelled_images, numbered_names, size_fields

_IMAGE_FIELDS = (PNG, "coco_image_id")
_HELD = frozenset(
    {
        *(f"images.{name}" for name in _IMAGE_FIELDS),
        *(f"annotations.{name}" for name in ("area", "segments_info", "segmentation", PNG)),
        "categories.isthing",
    }
)
"""Further fields that the layout has a place for."""


@keeps_fields
def write_psg(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `psg.json` for each dataset, and PNGs of the masks that it has as polygons or RLEs.

    Images of a split "test" are in `test_image_ids`. Classes are things unless the source says that they are stuff.
    """
    rows.require_kept()
    for dataset, place in rows.folders(folder):
        objects, predicates = numbered_names(rows, dataset, threshold)
        stated = further_fields(rows, dataset, tally)
        things = [name for name in objects if stated.category(name).get("isthing", 1)]
        stuff = [name for name in objects if name not in things]
        numbers = {name: key for key, name in enumerate(things + stuff)}
        data: list[dict[str, Any]] = []
        test: list[str] = []
        for row, relations in labelled_images(rows, dataset, threshold, tally, scored=False):
            image_id, boxes = row["image_id"], row["boxes"]
            fields, further = stated.boxes(row, tally), stated.image(image_id)
            if png := next((own[PNG] for own in fields if PNG in own), None):
                further.setdefault(PNG, png)
            segments = [
                {"id": key, "iscrowd": int(box["crowd"]), "area": own.get("area", number(box["w"] * box["h"]))}
                | (segment if isinstance(segment := own.get("segments_info"), dict) else {})
                | {"category_id": numbers[box["category"]], "isthing": int(box["category"] in things)}
                for key, (box, own) in enumerate(zip(boxes, fields, strict=True), start=1)
            ]
            if PNG not in further and row["width"] and any("segmentation" in own for own in fields):
                further[PNG] = f"masks/{image_id}.png"
                _write_masks(place / further[PNG], row, fields, segments, tally)
            tally.note("image without masks, which OpenPSG can't load", int(PNG not in further))
            data.append(
                {
                    "file_name": row["uri"],
                    **size_fields(row),
                    "image_id": str(image_id),
                    **{name: further[name] for name in _IMAGE_FIELDS if name in further},
                    "segments_info": segments,
                    "annotations": [
                        {"bbox": _corners(box), "bbox_mode": 0, "category_id": numbers[box["category"]]}
                        for box in boxes
                    ],
                    "relations": [
                        [each["subject"], each["object"], predicates[each["predicate"]] - 1] for each in relations
                    ],
                }
            )
            if row["split"] == "test":
                test.append(str(image_id))
        for field, count in stated.counts.items():
            tally.note(f"field {field}", 0 if field in _HELD else count)
        lists = {"data": data, "thing_classes": things, "stuff_classes": stuff}
        write_object(place / "psg.json", {**lists, "predicate_classes": [*predicates], "test_image_ids": test}.items())


def _corners(box: Mapping[str, Any]) -> list[float]:
    """The box as left, top, right, bottom, in whole numbers where possible, as PSG states them."""
    return [int(side) if side.is_integer() else side for side in map(number, corners_of(box))]


def _write_masks(
    path: Path,
    row: Mapping[str, Any],
    fields: Sequence[Mapping[str, Any]],
    segments: Sequence[dict[str, Any]],
    tally: Tally,
) -> None:
    """Writes the masks of an image's boxes as one PNG. A pixel of several masks belongs to the smallest."""
    shape = (row["height"], row["width"])
    masks = {
        place: mask for place, own in enumerate(fields) if (mask := _mask(own.get("segmentation"), shape)) is not None
    }
    tally.note("box without a usable mask", len(fields) - len(masks))
    pixels = np.zeros(shape, np.uint32)
    for place, mask in sorted(masks.items(), key=lambda entry: -np.count_nonzero(entry[1])):
        pixels[mask] = place + 1
    for place, segment in enumerate(segments):
        segment |= {"id": place + 1, "area": int(np.count_nonzero(pixels == place + 1))}
    covered = sum(map(np.count_nonzero, masks.values())) - np.count_nonzero(pixels)
    tally.note("pixel of a mask under another one", int(covered))
    path.parent.mkdir(exist_ok=True)
    # Like COCO panoptic, PSG reads a segment's id as R + 256 G + 65536 B.
    Image.fromarray(np.stack([pixels >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)).save(path)


def _mask(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """COCO's polygons or RLEs as pixels; None if they can't be read or are of another size."""
    from pycocotools.mask import decode, frPyObjects, merge

    try:
        if isinstance(segmentation, list):
            found = decode(merge(frPyObjects(segmentation, *shape)))
        elif isinstance(segmentation["counts"], list):
            found = decode(frPyObjects(segmentation, *segmentation["size"]))
        else:
            found = decode(segmentation) if is_rle(segmentation) else np.zeros(0)
    except Exception:  # pycocotools raises no specific type
        return None
    return found.astype(bool) if found.shape == shape else None
