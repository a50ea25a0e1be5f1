"""Reads a model's scene graphs of images, and finds the boxes that their relations refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.datasets.annotations import as_id, as_number, as_object, explained, parse_json, readable
from pipeline.data.datasets.json_stream import MAX_ELEMENT
from pipeline.data.datasets.record import Box, Draft, Unusable, numbers_of, overlap
from pipeline.runtime.stage import Rejected
from tagger.english.predicates import canonical
from tagger.matching import match

EXPECTED = "scene graphs: on each line a JSON object {file_name or image_id, relations: [{subject, predicate, object}]}"
SAME_BOX = 0.5
"""Minimum intersection over union of a stated box and the box that it means."""
_PARTS = ("subject", "predicate", "object")


def stream_scene_graphs(path: Path, ids: Mapping[str, int]) -> Iterator[tuple[Any, Any]]:
    """Yields each line's image and content. `ids`: file name → image id. Raises `AnnotationError`.

    A line that is no JSON object, or names no image, yields what it has instead of an id.
    """
    with explained(path, EXPECTED), path.open(encoding="utf-8-sig") as file:
        # Bounded, since a file without line breaks may have any size.
        for line in filter(str.strip, iter(lambda: file.readline(MAX_ELEMENT), "")):
            try:
                graph = as_object(parse_json(line))
            except (ValueError, RecursionError):
                graph = {}
            name = graph.get("image_id", graph.get("file_name", line))
            yield ids.get(name, name) if isinstance(name, str) else name, graph


def read_scene_graph(
    image_id: int, graph: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], Iterable[Rejected]]:
    """Converts a graph to a row of `relations` between the image's boxes, and rejects."""
    draft, scores = Draft(image_id), dict[tuple[int, str, int], float]()
    objects = draft.listed(graph, "objects") if "objects" in graph else []
    for item in draft.listed(graph, "relations"):
        with draft.rejecting(item):
            values = dict(zip(_PARTS, item, strict=False)) if isinstance(item, list) else as_object(item)
            predicate = values.get("predicate")
            predicate = canonical(readable(predicate)) if isinstance(predicate, str) else ""
            score = as_number(values.get("score", 1.0))
            if not predicate:
                raise Unusable("relation malformed")
            if score is None or not 0 <= score <= 1:
                raise Unusable("score not a number from 0 to 1")
            subject, object_ = (_meant(values.get(role), role, objects, boxes) for role in ("subject", "object"))
            if subject == object_:
                raise Unusable("relation to itself")
            key = subject, predicate, object_
            if key in scores:
                draft.reject("relation twice", item)
            scores[key] = max(score, scores.get(key, 0.0))
    relations = [
        {"subject": s, "object": o, "predicate": p, "score": score, "proposed": True, "triplet": -1}
        for (s, p, o), score in scores.items()
    ]
    return {"image_id": image_id, "relations": relations}, draft.rejects


def _meant(end: Any, role: str, objects: Sequence[Any], boxes: Sequence[Mapping[str, Any]]) -> int:
    """Returns the index of the box that one end of a relation means. Raises `Unusable`."""
    number = as_id(end)
    if number is not None:
        end = objects[number] if 0 <= number < len(objects) else None
    stated = {"name": end} if isinstance(end, str) else {"box": end} if isinstance(end, list) else as_object(end)
    name, corners = stated.get("name"), stated.get("box")
    usable = [index for index, box in enumerate(boxes) if not box["crowd"]]
    if isinstance(name, str):
        named = match(readable(name), [boxes[index]["category"] for index in usable])
        usable = [index for index in usable if boxes[index]["category"] in named]
        if not usable:
            raise Unusable(f"{role} names no box")
    elif corners is None:
        raise Unusable(f"{role} malformed")
    if corners is None:
        if len(usable) > 1:
            raise Unusable(f"{role} names several boxes")
        return usable[0]
    place = Box.between("", numbers_of(corners, f"{role} malformed"))
    shares = {index: overlap(place, Box("", *(boxes[index][side] for side in "xywh"))) for index in usable}
    best = max(shares, key=lambda index: shares[index], default=-1)
    if shares.get(best, 0.0) < SAME_BOX:
        raise Unusable(f"{role} overlaps no box")
    return best
