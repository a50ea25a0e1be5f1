"""Decides which part of a training image is shown, at which size and in which colours, without reading the image.

A view is a pure function of uniform random numbers and the size of the image, so the sizes of all samples of an epoch
are known before any is read. `load_view` of `pipeline/training/batches.py` applies a view to the pixels.

Legend: N images, D draws, coordinates in pixels from the top left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.runtime.settings import Settings

STRIDE = 32
"""Sides are multiples of this, so that batches have few distinct sizes and no feature map cell is partly padding."""
DRAWS = 12
"""Number of uniform random numbers in [0, 1) that a view needs."""

WINDOW = 128
"""Blocks of 64 images that are shuffled together: enough to find batches of one size, however many sizes views have."""
TYPICAL = ((640, 480),) * 4 + ((480, 640),)
"""Width and height of COCO's images, every fifth of which is taller than wide."""

_Draws = NDArray[np.float64]
"""Uniform random numbers in [0, 1)."""
Colour = Literal["brightness", "contrast", "saturation"]

_COLOURS: tuple[Colour, ...] = ("brightness", "contrast", "saturation")
_ORDERS = tuple(permutations(_COLOURS))
_CROPPED_SHORTEST = np.array([400, 500, 600])
"""Lengths of the shorter side of the image from which a part is cropped. One is drawn per image, as in DETR."""
_MAX_PIXELS = 64_000_000
_SMALLEST_CROP, _LARGEST_CROP = 384, 600
"""Limits of the sides of that part, as in DETR."""


class ViewSettings(Settings):
    """Settings of how a training image is cropped, resized, mirrored and coloured."""

    image_size: int = Field(640, ge=STRIDE)
    """Longest side of an image in pixels. Both sides are then rounded to multiples of 32, unless `official`."""
    smallest: float = Field(1.0, gt=0, le=1)
    """Smallest scale of an image, as a share of `image_size`; it applies only if `shortest` is empty."""
    shortest: tuple[Annotated[int, Field(ge=STRIDE)], ...] = ()
    """Lengths of the shorter side in pixels; one is drawn per image, within `image_size`. The paper: 480, 512,
    ..., 800 with an `image_size` of 1333. Empty: the longest side decides."""
    crop: float = Field(0.0, ge=0, le=1)
    """Probability of a random crop. The paper: 0.5. Each side of the crop is drawn between 384 and 600 pixels of
    the image at a shorter side of 400, 500 or 600 pixels."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring an image, which swaps "left" and "right" in its predicates unless `official`."""
    colour: float = Field(0.4, ge=0, lt=1)
    """Colour augmentation c: brightness, contrast and saturation change by factors in [1 - c, 1 + c]."""
    official: bool = False
    """Prepare images exactly as the authors do, at more than twice the time: sizes are not rounded to multiples of 32,
    an image is resized before and after it is cropped, colours change in random order, "left" and "right" stay."""

    @model_validator(mode="after")
    def _is_known_to_the_authors(self) -> Self:
        if self.official and not self.shortest:
            raise ValueError("official: the authors draw the shorter side; set `shortest`, e.g. [480, 512, 544, 576]")
        return self


class Crop(NamedTuple):
    """A part of the image in raw pixels of the image before mirroring. They are whole numbers, unless `official`."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class TrainingView:
    """How an image is transformed for training. `width` and `height` are those of the result in pixels."""

    width: int
    height: int
    crop: Crop | None = None
    """The part of the image that is shown; None: all of it."""
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    order: tuple[Colour, ...] = _COLOURS
    """The order in which the colours change."""
    official: bool = False
    """Whether the authors' steps are repeated one by one; see `ViewSettings.official`."""
    first_size: tuple[int, int] | None = None
    """Width and height to which an official view resizes the whole image before it crops."""


