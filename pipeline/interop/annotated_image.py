"""An image with the boxes and relations that an annotation tool's file states."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.labels.verdicts import Box4


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as it was annotated. It is recognised by its digest, else by dataset and id, else by its file's name."""

    name: str
    """Path or file name."""
    boxes: tuple[tuple[str, Box4], ...]
    """Category and place of each box."""
    relations: tuple[tuple[int, str, int], ...]
    """Subject, predicate and object; the ends are indices into `boxes`."""
    digest: str | None = None
    dataset: str | None = None
    image_id: int | None = None
