"""Writes a run as a COCO data set with captions, and with relations in the pair layout that `ingest` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.interop.json_writer import number, write_list, write_object
from pipeline.interop.run_rows import RunRows, Tally, relations_of
from pipeline.interop.segmentations import Segmentations, annotation_file


def write_coco(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `instances.json`, `captions.json` and `relations.json` for each data set."""
    for dataset in rows.datasets() if "ingest" in rows.steps() else ():
        place = folder / dataset
        place.mkdir()
        ids = category_ids(rows, dataset)
        images = list(_images(rows, dataset))
        with closing(Segmentations(annotation_file(rows.run, dataset))) as outlines:
            annotations = list(_annotations(rows, dataset, ids, outlines))
            tally.note("outline behind the place where the annotation file is damaged", int(outlines.is_damaged))
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        parts = [("images", images), ("annotations", annotations), ("categories", categories)]
        write_object(place / "instances.json", parts)
        tally.note("digest of an image", len(images))
        tally.wrote.update({"images": len(images), "boxes": len(annotations)})
        of_image: dict[int, list[int]] = {}
        for annotation in annotations:
            of_image.setdefault(annotation["image_id"], []).append(annotation["id"])
        if write_list(place / "relations.json", _relations(rows, dataset, threshold, tally, of_image)) == 0:
            (place / "relations.json").unlink()
        captions = list(_captions(rows, dataset, tally))
        if captions:
            listed = [("images", images), ("annotations", captions)]
            write_object(place / "captions.json", listed)
            tally.wrote["captions"] += len(captions)


def category_ids(rows: RunRows, dataset: str) -> dict[str, int]:
    """Returns category → id: COCO's own ids if all categories are COCO's, else 1, 2, ... in alphabetical order."""
    names = {box["category"] for image in rows.images(dataset, "images") for box in image.items("images", "boxes")}
    own = {name: number for number, name in COCO_CATEGORIES.items()}
    return own if names <= own.keys() else {name: number for number, name in enumerate(sorted(names), start=1)}


def _images(rows: RunRows, dataset: str) -> Iterator[dict[str, Any]]:
    for image in rows.images(dataset, "images"):
        row = image.rows["images"]
        size = {} if row["width"] is None else {"width": row["width"], "height": row["height"]}
        yield {"id": row["image_id"], "file_name": row["uri"], **size}


def _annotations(rows: RunRows, dataset: str, ids: dict[str, int], outlines: Segmentations) -> Iterator[dict[str, Any]]:
    """Yields boxes in stored order. A box keeps its source id if that is positive and not yet taken, and its outline then."""
    taken: set[int] = set()
    following = 1
    for image in rows.images(dataset, "images"):
        for box in image.items("images", "boxes"):
            own = box["source_id"]
            outline = None if own is None or own in taken else outlines.find(own)
            if own is None or own <= 0 or own in taken:
                while following in taken:
                    following += 1
                own = following
            taken.add(own)
            yield {
                "id": own,
                "image_id": image.image_id,
                "category_id": ids[box["category"]],
                "bbox": [number(box[side]) for side in "xywh"],
                "area": number(box["w"] * box["h"]),
                "iscrowd": int(box["crowd"]),
                **({"segmentation": outline} if outline is not None else {}),
            }


def _relations(
    rows: RunRows, dataset: str, threshold: float, tally: Tally, ids: Mapping[int, Sequence[int]]
) -> Iterator[dict[str, Any]]:
    """Yields the relations of each image. `ids`: image id → annotation ids of its boxes."""
    for image in rows.images(dataset, "images", "relations"):
        boxes = image.items("images", "boxes")
        corners = [[number(v) for v in (b["x"], b["y"], b["x"] + b["w"], b["y"] + b["h"])] for b in boxes]
        # `ingest` matches relations to boxes by coordinates and never to a crowd box.
        stated = relations_of(image, threshold, tally)
        relations = [r for r in stated if not (boxes[r["subject"]]["crowd"] or boxes[r["object"]]["crowd"])]
        tally.note("relation of a crowd box", len(stated) - len(relations))
        tally.note("origin and calibration of a relation", sum("score" in relation for relation in relations))
        tally.wrote["relations"] += len(relations)
        if relations:
            yield {
                "image_id": image.image_id,
                "relations": [
                    {
                        "subject_id": ids[image.image_id][r["subject"]],
                        "object_id": ids[image.image_id][r["object"]],
                        "subject": boxes[r["subject"]]["category"],
                        "subject_box": corners[r["subject"]],
                        "predicate": r["predicate"],
                        "object": boxes[r["object"]]["category"],
                        "object_box": corners[r["object"]],
                        **({"score": number(r["score"])} if "score" in r else {}),
                    }
                    for r in relations
                ],
            }


def _captions(rows: RunRows, dataset: str, tally: Tally) -> Iterator[dict[str, Any]]:
    following = 1
    for image in rows.images(dataset, "captions"):
        for caption in image.items("captions"):
            tally.note("seed, log-probability and source of a caption", 1)
            yield {"id": following, "image_id": image.image_id, "caption": caption["text"]}
            following += 1
