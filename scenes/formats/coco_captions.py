"""COCO's captions JSON: five true sentences an image."""

from collections.abc import Sequence
from random import Random
from typing import Any

from scenes.formats.coco import INFO
from scenes.formats.written import Written
from scenes.grammar import caption

CAPTIONS = 5


def captions(images: Sequence[Written], seed: int) -> dict[str, Any]:
    """COCO's layout; an image's sentences depend on the seed and its id alone."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        rng = Random(f"captions/{seed}/{image.image_id}")
        for _ in range(CAPTIONS):
            text = caption(image.things, image.facts, rng)
            annotations.append({"id": len(annotations) + 1, "image_id": image.image_id, "caption": text})
    listed = [{"id": image.image_id, "file_name": image.file_name} for image in images]
    return {"info": INFO, "images": listed, "annotations": annotations}
