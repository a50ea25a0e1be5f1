"""The floating-point operations (FLOPs) of a training before it runs, counted on a network without values."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from models.rlip import RLIP
from pipeline.data.images.training_view import DRAWS, STRIDE, training_views
from pipeline.training.settings import TrainingSettings
from pipeline.training.task import network_config
from pipeline.training.tracking.flops import count_flops

TYPICAL = (640, 480)
"""Width and height of an image of COCO."""
TOKENS = 5
"""Tokens of a label text, begin and end included."""


class ViewFlops(NamedTuple):
    """What a training computes for each image that it sees."""

    flops: float
    height: int
    width: int
    """Mean sides in pixels of a micro-batch, with padding."""


def view_flops(settings: TrainingSettings) -> ViewFlops:
    """Returns the FLOPs of the forward and backward pass for one view of an image, and the size of the batches.

    Losses are left out, as is what activation checkpointing computes again. A tagger counts as the network that finds
    its own pairs. It takes some seconds and no memory to speak of, because tensors have shapes alone.
    """
    images = min(settings.micro_batch, settings.batch)
    height, width = _padded_sides(settings, images)
    config = replace(network_config(settings), tagger=False)
    with torch.device("meta"):
        network = RLIP(config, None).train()
        pixels = torch.empty(images, 3, height, width)
        objects = settings.object_texts + 1
        texts = torch.zeros(
            objects + settings.predicate_texts, min(TOKENS, config.text.max_positions - 2), dtype=torch.long
        )

    def step() -> None:
        features = network.transformer.text_encoder.encode_tokens(texts, None)
        predicted = network.predict(pixels, None, features[:objects], features[objects:])
        layers = [predicted, *predicted.auxiliary]
        values = [value.float().sum() for layer in layers for value in layer.tensors().values()]
        torch.stack(values).sum().backward()  # type: ignore[no-untyped-call]

    return ViewFlops(count_flops(step, torch.device("cpu")) / images, height, width)


def _padded_sides(settings: TrainingSettings, images: int) -> tuple[int, int]:
    """Mean height and width of micro-batches of COCO's typical images, in multiples of the backbone's stride."""
    count = 256 * images
    width, height = (np.full(count, side, np.int64) for side in TYPICAL)
    sizes_N2 = training_views(np.random.default_rng(0).random((count, DRAWS)), width, height, settings.view).sizes
    if settings.bucket > 1:  # batches of similar sizes
        sizes_N2 = sizes_N2[np.lexsort(sizes_N2.T)]
    sides_2 = sizes_N2.reshape(-1, images, 2).max(1).mean(0)
    padded_height, padded_width = (max(STRIDE, STRIDE * round(side / STRIDE)) for side in sides_2.tolist())
    return padded_height, padded_width
