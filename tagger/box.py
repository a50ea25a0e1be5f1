"""One annotated box of an image."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A box in absolute pixels of the original image: top-left corner (x, y), size (w, h)."""

    category: str
    x: float
    y: float
    w: float
    h: float
    crowd: bool = False
