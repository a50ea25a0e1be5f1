"""Generates COCO's captions JSON with five true captions per image."""

from collections.abc import Sequence
from random import Random
from typing import Any

from scenes.formats.coco import INFO
from scenes.formats.written import Written
from scenes.grammar import caption

CAPTIONS = 5


def captions(images: Sequence[Written], seed: int) -> dict[str, Any]:
    """Returns COCO's layout. An image's captions depend on the seed, its id and its scene only."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        rng = Random(f"captions/{seed}/{image.image_id}")
        for _ in range(CAPTIONS):
            text = caption(image.things, image.facts, rng)
            annotations.append({"id": len(annotations) + 1, "image_id": image.image_id, "caption": text})
    listed = [{"id": image.image_id, "file_name": image.file_name} for image in images]
    return {"info": INFO, "images": listed, "annotations": annotations}
