"""The relations of an image that an export writes."""

from __future__ import annotations

from typing import Any

from pipeline.interop.run_rows import ImageRows
from pipeline.interop.tally import Tally


def relations_of(image: ImageRows, threshold: float, tally: Tally) -> list[dict[str, Any]]:
    """Scored relations of at least `threshold`, the best first; of an image that was never tagged, the given ones."""
    if "relations" not in image.rows:
        given: list[dict[str, Any]] = image.items("images", "relations")
        return given
    scored = image.items("relations")
    kept = [relation for relation in scored if relation["score"] >= threshold]
    tally.note(f"relation scored below {threshold:g}", len(scored) - len(kept))
    return sorted(kept, key=lambda r: (-r["score"], r["subject"], r["object"], r["predicate"]))


def without_crowds(
    image: ImageRows, relations: list[dict[str, Any]], tally: Tally
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Boxes that are no crowds, and the relations between them with their indices counted anew."""
    boxes = image.items("images", "boxes")
    usable = [index for index, box in enumerate(boxes) if not box["crowd"]]
    places = {index: place for place, index in enumerate(usable)}
    kept = [
        relation | {"subject": places[relation["subject"]], "object": places[relation["object"]]}
        for relation in relations
        if relation["subject"] in places and relation["object"] in places
    ]
    tally.note("crowd box", len(boxes) - len(usable))
    tally.note("relation of a crowd box", len(relations) - len(kept))
    return [boxes[index] for index in usable], kept
