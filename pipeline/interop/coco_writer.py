"""Writes a run as a COCO dataset with captions, and with relations in the pair layout that `ingest` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import AnnotationError, as_id, readable
from pipeline.data.datasets.coco import EXPECTED
from pipeline.data.datasets.json_stream import stream_members
from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.interop.json_writer import number, write_list, write_object
from pipeline.interop.run_rows import RunRows, Tally, relations_of
from storage.runs import Run


def write_coco(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `instances.json`, `captions.json` and `relations.json` for each dataset.

    Fields that the store's tables lack come from the run's annotation file, if it still exists.
    """
    for dataset in rows.ingested():
        place = folder / dataset
        place.mkdir()
        ids = category_ids(rows, dataset)
        path = annotation_file(rows.run, dataset)
        if path is not None and not path.is_file():
            tally.note(f"info, licenses and further fields, because {path} is gone")
            path = None
        with closing(AnnotationFile(path)) as stated:
            images = list(_images(rows, dataset, stated))
            annotations = list(_annotations(rows, dataset, ids, stated))
            tally.note("further fields after the damage in the annotation file", int(stated.is_damaged))
            tally.note("further fields that JSON can't hold", stated.unwritable)
        categories = [{"id": number, "name": name, **stated.category(name)} for name, number in ids.items()]
        header = list(stated.header.items())
        parts = [*header, ("images", images), ("annotations", annotations), ("categories", categories)]
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
            listed = [*header, ("images", images), ("annotations", captions)]
            write_object(place / "captions.json", listed)
            tally.wrote["captions"] += len(captions)


def category_ids(rows: RunRows, dataset: str) -> dict[str, int]:
    """Returns category → id: COCO's own ids if all categories are COCO's, else 1, 2, ... in alphabetical order."""
    names = {box["category"] for image in rows.images(dataset, "images") for box in image.items("images", "boxes")}
    own = {name: number for number, name in COCO_CATEGORIES.items()}
    return own if names <= own.keys() else {name: number for number, name in enumerate(sorted(names), start=1)}


def _images(rows: RunRows, dataset: str, stated: AnnotationFile) -> Iterator[dict[str, Any]]:
    for image in rows.images(dataset, "images"):
        row = image.rows["images"]
        size = {} if row["width"] is None else {"width": row["width"], "height": row["height"]}
        yield {"id": row["image_id"], "file_name": row["uri"], **size, **stated.image(row["image_id"])}


def _annotations(rows: RunRows, dataset: str, ids: dict[str, int], stated: AnnotationFile) -> Iterator[dict[str, Any]]:
    """Yields boxes in stored order. A box keeps its source id if that is positive and not yet taken.

    The first box with an id gets its further fields, e.g. its outline and the outline's area.
    """
    taken: set[int] = set()
    following = 1
    for image in rows.images(dataset, "images"):
        for box in image.items("images", "boxes"):
            own = box["source_id"]
            further = {} if own is None or own in taken else stated.annotation(own)
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
                **further,
            }


def _relations(
    rows: RunRows, dataset: str, threshold: float, tally: Tally, ids: Mapping[int, Sequence[int]]
) -> Iterator[dict[str, Any]]:
    """Yields the relations of each image. `ids`: image id → annotation ids of its boxes."""
    for image in rows.images(dataset, "images", "relations"):
        boxes = image.items("images", "boxes")
        sides = [[number(box[side]) for side in "xywh"] for box in boxes]
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
                        "subject_bbox": sides[r["subject"]],
                        "predicate": r["predicate"],
                        "object": boxes[r["object"]]["category"],
                        "object_bbox": sides[r["object"]],
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


_FORMATS = ("coco", "objects365")
_IN_TABLES = {
    "images": frozenset({"id", "file_name", "width", "height"}),
    "annotations": frozenset({"id", "image_id", "category_id", "bbox", "iscrowd"}),
    "categories": frozenset({"id", "name"}),
}
"""List in the file → the fields that exports take from the store."""
_EMPTY: tuple[Any, ...] = (None, "", [], {})


class AnnotationFile:
    """What the annotation file states beyond the tables: licenses, outlines, supercategories and other fields.

    Fields of images and boxes are kept on disk: COCO's outlines would take a gigabyte of memory.
    """

    def __init__(self, path: Path | None) -> None:
        """Without a file nothing is known; with a damaged one, only what precedes its first error."""
        self.header: dict[str, Any] = {}
        """`info` and `licenses`, if the file states them."""
        self.is_damaged = False
        """Whether the file could not be read to its end."""
        self.unwritable = 0
        """Number of entries whose further fields JSON can't hold, such as NaN."""
        self._categories: dict[str, dict[str, Any]] = {}
        self._texts = TemporaryFile()  # noqa: SIM115 - `close` closes it
        places: dict[str, list[tuple[int, int, int]]] = {"images": [], "annotations": []}
        for name, value in self._members(path) if path is not None else ():
            if name == "info" and self._text(value):
                self.header["info"] = value
            elif name == "licenses" and self._text(value):
                self.header.setdefault("licenses", []).append(value)
            elif name in _IN_TABLES and isinstance(value, dict):
                self._keep(name, value, places)
        self._places: dict[str, NDArray[np.int64]] = {
            name: np.array(sorted(found), np.int64).reshape(-1, 3) for name, found in places.items()
        }

    def image(self, image_id: int) -> dict[str, Any]:
        """The further fields of an image; empty if it is unknown."""
        return self._find("images", image_id)

    def annotation(self, annotation_id: int) -> dict[str, Any]:
        """The further fields of a box; empty if it is unknown."""
        return self._find("annotations", annotation_id)

    def category(self, name: str) -> dict[str, Any]:
        """The further fields of a category; empty if it is unknown."""
        return self._categories.get(name, {})

    def close(self) -> None:
        """Remove the fields from disk."""
        self._texts.close()

    def _keep(self, name: str, entry: dict[str, Any], places: dict[str, list[tuple[int, int, int]]]) -> None:
        further = {
            field: value for field, value in entry.items() if field not in _IN_TABLES[name] and value not in _EMPTY
        }
        number = as_id(entry.get("id"))
        if not further or number is None or not (text := self._text(further)):
            return
        if name == "categories":
            self._categories[readable(str(entry.get("name"))).strip()] = further
        else:
            places[name].append((number, self._texts.tell(), self._texts.write(text)))

    def _text(self, value: Any) -> bytes:
        """The value as JSON in UTF-8. A value that JSON can't represent becomes empty and is counted."""
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            self.unwritable += 1
            return b""

    def _find(self, name: str, number: int) -> dict[str, Any]:
        places = self._places[name]
        row = int(np.searchsorted(places[:, 0], number))
        if row == len(places) or places[row, 0] != number:
            return {}
        self._texts.seek(int(places[row, 1]))
        found: dict[str, Any] = json.loads(self._texts.read(int(places[row, 2])))
        return found

    def _members(self, path: Path) -> Iterator[tuple[str, Any]]:
        try:
            yield from stream_members(path, EXPECTED)
        except AnnotationError:
            self.is_damaged = True


def annotation_file(run: Run, dataset: str) -> Path | None:
    """The annotation file that a run's dataset was read from, if its recipe names one in COCO's layout."""
    data = run.read_document("recipe").get("data", {})
    for source in data.get("sources", ()):
        if source.get("name") == dataset and source.get("format") in _FORMATS:
            return Path(data.get("root", "."), source["annotations"])
    return None
