"""One scored relation between two boxes of an image."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A row of the relations table: box indices, canonical predicate, score in [0, 1], and where it came from.

    `proposed`: the caption's triplet `triplet` proposed this very pair; -1 if none did.
    """

    subject: int
    object: int
    predicate: str
    score: float
    proposed: bool
    triplet: int
