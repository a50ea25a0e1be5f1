"""Label Studio: writes a run as tasks with pre-annotations, and reads relations annotated there.

https://labelstud.io/guide/task_format and https://labelstud.io/tags/relations describe the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

from pipeline.interop.json_writer import number, write_list
from pipeline.interop.run_rows import RunRows, Tally, labelled_images
from pipeline.labels.verdicts import Box4, box4
from storage.errors import FatalError
from tagger.english.predicates import canonical

_SHOWN = "rlip_labels"
"""Field of a task with the labels that the annotator starts from. Projects have other fields of their own names."""
LOCAL_FILES = "/data/local-files/?d="
"""URL of files below Label Studio's LOCAL_FILES_DOCUMENT_ROOT, which must be the folder of the images."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An annotated image. It is identified by its digest, else by dataset and id, else by file name.

    Raises ValueError for a predicate without a word.
    """

    name: str
    """Path or file name."""
    boxes: tuple[tuple[str, Box4], ...]
    """Category and position of each box."""
    relations: tuple[tuple[int, str, int], ...]
    """Subject, predicate and object. Subject and object index `boxes`."""
    digest: str | None = None
    dataset: str | None = None
    image_id: int | None = None
    shown: frozenset[tuple[Box4, str, Box4]] | None = None
    """The run's labels that the annotator started from: subject, canonical predicate, object; None if unknown."""

    def __post_init__(self) -> None:
        for _, predicate, _ in (*self.relations, *(self.shown or ())):
            if not canonical(predicate):
                raise ValueError(f"image {self.name!r}: the predicate {predicate[:80]!r} contains no word")


def write_label_studio(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `tasks.json` and the matching labelling interface `interface.xml` for each dataset."""
    rows.require_kept()
    for dataset, place in rows.folders(folder):
        categories: set[str] = set()
        predicates: set[str] = set()
        write_list(place / "tasks.json", _tasks(rows, dataset, threshold, tally, categories, predicates))
        (place / "interface.xml").write_text(_interface(categories, predicates), encoding="utf-8")


def read_label_studio(path: Path) -> list[AnnotatedImage]:
    """Reads a Label Studio export (JSON): the newest annotation of each task that was not cancelled.

    Tasks without an annotation are skipped, since nobody reviewed them. Raises `FatalError` for any other file.
    """
    try:
        tasks = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FatalError(f"{path}: not a JSON file ({str(error)[:200]}); export `JSON` from Label Studio") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        raise FatalError(
            f"{path}: not a list of tasks with annotations; export `JSON` (not JSON_MIN) from Label Studio"
        )
    found = []
    for place, task in enumerate(tasks):
        finished = [each for each in task["annotations"] if not each.get("was_cancelled")]
        if not finished:
            continue
        try:
            newest = max(
                finished, key=lambda each: (each.get("updated_at") or each.get("created_at") or "", each.get("id", 0))
            )
            found.append(_annotated(task.get("data") or {}, newest["result"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            number = task.get("id", place)
            reason = error if isinstance(error, ValueError) else repr(error)
            raise FatalError(f"{path}: task {number}: {reason}; export it from Label Studio again") from error
    return found


def _tasks(
    rows: RunRows, dataset: str, threshold: float, tally: Tally, categories: set[str], predicates: set[str]
) -> Iterator[dict[str, Any]]:
    """Yields a task for each image of known size, and collects the names that occur."""
    for row, relations in labelled_images(rows, dataset, threshold, tally, sized=True):
        tally.note("score of a relation", sum("score" in each for each in relations))
        categories.update(box["category"] for box in row["boxes"])
        predicates.update(each["predicate"] for each in relations)
        places = [box4(box) for box in row["boxes"]]
        data = {
            "image": f"{LOCAL_FILES}{quote(row['uri'])}",
            "dataset": dataset,
            "image_id": row["image_id"],
            "digest": row["digest"],
            _SHOWN: [[places[each["subject"]], each["predicate"], places[each["object"]]] for each in relations],
        }
        yield {"data": data, "predictions": [{"model_version": rows.run.name, "result": _result(row, relations)}]}


def _result(row: Mapping[str, Any], relations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The regions and relations of an image, with coordinates in percent of its size."""
    width, height = row["width"], row["height"]
    regions = [
        {
            "id": f"box-{place}",
            "type": "rectanglelabels",
            "from_name": "box",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "x": 100 * number(box["x"]) / width,
                "y": 100 * number(box["y"]) / height,
                "width": 100 * number(box["w"]) / width,
                "height": 100 * number(box["h"]) / height,
                "rotation": 0,
                "rectanglelabels": [box["category"]],
            },
        }
        for place, box in enumerate(row["boxes"])
    ]
    links = [
        {
            "type": "relation",
            "from_id": f"box-{each['subject']}",
            "to_id": f"box-{each['object']}",
            "direction": "right",
            "labels": [each["predicate"]],
        }
        for each in relations
    ]
    return [*regions, *links]


def _interface(categories: set[str], predicates: set[str]) -> str:
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in sorted(categories))
    names = "".join(f"\n    <Relation value={quoteattr(name)}/>" for name in sorted(predicates))
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="box" toName="image" canRotate="false">{labels}\n'
        f"  </RectangleLabels>\n  <Relations>{names}\n  </Relations>\n</View>\n"
    )


def _annotated(data: Mapping[str, Any], result: Sequence[Mapping[str, Any]]) -> AnnotatedImage:
    places: dict[str, int] = {}
    boxes: list[tuple[str, Box4]] = []
    for region in result:
        if region["type"] == "rectanglelabels":
            places[region["id"]] = len(boxes)
            names = region["value"].get("rectanglelabels") or [""]
            boxes.append((str(names[0]), _pixels(region)))
    relations = []
    for link in result:
        if link["type"] == "relation" and link["from_id"] in places and link["to_id"] in places:
            if not link.get("labels"):
                raise ValueError("a relation has no label; give it one, or delete it")
            ends = places[link["from_id"]], places[link["to_id"]]
            for name in link["labels"]:
                if link.get("direction") in ("right", "bi", None):
                    relations.append((ends[0], str(name), ends[1]))
                if link.get("direction") in ("left", "bi"):
                    relations.append((ends[1], str(name), ends[0]))
    image, image_id, labels = str(data.get("image", "")), data.get("image_id"), data.get(_SHOWN)
    return AnnotatedImage(
        name=unquote(image.removeprefix(LOCAL_FILES)) if image.startswith(LOCAL_FILES) else image,
        boxes=tuple(boxes),
        relations=tuple(relations),
        digest=data["digest"] if isinstance(data.get("digest"), str) else None,
        dataset=data["dataset"] if isinstance(data.get("dataset"), str) else None,
        image_id=image_id if isinstance(image_id, int) else None,
        shown=None if labels is None else frozenset((tuple(one), name, tuple(other)) for one, name, other in labels),
    )


def _pixels(region: Mapping[str, Any]) -> Box4:
    """Raises ValueError for a rotated rectangle, which no box of a run is."""
    value, width, height = region["value"], region["original_width"], region["original_height"]
    if value.get("rotation"):
        raise ValueError("a rectangle is rotated; draw it upright")
    sides = (value["x"] * width, value["y"] * height, value["width"] * width, value["height"] * height)
    x, y, w, h = (round(float(side) / 100, 2) for side in sides)
    return x, y, w, h
