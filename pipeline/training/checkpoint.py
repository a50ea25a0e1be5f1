"""Checkpoints: everything that the next step depends on, in one file that is written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from storage.atomic import put_in_place
from storage.errors import FatalError

FORMAT = 2
_MODEL, _FIRST, _SECOND, _STEPS = "model.", "exp_avg.", "exp_avg_sq.", "steps."


def save_checkpoint(
    path: Path,
    step: int,
    processes: int,
    stream: Mapping[str, Any],
    network: nn.Module,
    optimizer: torch.optim.AdamW,
) -> None:
    """Writes the state after `step` steps: parameters, buffers, AdamW's averages by parameter name, and the stream's place."""
    tensors = {_MODEL + name: value for name, value in network.state_dict().items()}
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, state in optimizer.state.items():
        name = names[parameter]
        tensors |= {_FIRST + name: state["exp_avg"], _SECOND + name: state["exp_avg_sq"], _STEPS + name: state["step"]}
    about = {"format": FORMAT, "step": step, "processes": processes, "stream": stream}
    aside = path.with_name(f".{path.name}.new")
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, aside, metadata={"checkpoint": json.dumps(about)})
    put_in_place(aside, path)


def load_checkpoint(
    path: Path, processes: int, network: nn.Module, optimizer: torch.optim.AdamW
) -> tuple[int, dict[str, Any]]:
    """Restores the state. Returns its number of steps and the stream's place; without a checkpoint, 0 and an empty one.

    Raises `FatalError` when the file is damaged or belongs to another network or another number of processes.
    """
    if not path.is_file():
        return 0, {}
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {})["checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise FatalError(f"{path}: damaged checkpoint ({error}); remove it to train from the beginning") from error
    if about["format"] != FORMAT:
        raise FatalError(f"{path}: has checkpoint format {about['format']}, but this version reads {FORMAT}; remove it")
    if about["processes"] != processes:
        raise FatalError(
            f"{path}: was written by {about['processes']} processes, and {processes} would end with other weights; "
            f"set processes = {about['processes']} to continue, or remove the file to train from the beginning"
        )
    own = network.state_dict()
    saved = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in saved.items()}:
        raise FatalError(f"{path}: holds another network than the settings describe; remove it to start again")
    network.load_state_dict(saved)
    for name, parameter in network.named_parameters():
        if _FIRST + name in tensors:
            optimizer.state[parameter] = {
                "step": tensors[_STEPS + name],
                "exp_avg": tensors[_FIRST + name].to(parameter.device),
                "exp_avg_sq": tensors[_SECOND + name].to(parameter.device),
            }
    return int(about["step"]), about["stream"]
