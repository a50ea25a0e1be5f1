"""Detects predictions that are not finite, and names the likely cause."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.predictions import Predictions


def check_finite(predictions: Predictions, network: nn.Module) -> None:
    """Raises `FloatingPointError` that names the prediction that is not finite and the damaged weight, if any."""
    tensors = {name: value for name, value in vars(predictions).items() if isinstance(value, Tensor)}
    sound = torch.stack([value.isfinite().all() for value in tensors.values()])
    if sound.all():
        return
    name = list(tensors)[int(sound.int().argmin())]
    damaged = next((name for name, weight in network.named_parameters() if not weight.isfinite().all()), None)
    advice = (
        f"the weight {damaged} has one too: load undamaged weights, or train with a lower learning rate"
        if damaged
        else "all weights are finite: look for bad values in the images, or for weights too large for the precision"
    )
    raise FloatingPointError(f"{name}: a value is NaN or infinite; {advice}")
