"""Predictions that are not numbers, and what is to blame for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.predictions import Predictions


def check_finite(predictions: Predictions, network: nn.Module) -> None:
    """Raises FloatingPointError that names the prediction that is not finite and the damaged weight, if there is one."""
    tensors = {name: value for name, value in vars(predictions).items() if isinstance(value, Tensor)}
    sound = torch.stack([value.isfinite().all() for value in tensors.values()])
    if sound.all():
        return
    name = list(tensors)[int(sound.int().argmin())]
    damaged = next((name for name, weight in network.named_parameters() if not weight.isfinite().all()), None)
    advice = (
        f"so is the weight {damaged}: load sound weights, or train with a lower learning rate"
        if damaged
        else "all weights are sound: look for bad values in the images, or for weights too large for the precision"
    )
    raise FloatingPointError(f"{name}: a value is infinite or not a number; {advice}")
