"""Reads and writes the authors' pseudo-labels and their Visual Genome file: one JSON object per image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pyarrow as pa

from pipeline.data.datasets.annotations import NO_IMAGE, as_id, as_number, as_object, readable, shown
from pipeline.data.datasets.record import Box, Draft, Unusable, numbers_of
from pipeline.interop.json_writer import number
from pipeline.runtime.stage import Rejected
from storage.tables import LONG, TEXT

EXPECTED = "labels: a list of {image_id, dataset, objects: [...], relationships: [...]}"
VISUAL_GENOME = "vg"
"""Dataset of elements that name none."""
FIRST_IDS = {"coco2017": 10_000_000, "o365": 20_000_000}
"""The authors' first object and relation id in each dataset."""
_VG_RELATION = ("relationship_id", "predicate", "synsets", "subject_id", "object_id")
_MAX_PIXELS = 1e7
DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass
class LabelledImage:
    """One element as rows of our tables, with its rejects."""

    image: dict[str, Any]
    relations: list[dict[str, Any]]
    rejects: list[Rejected] = field(default_factory=list)


def read_element(entry: Any) -> LabelledImage | Rejected:
    """Converts an element to rows of `images` and `relations`, or to a reject if it identifies no image.

    Object ids are local to the image. A missing dataset means Visual Genome, whose relations without a confidence are
    annotations. Relations of unknown boxes are dropped, duplicates keep the highest confidence, self-pairs stay, and
    boxes are clipped at 0. Every such case becomes a reject.
    """
    image_id, name = _image_id(entry.get("image_id")) if isinstance(entry, dict) else (None, "")
    if image_id is None:
        return Rejected(NO_IMAGE, "image id not an integer", shown(entry))
    dataset = entry.get("dataset", VISUAL_GENOME)
    draft = Draft(image_id)
    if not isinstance(dataset, str) or not DATASET.fullmatch(dataset):
        draft.reject("dataset unknown", dataset)
        dataset = VISUAL_GENOME
    split = entry.get("data_split")
    split = split if isinstance(split, str) and split else "train2017" if dataset == "coco2017" else "train"
    for item in draft.listed(entry, "objects"):
        with draft.rejecting(item):
            _add_box(draft, item)
    annotated, scored = _relations(draft, entry, dataset)
    image = {
        "dataset": dataset,
        "split": readable(split),
        "image_id": image_id,
        "uri": name or uri_by_id(dataset, split, image_id),
        "digest": "",
        "width": None,
        "height": None,
        "boxes": [box._asdict() for box in draft.boxes],
        "relations": annotated,
    }
    return LabelledImage(image, scored, draft.rejects)


