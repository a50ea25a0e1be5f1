"""Writes a run in the layouts of Visual Genome, as published, and of VG150 (Xu et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.data.datasets.vg150 import DAMAGED, SCALE, TEST, VALIDATION_IMAGES
from pipeline.interop.json_writer import number, write_list, write_object
from pipeline.interop.run_rows import NAMED_BY_ID, RunRows, Tally, labelled_images, numbered_names, size_fields
from storage.errors import FatalError


def write_visual_genome(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `relationships.json`, `objects.json` and `image_data.json` for each dataset, with object ids from 1."""
    rows.require_kept()
    for dataset, place in rows.folders(folder):
        sizes: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        write_list(place / "relationships.json", _relationships(rows, dataset, threshold, tally, sizes, objects))
        write_list(place / "objects.json", objects)
        write_list(place / "image_data.json", sizes)


def _relationships(
    rows: RunRows,
    dataset: str,
    threshold: float,
    tally: Tally,
    sizes: list[dict[str, Any]],
    objects: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Yields the relations of each image, and adds its size and objects to their lists."""
    following = 1
    for row, relations in labelled_images(rows, dataset, threshold, tally, crowds=False, scored=False):
        image_id = row["image_id"]
        tally.note(NAMED_BY_ID, int(PurePosixPath(row["uri"]).name != f"{image_id}.jpg"))
        items = [
            {"object_id": key, "names": [box["category"]], **{side: number(box[side]) for side in "xywh"}}
            for key, box in enumerate(row["boxes"], start=following)
        ]
        following += len(items)
        sizes.append({"image_id": image_id, **size_fields(row)})
        objects.append({"image_id": image_id, "objects": items})
        yield {
            "image_id": image_id,
            "relationships": [
                {"predicate": each["predicate"], "subject": items[each["subject"]], "object": items[each["object"]]}
                for each in relations
            ],
        }


def write_vg150(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `VG-SGG.h5`, `VG-SGG-dicts.json` and `image_data.json` for each dataset.

    Images of a split other than "test" are for training, and of those with relations, readers take the first for "val".
    Boxes are whole numbers for a longer side of 1024 pixels.
    """
    rows.require_kept()
    try:
        import h5py
    except ImportError as error:
        raise FatalError("writing VG150 needs h5py, which is not installed: pip install 'rlip[vg150]'") from error
    for dataset, place in rows.folders(folder):
        names = numbered_names(rows, dataset, threshold)
        objects, predicates = ({name: key for key, name in enumerate(each, start=1)} for each in names)
        sizes: list[dict[str, Any]] = []
        by_image: list[tuple[int, ...]] = []
        boxes: list[list[int]] = []
        labels: list[int] = []
        relations: list[tuple[int, int, int]] = []
        for row, stated in labelled_images(rows, dataset, threshold, tally, crowds=False, scored=False):
            own = row["boxes"]
            if row["width"] is None or row["image_id"] in DAMAGED:
                tally.note("image without a known size, or with the id of a damaged one, which readers skip")
                tally.wrote.subtract({"images": 1, "boxes": len(own), "relations": len(stated)})
                continue
            tally.note(NAMED_BY_ID, int(PurePosixPath(row["uri"]).name != f"{row['image_id']}.jpg"))
            first = len(boxes), len(relations)
            scale = SCALE / max(row["width"], row["height"])
            sides = np.array([[box[side] for side in "xywh"] for box in own]).reshape(-1, 4) * scale
            # VG150 places boxes by their centres.
            sides[:, :2] += sides[:, 2:] / 2
            whole = np.rint(sides).astype(np.int64)
            whole[:, 2:] = np.maximum(whole[:, 2:], 1)  # no reader takes an empty box
            rounded = (np.abs(sides - whole) > _ROUNDING).any(axis=1)
            tally.note("box in parts of 1/1024 of the longer side", int(rounded.sum()))
            boxes += whole.tolist()
            labels += [objects[box["category"]] for box in own]
            relations += [
                (first[0] + each["subject"], first[0] + each["object"], predicates[each["predicate"]])
                for each in stated
            ]
            # The last index of a span is part of it; -1 stands for no span.
            spans = (
                (a, b - 1) if b > a else (-1, -1) for a, b in zip(first, (len(boxes), len(relations)), strict=True)
            )
            by_image.append((TEST if row["split"] == "test" else 0, *(end for span in spans for end in span)))
            sizes.append({"image_id": row["image_id"], **size_fields(row)})
        related = sum(split != TEST and first_relation >= 0 for split, _, _, first_relation, _ in by_image)
        tally.note(_VALIDATION, min(related, VALIDATION_IMAGES))
        if not by_image:
            raise FatalError(
                f"{dataset}: VG150 states boxes in parts of the longer side, but no image has a known size; state "
                "sizes in the annotations (`rlip import` reads them with --images), or choose another format"
            )
        pairs = np.array(relations, np.int32).reshape(-1, 3)
        with h5py.File(place / "VG-SGG.h5", "w") as file:
            file["boxes_1024"] = np.array(boxes, np.int32).reshape(-1, 4)
            file["labels"] = np.array(labels, np.int32).reshape(-1, 1)
            file["relationships"], file["predicates"] = pairs[:, :2], pairs[:, 2:]
            columns = np.array(by_image, np.int32).reshape(-1, 5).T
            ends = (f"img_to_{end}_{what}" for what in ("box", "rel") for end in ("first", "last"))
            for name, column in zip(("split", *ends), columns, strict=True):
                file[name] = column
        dictionary: dict[str, Any] = {}
        for kind, numbers in (("label", objects), ("predicate", predicates)):
            dictionary[f"{kind}_to_idx"] = numbers
            dictionary[f"idx_to_{kind}"] = {str(key): name for name, key in numbers.items()}
        write_object(place / "VG-SGG-dicts.json", dictionary.items())
        write_list(place / "image_data.json", sizes)


_VALIDATION = 'training image among the first with relations, which readers take for "val" (read split "trainval")'
_ROUNDING = 1e-3
"""Rounding error of a box's sides in single precision, in parts of 1/1024 of the longer side."""
