"""Plain mistakes: files in another encoding, names and numbers out of range, weights and folders that were mixed up."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tests.hostile.case import GOOD, Case, good_image, ingested, table, told, written

LATIN = "Mädchen".encode("latin-1")
NAMES = ("--objects", "person,bicycle", "--predicates", "ride")
REFUSED = "^refused: Error: "

PREDICTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a tagger's weights": (REFUSED + ".*RelationTagger", ("demo-tagger", "1.png")),
    "a captioner's weights": (REFUSED, ("demo-captioner", "1.png")),
    "a file name that isn't UTF-8": ("^refused: .*UTF-8", ("demo-detector", os.fsdecode(b"\xff.png"))),
    "a folder with such a file": ("^passed: .*UTF-8", ("demo-detector", "pictures")),
    "drawings that are a file": (REFUSED + ".*1.png", ("demo-detector", "1.png", "--draw", "1.png")),
    "a table that is a folder": (REFUSED + ".*pictures.json", ("demo-detector", "1.png", "--out", "pictures.json")),
    "images of 60,000 pixels": (REFUSED + "image size", ("demo-detector", "1.png", "--image-size", "60000")),
    "names of a device": (REFUSED + ".*objects", ("demo-detector", "1.png", "--objects", "@/dev/zero")),
    "a name with half a character": (REFUSED + ".*UTF-8", ("demo-detector", "1.png", "--objects", "\udc80")),
    "300,000 names": (REFUSED + "300,000 names", ("demo-detector", "1.png", "--objects", "@many")),
}  # fmt: skip


def _predicted(folder: Path, words: tuple[str, ...]) -> str:
    (folder / "pictures").mkdir()
    (folder / "pictures.json").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "1.png")
    for name in (b"\xff.png", b"pictures/\xff.png", b"pictures/1.png"):
        (folder / os.fsdecode(name)).write_bytes((folder / "1.png").read_bytes())
    written(folder / "latin", LATIN)
    written(folder / "many", "".join(f"name {number}\n" for number in range(300_000)))
    return told("predict", *NAMES, *words)


TRUTH = [
    {
        "file_name": "HICO_test2015_00000001.jpg",
        "img_id": 1,
        "annotations": [{"bbox": [10, 10, 50, 90], "category_id": 1}, {"bbox": [40, 60, 80, 95], "category_id": 2}],
        "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 1, "hoi_category_id": 1}],
    }
]
PAIR = {"subject": 0, "object": 1, "predicate": "ride", "score": 0.9}


def found(pair: Any = PAIR, **fields: Any) -> dict[str, Any]:
    sides = {"score": 1.0, "x": 1.0, "y": 1.0, "w": 9.0, "h": 9.0}
    boxes = [{"category": "person", **sides}, {"category": "bicycle", **sides}]
    row = {"image_id": 1, "uri": "HICO_test2015_00000001.jpg", "width": 100, "height": 100}
    return {**row, "boxes": boxes, "pairs": [pair], **fields}


DETECTIONS: dict[str, tuple[str, Any]] = {
    "what it takes": ("^passed", found()),
    "Latin-1": (REFUSED + ".*found.json", b'{"uri": "' + LATIN + b'"}'),
    "an index of 2^63": (REFUSED + ".*found.json", found({**PAIR, "object": 2**63})),
    "an id of 2^64": (REFUSED + ".*found.json", found(image_id=2**64)),
    "a width of 2^40": (REFUSED + ".*found.json", found(width=2**40)),
    "a score of 400 digits": (REFUSED + ".*found.json", found({**PAIR, "score": 10**400})),
    "half a character": (REFUSED + ".*found.json", found(uri="\ud800")),
    "an index of 2^63 among matrices": (REFUSED, [{"image_id": 1, "boxes": [[1, 1, 9, 9]], "labels": [2**63], "verb_scores": [[1]], "sub_ids": [2**63], "obj_ids": [0]}]),
    "a verb of 2^63 among pairs": (REFUSED, [{"image": "x", "box_h": [1, 1, 9, 9], "box_o": [1, 1, 9, 9], "object_coco80": 1, "verb": 2**63, "score": 1}]),
}  # fmt: skip
LISTS = {
    "verbs": ("--file", "verbs=latin"),
    "interactions": ("--rare", "positions", "--interactions", "latin"),
    "rare interactions": ("--rare", "latin", "--interactions", "interactions"),
    "a split": ("--split", "latin", "--interactions", "interactions"),
}
"""Options with a list that is in Latin-1."""


def _scored(folder: Path, detections: Any, *words: str) -> str:
    lists = {
        "verbs": ["ride", "hold"], "objects": ["person", "bicycle"], "positions": [0],
        "interactions": "1 bicycle ride",
    }  # fmt: skip
    for name, content in lists.items():
        written(folder / name, content)
    written(folder / "latin", LATIN)
    written(folder / "truth.json", TRUTH)
    content = json.dumps(detections) if isinstance(detections, dict) else detections
    given = ("--ground-truth", "truth.json", "--detections", written(folder / "found.json", content))
    return told("evaluate", "hico-det", *given, "--file", "verbs=verbs", "--file", "objects=objects", *words)


def _ingested(folder: Path, name: bytes) -> str:
    good_image(folder / "images")
    shutil.copyfile(folder / "images" / GOOD, folder / os.fsdecode(b"images/" + name))
    return ingested(folder, None, format="images", annotations=None)


def cases() -> Iterator[Case]:
    """Calls of commands with what people get wrong."""
    yield from table("predict", PREDICTIONS, _predicted)
    yield from table(
        "label", {"a file name that isn't UTF-8": ("kept 1 images.*file name not usable", b"\xff.png")}, _ingested
    )
    yield from table("evaluate", DETECTIONS, _scored)
    lists = {f"{name} in Latin-1": (REFUSED + ".*latin", words) for name, words in LISTS.items()}
    yield from table("evaluate", lists, lambda folder, words: _scored(folder, found(), *words))
