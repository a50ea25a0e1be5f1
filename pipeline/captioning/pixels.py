"""Images as BLIP wants them: a square, without keeping the aspect (spec pseudo_labels 1.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of the pixels by channel, scaled to 0..1, as BLIP was trained."""
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def squared(images: Sequence[Image.Image], side: int) -> NDArray[np.uint8]:
    """RGB images, B x side x side x 3."""
    size = (side, side)
    return np.stack([
        np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)) for image in images
    ])  # fmt: skip


class Pixels:
    """From RGB images to what a network of the folder wants: B x 3 x side x side, normalised as the folder states."""

    def __init__(self, folder: Path, side: int, dtype: torch.dtype) -> None:
        stated: dict[str, Any] = {}
        for name in ("processor_config.json", "preprocessor_config.json"):
            content = json.loads((folder / name).read_bytes()) if (folder / name).is_file() else {}
            stated |= content.get("image_processor", content)
        self._mean = torch.tensor(stated.get("image_mean", CLIP_MEAN)).view(3, 1, 1)
        self._deviation = torch.tensor(stated.get("image_std", CLIP_DEVIATION)).view(3, 1, 1)
        self._side, self._dtype = side, dtype

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """The pixels of the images."""
        scaled = torch.from_numpy(squared(images, self._side)).permute(0, 3, 1, 2).float() / 255
        return ((scaled - self._mean) / self._deviation).to(self._dtype)
