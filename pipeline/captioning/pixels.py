"""Prepares images for BLIP: as a square, without keeping the aspect ratio (docs/labels.md, Pixels)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.captioning.captioner import Picture
from pipeline.data.images.resize import resized

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of pixels scaled to 0..1, by channel, as BLIP was trained."""
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def squared(images: Sequence[Picture], side: int) -> Tensor:
    """Turn images into squares of pixel values: B x 3 x side x side."""
    return torch.stack([_square(image, side) for image in images])


def _square(image: Picture, side: int) -> Tensor:
    if not isinstance(image, Tensor):
        return resized(torch.from_numpy(np.array(image)), side, side)
    if image.shape != (3, side, side):
        raise ValueError(f"pixels of shape {tuple(image.shape)}: the network takes 3 x {side} x {side}")
    return image


class Pixels:
    """Turns images into network input: B x 3 x side x side, normalised as the model's folder states."""

    def __init__(self, folder: Path, side: int, device: torch.device, dtype: torch.dtype) -> None:
        stated: dict[str, Any] = {}
        for name in ("processor_config.json", "preprocessor_config.json"):
            content = json.loads((folder / name).read_bytes()) if (folder / name).is_file() else {}
            stated |= content.get("image_processor", content)
        self._mean = 255 * torch.tensor(stated.get("image_mean", CLIP_MEAN), device=device).view(3, 1, 1)
        self._deviation = 255 * torch.tensor(stated.get("image_std", CLIP_DEVIATION), device=device).view(3, 1, 1)
        self.side, self._device, self._dtype = side, device, dtype

    def __call__(self, images: Sequence[Picture]) -> Tensor:
        """Prepare the images."""
        levels = squared(images, self.side).to(self._device, non_blocking=True)
        return levels.sub_(self._mean).div_(self._deviation).to(self._dtype)