@dataclass(frozen=True)
class TrainingViews:
    """The views of N images, column by column."""

    sizes: NDArray[np.int32]
    """N x 2 heights and widths of the results in pixels."""
    cropped: NDArray[np.bool_]
    """Whether only a part of the image is shown."""
    crops: NDArray[np.float64]
    """N x 4: left, top, width and height of that part in raw pixels. Only rows that are cropped have a meaning."""
    first_sizes: NDArray[np.float64]
    """N x 2 widths and heights of the whole image when the part is cropped. Only cropped rows have a meaning."""
    mirrored: NDArray[np.bool_]
    factors: NDArray[np.float64]
    """N x 3 factors of brightness, contrast and saturation."""
    orders: NDArray[np.int64]
    """The order of the colours, as an index of their permutations."""
    official: bool

    def row(self, index: int) -> TrainingView:
        """Returns the view of one image."""
        height, width = self.sizes[index].tolist()
        brightness, contrast, saturation = self.factors[index].tolist()
        crop, first_size = None, None
        if self.cropped[index]:
            crop = Crop(*self.crops[index].tolist())
            if self.official:
                first_size = (int(self.first_sizes[index, 0]), int(self.first_sizes[index, 1]))
        return TrainingView(
            width, height, crop, bool(self.mirrored[index]), brightness, contrast, saturation,
            _ORDERS[self.orders[index]], self.official, first_size,
        )  # fmt: skip


def training_views(
    draws_ND: NDArray[np.float64], widths_N: NDArray[np.int64], heights_N: NDArray[np.int64], settings: ViewSettings
) -> TrainingViews:
    """Returns the views of N images, given their raw widths and heights and `DRAWS` uniform numbers for each."""
    (flip_N, *colours_3N, order_N, crop_N, first_N, width_N, height_N, left_N, top_N, scale_N) = draws_ND.T
    raw_N2 = np.stack([widths_N, heights_N], axis=1).astype(np.float64)
    parts = (_official_parts if settings.official else _parts)(
        raw_N2,
        _chosen(_CROPPED_SHORTEST, first_N),
        np.stack([width_N, height_N], axis=1),
        np.stack([left_N, top_N], axis=1),
    )
    # An image of 8 x 20,000 pixels would have 625 million of them before it is cropped.
    cropped_N = (crop_N < settings.crop) & (parts.first_sizes.prod(axis=1) <= _MAX_PIXELS)
    shown_N2 = np.where(cropped_N[:, None], parts.sizes, raw_N2)
    return TrainingViews(
        sizes=_output_sizes(shown_N2, scale_N, settings)[:, ::-1].astype(np.int32),
        cropped=cropped_N,
        crops=parts.crops,
        first_sizes=parts.first_sizes,
        mirrored=flip_N < settings.flip,
        factors=1 + settings.colour * (2 * np.stack(colours_3N, axis=1) - 1),
        orders=np.floor(order_N * (len(_ORDERS) if settings.official else 1)).astype(np.int64),
        official=settings.official,
    )


