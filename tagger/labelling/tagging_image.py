"""The input and output of labelling for one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tagger.box import Box
from tagger.pair import Pair
from tagger.relation import Relation

if TYPE_CHECKING:
    from torch import Tensor


class Problem(NamedTuple):
    """Why an image gets no labels: a short reason that can be counted, and the offending value."""

    reason: str
    value: str = ""


@dataclass(frozen=True)
class TaggingImage:
    """An image with its boxes and candidate pairs.

    `width`, `height`: size of the original image in pixels, the unit of the boxes.
    `load` returns 3×H×W float pixels, normalised as in the tagger's training, or the problem with the image; it may be
    called from another thread. `shape`: (H, W) of these pixels.
    """

    width: int
    height: int
    boxes: Sequence[Box]
    pairs: Sequence[Pair]
    shape: tuple[int, int]
    load: Callable[[], Tensor | Problem]

    @property
    def ends(self) -> list[tuple[int, int]]:
        """The distinct (subject, object) box indices of the pairs, sorted."""
        return sorted({(pair.subject, pair.object) for pair in self.pairs})


@dataclass(frozen=True)
class Labels:
    """The relations of an image, or the problem that prevented them."""

    relations: list[Relation] = field(default_factory=list)
    problem: Problem | None = None
