"""The interface of candidate sources."""

from collections.abc import Sequence
from typing import Protocol

from tagger.box import Box
from tagger.pair import Pair
from tagger.triplet import Triplet


class CandidateSource(Protocol):
    """Proposes the candidates of an image."""

    def __call__(self, triplets: Sequence[Triplet], boxes: Sequence[Box], captions: Sequence[int] = ()) -> list[Pair]:
        """Returns candidates for the boxes of one image; `captions` holds the caption number of each triplet."""
