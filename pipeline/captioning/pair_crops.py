"""Crops an image around its pairs of boxes, for dense captions (docs/labels.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from PIL import Image


def pair_crops(image: Image.Image, boxes: Sequence[Mapping[str, Any]], most: int) -> list[Image.Image]:
    """Crop the image around each of the first `most` unordered pairs of boxes, crowds left out.

    Boxes are x, y, w, h in pixels; the rectangle around a pair grows to whole pixels and ends at the image's border.
    (The authors' script left out the second box's right and bottom.)
    """
    crops: list[Image.Image] = []
    single = [box for box in boxes if not box["crowd"]]
    for pair in combinations(single, 2):
        if len(crops) == most:
            break
        left, top = (max(0, math.floor(min(box[side] for box in pair))) for side in ("x", "y"))
        right = min(image.width, math.ceil(max(box["x"] + box["w"] for box in pair)))
        bottom = min(image.height, math.ceil(max(box["y"] + box["h"] for box in pair)))
        if left < right and top < bottom:
            crops.append(image.crop((left, top, right, bottom)))
    return crops
