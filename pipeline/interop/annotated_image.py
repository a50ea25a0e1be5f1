"""An image with the boxes and relations stated in an annotation tool's file."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.labels.verdicts import Box4
from tagger.english.predicates import canonical


@dataclass(frozen=True)
class AnnotatedImage:
    """An annotated image. It is identified by its digest, else by dataset and id, else by file name.

    Raises ValueError for a predicate without a word.
    """

    name: str
    """Path or file name."""
    boxes: tuple[tuple[str, Box4], ...]
    """Category and position of each box."""
    relations: tuple[tuple[int, str, int], ...]
    """Subject, predicate and object. Subject and object index `boxes`."""
    digest: str | None = None
    dataset: str | None = None
    image_id: int | None = None
    shown: frozenset[tuple[Box4, str, Box4]] | None = None
    """The run's labels that the annotator started from: subject, canonical predicate, object; None if unknown."""

    def __post_init__(self) -> None:
        for _, predicate, _ in self.relations:
            if not canonical(predicate):
                raise ValueError(f"image {self.name!r}: the predicate {predicate[:80]!r} contains no word")
