"""Detects values that are not finite, and names the likely cause."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def check_finite(values: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raises `FloatingPointError` that names the values that are not finite and the network's damaged weight, if any.

    A network does not check its own predictions, because that waits for the device. Whoever reads them checks them.
    """
    sound = torch.stack([value.isfinite().all() for value in values.values()])
    if sound.all():
        return
    name = list(values)[int(sound.int().argmin())]
    damaged = next((name for name, weight in network.named_parameters() if not weight.isfinite().all()), None)
    advice = (
        f"the weight {damaged} has one too: load undamaged weights, or train with a lower learning rate"
        if damaged
        else "all weights are finite: look for bad values in the images, or for weights too large for the precision"
    )
    raise FloatingPointError(f"{name}: a value is NaN or infinite; {advice}")