def snake(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns sort keys: heights rise, and widths rise and fall in turns, so neighbours differ in one side only."""
    _, rows = np.unique(heights, return_inverse=True)
    highest = int(widths.max(initial=0)) + 1
    return rows * highest + np.where(rows % 2, highest - 1 - widths, widths)


def padded(view: ViewSettings, images: int, is_sorted: bool) -> tuple[int, int, float]:
    """Returns the mean height and width of micro-batches of `TYPICAL` images, in multiples of `STRIDE`, and the share
    of their pixels that is padding. `is_sorted`: views of similar sizes follow each other."""
    count = max(1, WINDOW * 64 // images) * images
    width, height = np.resize(np.array(TYPICAL), (count, 2)).T
    sizes_N2 = training_views(np.random.default_rng(0).random((count, DRAWS)), width, height, view).sizes
    if is_sorted:
        sizes_N2 = sizes_N2[np.argsort(snake(*(sizes_N2.astype(np.int64) // STRIDE).T))]
    sizes_BI2 = sizes_N2.reshape(-1, images, 2).astype(np.int64)
    sides_B2 = sizes_BI2.max(1)
    padding = 1 - sizes_BI2.prod(2).sum() / (images * sides_B2.prod(1).sum())
    padded_height, padded_width = (max(STRIDE, STRIDE * round(side / STRIDE)) for side in sides_B2.mean(0).tolist())
    return padded_height, padded_width, float(padding)


def training_view(draws_D: NDArray[np.float64], width: int, height: int, settings: ViewSettings) -> TrainingView:
    """Returns the view of one image of `width` x `height` raw pixels, given `DRAWS` uniform numbers."""
    return training_views(draws_D[None], np.array([width]), np.array([height]), settings).row(0)


class _Parts(NamedTuple):
    """The parts of N images that are shown if they are cropped. Each array has a row per image."""

    first_sizes: NDArray[np.float64]
    """Width and height of the whole image after it was resized for the first time, before it is cropped."""
    sizes: NDArray[np.float64]
    """Width and height of the part in pixels of the resized image."""
    crops: NDArray[np.float64]
    """Left, top, width and height of the part in raw pixels."""


def _parts(raw_N2: NDArray[np.float64], shortest_N: NDArray[np.int64], sides_N2: _Draws, corners_N2: _Draws) -> _Parts:
    """Draws parts with few distinct sizes that one crop and one resize of the raw image show.

    In terms of the image resized to the given shorter side, the sides of the part are drawn from 384, 416,
    ... up to 600 or the side of the image: they are multiples of 32, unlike the authors', so that views have few
    distinct sizes. The part is then rounded to whole raw pixels.
    """
    first_N2 = raw_N2 * (shortest_N / raw_N2.min(axis=1))[:, None]
    sizes_N2 = _sides(first_N2, sides_N2, STRIDE)
    raw_sizes_N2 = np.maximum(np.rint(sizes_N2 * raw_N2 / first_N2), 1)
    raw_corners_N2 = np.floor(corners_N2 * (raw_N2 - raw_sizes_N2 + 1))
    return _Parts(first_N2, sizes_N2, np.concatenate([raw_corners_N2, raw_sizes_N2], axis=1))


def _official_parts(
    raw_N2: NDArray[np.float64], shortest_N: NDArray[np.int64], sides_N2: _Draws, corners_N2: _Draws
) -> _Parts:
    """Draws parts as the authors do, in whole pixels of the image after it was resized to the given shorter side."""
    first_N2 = _official_sizes(raw_N2, shortest_N)
    sizes_N2 = _sides(first_N2, sides_N2, 1)
    first_corners_N2 = np.floor(corners_N2 * (first_N2 - sizes_N2 + 1))
    pixels_N2 = raw_N2 / first_N2
    return _Parts(first_N2, sizes_N2, np.concatenate([first_corners_N2 * pixels_N2, sizes_N2 * pixels_N2], axis=1))


def _sides(sizes_N2: NDArray[np.float64], draws_N2: _Draws, step: int) -> NDArray[np.float64]:
    """Returns sides of parts: 384 and a multiple of `step` pixels, up to 600 or the side of the resized image."""
    choices_N2 = (np.minimum(sizes_N2, _LARGEST_CROP) - _SMALLEST_CROP) // step + 1
    sides_N2: NDArray[np.float64] = _SMALLEST_CROP + step * np.floor(draws_N2 * choices_N2)
    return sides_N2


def _output_sizes(
    shown_N2: NDArray[np.float64], scale_N: NDArray[np.float64], settings: ViewSettings
) -> NDArray[np.float64]:
    """Returns the output widths and heights of what is shown, given its widths and heights and one draw for each."""
    if not settings.shortest:
        longest_N = settings.image_size * (settings.smallest + (1 - settings.smallest) * scale_N)
        return _rounded(shown_N2 * (longest_N / shown_N2.max(axis=1))[:, None])
    shortest_N = _chosen(np.array(settings.shortest), scale_N)
    if settings.official:
        return _official_sizes(shown_N2, shortest_N, settings.image_size)
    scales_N = np.minimum(shortest_N / shown_N2.min(axis=1), settings.image_size / shown_N2.max(axis=1))
    return _rounded(shown_N2 * scales_N[:, None])


def _rounded(sizes_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(np.rint(sizes_N2 / STRIDE), 1) * STRIDE


def _official_sizes(
    sizes_N2: NDArray[np.float64], shortest_N: NDArray[np.int64], longest: float = np.inf
) -> NDArray[np.float64]:
    """Returns sizes with a given shorter side and at most `longest` pixels on the other, rounded as DETR rounds them.

    Source: `get_size_with_aspect_ratio` in DETR's datasets/transforms.py.
    """
    least_N, most_N = sizes_N2.min(axis=1), sizes_N2.max(axis=1)
    capped_N = np.maximum(np.rint(longest * least_N / most_N), 1)
    shorter_N = np.where(most_N / least_N * shortest_N > longest, capped_N, shortest_N)
    longer_N = np.floor(shorter_N * most_N / least_N)
    return np.where(sizes_N2 == least_N[:, None], shorter_N[:, None], longer_N[:, None])


def _chosen(values: NDArray[np.int64], draws_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns one of the values for each uniform draw, all equally likely."""
    return values[np.floor(draws_N * len(values)).astype(np.int64)]
