"""The protocol of captioners: they take images and return captions, each with its origin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

from pipeline.captioning.settings import CaptionSettings
from pipeline.runtime.plugins import Plugin
from pipeline.runtime.stage import Rejected

# For types alone: a command that only reads a store must not wait for torch.
if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


ImageInput: TypeAlias = "Image.Image | Tensor"
"""An RGB image in raw pixels, or pixel values (0..255, float32, 3 x H x W) at the size that a network takes."""


class Caption(NamedTuple):
    """One caption of an image, a box or a pair of boxes."""

    text: str
    draw: int
    """Its position among the captions of the same image, box or pair, counted from 0."""
    seed: int | None
    """The seed it was sampled with; None for captions that were not sampled."""
    log_probability: float | None
    """Natural logarithm of the probability that the model itself gives the words (end included); None where unknown."""
    source: str
    """The model and decoding, or the file, that it comes from."""
    match: float | None = None
    """Probability that it belongs to the image, from the filter's matching head; None without a filter."""
    times: int = 1
    """Number of draws of the image with this text; more than 1 only where draws were merged."""
    boxes: tuple[int, ...] | None = None
    """Indices of the box or the two boxes that it describes, which the stage sets; None for the whole image."""


class Captioner(Protocol):
    """Captions images. Captions depend only on the image and its id, not on batch, order or worker. Crops are passed as
    images with the id of their image.
    """

    needs_images: bool
    """False for a captioner that uses only ids, so images need not be decoded for it."""
    rejects: list[Rejected]
    """Unusable recorded captions, each with its image."""

    @property
    def side(self) -> int | None:
        """Side in pixels of the square tensors that images may come as; None for a captioner of whole images."""
        ...

    def caption(self, images: Sequence[ImageInput], image_ids: Sequence[int]) -> list[list[Caption]]:
        """Caption each image, in the order of `images`."""
        ...


class CaptionerPlugin(Plugin):
    """A registered captioner: the files it reads and how to open it. Creating it must be quick."""

    settings: CaptionSettings
    batches_at_once: ClassVar[int] = 1
    """Concurrent calls of `caption`, each in a thread: several for a captioner that waits for a server."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Faults of existing files, for `rlip doctor`: the setting that names the file, and the fault."""
        return iter(())

    @abstractmethod
    def open(self, worker: int = 0) -> Captioner:
        """Loads it in worker `worker`, counted from 0. Raises `FatalError` if its files or GPU are missing."""


def merge(captions: Sequence[Caption]) -> list[Caption]:
    """Merge equal texts of the same boxes: keep the first draw, with the number of draws that have the text."""
    merged: dict[tuple[Any, ...], Caption] = {}
    for caption in captions:
        key = caption.text, caption.boxes
        known = merged.get(key)
        merged[key] = caption if known is None else known._replace(times=known.times + caption.times)
    return list(merged.values())
