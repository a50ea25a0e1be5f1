"""How much goes through the decoder at once: pairs of many images, or a part of one image's.

A tagger lets only the pairs of a group attend to each other, and groups are consecutive pairs of an image. Whatever is
packed together, a group stays whole, so packing changes no score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Consecutive pairs of one image: from `start` up to `end`."""

    image: int
    start: int
    end: int


def pack(counts: Sequence[int], group: int, most: int) -> Iterator[list[Part]]:
    """Calls of the decoder for images with so many pairs, of at most `most` slots each, but at least one group.

    `group`: pairs of a full group. A call has as many slots for each image as its longest part; so only parts of similar
    length, up to twice as long, share one. An image with more pairs than a call takes is cut between groups.
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