class ElementWriter:
    """Converts images to elements. Ids are unique within the file, like the authors'; imported images keep theirs."""

    def __init__(self, dataset: str) -> None:
        """`dataset`: the authors' name of the dataset. Elements of `vg` have a layout of their own."""
        self._dataset = dataset
        first = FIRST_IDS.get(dataset, 1)
        self._objects, self._relations = count(first), count(first)

    def element(self, image: Mapping[str, Any], relations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Converts a row of `images` whose boxes are not crowds, and the relations between them, in these orders.

        Pass the most confident relations first: the authors' loader keeps an image's first 100. Those of Visual Genome
        have whole pixels, empty synsets, and no confidence."""
        boxes = image["boxes"]
        own = [box["source_id"] for box in boxes]
        known = all(own_id is not None and own_id >= 0 for own_id in own) and len(set(own)) == len(own)
        # An import reads no bytes of images, so its rows have no digest.
        ids = own if known and not image["digest"] else [next(self._objects) for _ in boxes]
        # The authors call images of HICO-DET by their file names, from which an import takes the id.
        is_named = self._dataset == "hico" and _image_id(image["uri"])[0] == image["image_id"]
        head: dict[str, Any] = {"image_id": image["uri" if is_named else "image_id"]}
        if self._dataset != VISUAL_GENOME:
            head |= {"dataset": self._dataset, "data_split": official_split(self._dataset, image["split"])}
        element = head | {
            "objects": [
                {"object_id": object_id, **{side: number(box[side]) for side in "xywh"}, "names": box["category"]}
                for object_id, box in zip(ids, boxes, strict=True)
            ],
            "relationships": [
                {
                    "relationship_id": next(self._relations),
                    "predicate": r["predicate"],
                    "subject_id": ids[r["subject"]],
                    "object_id": ids[r["object"]],
                    **({"confidence": number(r["score"])} if "score" in r else {}),
                }
                for r in relations
            ],
        }
        if self._dataset != VISUAL_GENOME:
            return element
        for box in element["objects"]:
            # With a side that rounds to 0, the box would be empty, and rejected when the file is read.
            box |= {side: round(box[side]) for side in "xy"} | {side: max(round(box[side]), 1) for side in "wh"}
            box["synsets"] = []
        element["relationships"] = [
            {name: [] if name == "synsets" else relation[name] for name in _VG_RELATION}
            for relation in element["relationships"]
        ]
        return element


def _image_id(value: Any) -> tuple[int | None, str]:
    """Returns the id, and the file name if the value is one ("HICO_train2015_00000001.jpg")."""
    found = as_id(value)
    if found is not None or not isinstance(value, str):
        return found, ""
    digits = _LAST_NUMBER.search(value.rpartition(".")[0] or value)
    return (as_id(digits.group(1)), readable(value)) if digits else (None, "")


def _add_box(draft: Draft, item: Any) -> None:
    """Adds a box by its object id. Raises `Unusable`."""
    values = as_object(item)
    object_id, name = as_id(values.get("object_id")), _name(values.get("names"))
    x, y, w, h = numbers_of([values.get(side) for side in "xywh"])
    if object_id is None or name is None or not all(abs(side) < _MAX_PIXELS for side in (x, y, w, h)):
        raise Unusable("box malformed")
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = x + w, y + h
    if right - left <= 0 or bottom - top <= 0:
        raise Unusable("box empty or outside")
    if object_id in draft.places:
        raise Unusable("object id twice")
    # A box inside the image keeps its exact numbers: recomputing its coordinates would round them.
    w, h = (w if left == x else right - left), (h if top == y else bottom - top)
    if (left, top) != (x, y):
        draft.reject("box clamped", item)
    draft.add(Box(name, left, top, w, h, False, object_id), object_id)


def _relations(
    draft: Draft, entry: Mapping[str, Any], dataset: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns annotated relations, and relations with a confidence."""
    annotated: dict[tuple[int, str, int], None] = {}
    scored: dict[tuple[int, str, int], float] = {}
    for item in draft.listed(entry, "relationships"):
        with draft.rejecting(item):
            values = as_object(item)
            predicate = _name(values.get("predicate"))
            ends = as_id(values.get("subject_id")), as_id(values.get("object_id"))
            if predicate is None or None in ends:
                raise Unusable("relation malformed")
            if not draft.places.keys() >= {*ends}:
                raise Unusable("relation of unknown box")
            subject, object_ = (draft.places[end] for end in ends)
            if subject == object_:
                draft.reject("relation to itself (kept)", item)
            key = (subject, predicate, object_)
            if key in annotated or key in scored:
                draft.reject("relation twice", item)
            confidence = values.get("confidence")
            if confidence is None and dataset == VISUAL_GENOME:
                annotated[key] = None
                continue
            if confidence is None:
                draft.reject("relation without confidence (kept with 1)", item)
            score = as_number(1.0 if confidence is None else confidence)
            if score is None or not 0 <= score <= 1:
                raise Unusable("confidence not a number from 0 to 1")
            scored[key] = max(score, scored.get(key, 0.0))
    return [{"subject": s, "predicate": p, "object": o} for s, p, o in annotated], scored_rows(scored)


def scored_rows(scores: Mapping[tuple[int, str, int], float]) -> list[dict[str, Any]]:
    """Converts relations (subject, predicate, object) with their scores to those of a row of `relations`."""
    return [
        {"subject": s, "object": o, "predicate": p, "score": score, "proposed": True, "triplet": -1}
        for (s, p, o), score in scores.items()
    ]


def _name(value: Any) -> str | None:
    """Returns a name; from a list of names (Visual Genome's own layout), the first."""
    first = value[0] if isinstance(value, list) and value else value
    return readable(first) if isinstance(first, str) and readable(first).strip() else None


def uri_by_id(dataset: str, split: str, image_id: int) -> str:
    """Returns the path inside its dataset's folder of an image whose name is not stated, by the authors' rules."""
    return f"{split}/{image_id:012d}.jpg" if dataset == "coco2017" else f"{image_id}.jpg"


def official_split(dataset: str, split: str) -> str:
    """Returns the authors' name of a split."""
    return f"{split}2017" if dataset == "coco2017" and split in ("train", "val") else split


FREQUENCIES = pa.schema({"kind": TEXT, "name": TEXT, "count": LONG})
KINDS = ("relationship", "object")


def read_frequencies(content: Any) -> tuple[list[dict[str, Any]], Iterable[Rejected]]:
    """Converts a file's content to rows of `frequencies` and rejects. A name without a count gets 0."""
    rows, rejects = [], list[Rejected]()
    for kind in KINDS:
        names, counts = content.get(f"{kind}_names"), content.get(f"{kind}_freq")
        counts = counts if isinstance(counts, dict) else {}
        listed = names if isinstance(names, list) else list(counts)
        for name in dict.fromkeys(name for name in listed if isinstance(name, str)):
            count = as_id(counts.get(name, 0))
            if count is None or count < 0:
                rejects.append(Rejected(NO_IMAGE, "frequency malformed", shown((name, counts[name]))))
            else:
                rows.append({"kind": kind, "name": readable(name), "count": count})
        rejects.extend(
            Rejected(NO_IMAGE, "name not a text", shown(name)) for name in listed if not isinstance(name, str)
        )
    return rows, rejects


def write_frequencies(relations: Mapping[str, int], objects: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """Yields the fields of the file. Names are sorted by descending count; ties keep their order."""
    ranked = [dict(sorted(counts.items(), key=lambda entry: -entry[1])) for counts in (relations, objects)]
    for kind, counts in zip(KINDS, ranked, strict=True):
        yield f"{kind}_names", list(counts)
    for kind, counts in zip(KINDS, ranked, strict=True):
        yield f"{kind}_freq", counts


def name_counts(rows: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Converts rows of `frequencies` to counts of relations and of objects."""
    relations, objects = (Counter({r["name"]: r["count"] for r in rows if r["kind"] == kind}) for kind in KINDS)
    return relations, objects
