"""What labelling knows of one image, and what it says about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from tagger.box import Box
from tagger.pair import Pair
from tagger.relation import Relation


class Problem(NamedTuple):
    """Why an image gets no labels: a short reason that can be counted, and the offending value."""

    reason: str
    value: str = ""


@dataclass(frozen=True)
class TaggingImage:
    """An image with its boxes and candidate pairs.

    `width`, `height`: pixels of the original image, which the boxes are measured in.
    `shape`: (H, W) of what `load` gives: 3×H×W float pixels, normalised as the tagger was trained, or the problem with
    the image. `load` may be called from another thread.
    """

    width: int
    height: int
    boxes: Sequence[Box]
    pairs: Sequence[Pair]
    shape: tuple[int, int]
    load: Callable[[], Tensor | Problem]


@dataclass(frozen=True)
class Labels:
    """The relations of an image, or the problem for which it has none."""

    relations: list[Relation] = field(default_factory=list)
    problem: Problem | None = None
