"""Packs pairs into decoder calls: the pairs of many images, or part of one image's pairs.

In a tagger only the pairs of a group attend to each other, and a group is a run of consecutive pairs of an image.
Packing never splits a group, so it changes no score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Consecutive pairs of one image, from `start` to `end` (exclusive)."""

    image: int
    start: int
    end: int


def pack(counts: Sequence[int], group: int, most: int) -> Iterator[list[Part]]:
    """Yields decoder calls for images with `counts` pairs, each of at most `most` slots but at least one group.

    `group`: number of pairs in a full group. A call has as many slots per image as its longest part, so only parts of
    similar length, up to twice as long, share a call. An image with too many pairs for a call is cut between groups.
    """
    whole = max(1, most // group) * group
    parts = [
        Part(image, start, min(start + whole, count))
        for image, count in enumerate(counts)
        for start in range(0, count, whole)
    ]
    classes: dict[int, list[Part]] = {}
    for part in parts:
        classes.setdefault((part.end - part.start - 1).bit_length(), []).append(part)
    for size in sorted(classes):
        longest = max(part.end - part.start for part in classes[size])
        slots = longest if longest <= group else -(-longest // group) * group
        together = max(1, most // slots)
        for start in range(0, len(classes[size]), together):
            yield classes[size][start : start + together]
