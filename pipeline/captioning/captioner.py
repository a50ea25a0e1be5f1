"""The captioner protocol: images in, captions out, each with its origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from pipeline.runtime.stage import Rejected

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


Picture: TypeAlias = "Image.Image | Tensor"
"""An RGB image in raw pixels, or its grey levels (0..255, float32, 3 x H x W) at the size that a network looks at."""


class Caption(NamedTuple):
    """One caption of one image."""

    text: str
    draw: int
    """Its position among the captions of the image, from 0."""
    seed: int | None
    """The seed it was sampled with; None for captions that were not sampled."""
    log_probability: float | None
    """Natural logarithm of the probability the model itself gives to the words (end included); None where unknown."""
    source: str
    """Which model and decoding, or which file, it comes from."""
    match: float | None = None
    """How probably it belongs to the image, as the filter's matching head says; None without a filter."""
    times: int = 1
    """How many draws of the image said just this; more than 1 only where they were merged."""


class Captioner(Protocol):
    """Makes captions. The captions of an image depend on the image and its id only: not on batch, order or worker."""

    needs_images: bool
    """False for a captioner that looks at ids only: images need not be decoded for it."""
    rejects: list[Rejected]
    """Recorded captions that could not be used, by image."""

    @property
    def side(self) -> int | None:
        """Of the square that its network looks at, in pixels; None where that is not known before the first batch."""
        ...

    def caption(self, images: Sequence[Picture], image_ids: Sequence[int]) -> list[list[Caption]]:
        """The captions of each image, in the order of `images`."""
        ...


def merge(captions: Sequence[Caption]) -> list[Caption]:
    """Each text once, as its first draw has it, with the number of draws that said it."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts[caption.text] += caption.times
    first: dict[str, Caption] = {}
    for caption in captions:
        first.setdefault(caption.text, caption._replace(times=counts[caption.text]))
    return list(first.values())
