"""Saves and loads the training state as one safetensors file, which is replaced atomically."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from scenes.captioning.learner import Learner


def save_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Saves weights, optimizer state, step and seconds spent. A kill leaves either the old or the new file."""
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in learner.named_parameters()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": value.contiguous() for key, value in state.items()}
    aside = path.with_suffix(".part")
    save_file(tensors, aside, metadata={"step": str(step), "seconds": str(seconds)})
    aside.replace(path)


def load_checkpoint(path: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restores a checkpoint. Returns its step and the seconds spent before it."""
    tensors = load_file(path)
    # `named_parameters` lists tied parameters once, so the file does too.
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), float(metadata["seconds"])
