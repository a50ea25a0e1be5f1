"""Images and texts after the encoder: everything that the decoders need.

Shapes: B images, S image tokens of all levels, L levels, T texts (objects first, then predicates), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Encoded:
    """The encoder's output for a batch of images and one list of texts."""

    memory: Tensor
    """B×S×D image tokens"""
    padding: Tensor | None
    """B×S, True where a token lies in padding; None when no image is padded."""
    shapes: list[tuple[int, int]]
    """(height, width) of each level."""
    valid_ratios: Tensor
    """B×L×2 (1×L×2 when no image is padded): share of each level's width and height that the image fills."""
    texts: list[Tensor]
    """B×T×D text features for each decoder layer; the last ones come from the last fusion."""
    text_key_padding_mask: Tensor | None
    """1×T, True for texts that no attention may read; None when all may be read."""
    objects: int
    """Number of object texts among the T texts."""
