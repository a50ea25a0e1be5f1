"""Images and texts after the encoder: all that the decoders need.

Shapes: B images, S image tokens of all levels, L levels, T texts (objects first, then predicates), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Encoded:
    """The encoder's output for a batch of images and one list of texts."""

    memory_BSD: Tensor
    padding_BS: Tensor | None
    """True where a token lies in padding; None when no image is padded."""
    shapes: list[tuple[int, int]]
    """(height, width) of each level."""
    valid_ratios_BL2: Tensor
    """Share of each level's width and height that the image fills."""
    texts_BTD: Tensor
    """Features of the texts after the last fusion."""
    classifiers: list[Tensor]
    """B×T×D, what each decoder layer's queries are compared with."""
    objects: int
    """How many of the T texts are object texts."""
