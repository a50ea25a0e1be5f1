"""Images as BLIP wants them: a square, without keeping the aspect (spec pseudo_labels 1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of the pixels by channel, scaled to 0..1, as BLIP was trained."""
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def squared(images: Sequence[Image.Image], side: int) -> NDArray[np.uint8]:
    """RGB images, B x side x side x 3."""
    size = (side, side)
    return np.stack([
        np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)) for image in images
    ])  # fmt: skip
