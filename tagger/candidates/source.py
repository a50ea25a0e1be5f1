"""What every source of candidates is."""

from collections.abc import Sequence
from typing import Protocol

from tagger.box import Box
from tagger.pair import Pair
from tagger.triplet import Triplet


class CandidateSource(Protocol):
    """Where an image's candidates come from."""

    def __call__(self, triplets: Sequence[Triplet], boxes: Sequence[Box], captions: Sequence[int] = ()) -> list[Pair]:
        """Candidates for boxes of one image; `captions` holds the number of each triplet's caption."""
