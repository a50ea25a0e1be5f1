"""The floating-point operations (FLOPs) of training steps: a few are counted, the others estimated from those.

`view_flops` counts before a training run begins, on a network without values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.rlip import RLIP
from pipeline.data.images.training_view import padded
from pipeline.training.settings import TrainingSettings

COUNTED = 4
"""Steps that are counted."""


class StepFlops:
    """The FLOPs of steps by the pixels of their batch.

    Counting changes the order in which gradients are added up, and so their last bits. A step is therefore counted in
    an extra pass, the gradients of which are thrown away, and only the first steps of a process are. All processes
    count the same steps, because losses wait for those of the other processes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._counted: list[tuple[int, int]] = []

    @property
    def is_counting(self) -> bool:
        """Whether the next step should be counted."""
        return len(self._counted) < COUNTED

    def count(self, pixels: int, step: Callable[[], object]) -> None:
        """Counts a forward and backward pass over a batch of B·H·W `pixels`. Afterwards, set its gradients to None."""
        self._counted.append((pixels, count_flops(step, self._device)))

    def of(self, pixels: int) -> int:
        """Returns the FLOPs of a step: a linear function of the pixels, fitted to the counted steps; 0 before the
        first.

        The constant part is that of the texts; what depends on more than the number of pixels is averaged.
        """
        sizes, flops = np.array(self._counted, np.float64).reshape(-1, 2).T
        if len(set(sizes)) < 2:
            return round(float(flops.mean() * pixels / sizes.mean())) if len(sizes) else 0
        slope, constant = np.polyfit(sizes, flops, 1)
        return max(0, round(float(slope * pixels + constant)))


def count_flops(step: Callable[[], object], device: torch.device) -> int:
    """Runs a step on a device and returns the floating-point operations that it took.

    Torch's random numbers continue, there and on the CPU, as if it had not run.

    Counts what `torch.utils.flop_counter` knows: matrix products, convolutions and attention, where a multiplication
    and an addition are two operations. Operations per element, such as activations, are left out, as is usual for MFU.
    What activation checkpointing computes again counts too.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


TOKENS = 5
"""Tokens of a label text, begin and end included."""


class ViewFlops(NamedTuple):
    """What a training run computes for each image that it sees."""

    flops: float
    height: int
    width: int
    """Mean sides in pixels of a micro-batch, with padding."""
    padding: float
    """Share of the pixels of micro-batches that shows no image."""


def view_flops(settings: TrainingSettings) -> ViewFlops:
    """Returns the FLOPs of the forward and backward pass for one view of an image, and the size of the batches.

    Losses are left out, as is what activation checkpointing computes again. A tagger counts as the network that finds
    its own pairs. It takes some seconds and hardly any memory, because tensors have shapes alone.
    """
    images = min(settings.micro_batch, settings.batch)
    height, width, padding = padded(settings.view, images, settings.bucket > 1)
    config = replace(settings.network, tagger=False)
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

    return ViewFlops(count_flops(step, torch.device("cpu")) / images, height, width, padding)
