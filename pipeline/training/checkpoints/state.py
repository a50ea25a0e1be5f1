"""The tensors that the next step depends on, by name, and how they are read back into a training run of any shape.

`model.` parameters and buffers; `exp_avg.`, `exp_avg_sq.` and `steps.` AdamW's state of a parameter; `ema.` averages.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from models.state_dict_diff import state_dict_diff
from pipeline.training.ema import Ema

_MODEL, _FIRST, _SECOND, _STEPS, _EMA = "model.", "exp_avg.", "exp_avg_sq.", "steps.", "ema."


class TrainingState:
    """The tensors of one process, all views of what the training works with, so that reading changes them in place."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.AdamW, ema: Ema | None) -> None:
        self._network, self._optimizer, self._ema = network, optimizer, ema

    def tensors(self, rank: int) -> dict[str, Tensor]:
        """Returns what this process has to write: its parts of sharded tensors and, if it is the first, all others."""
        found = self._network_tensors()
        for name, parameter in self._network.named_parameters():
            if state := self._optimizer.state.get(parameter):
                found |= {_FIRST + name: state["exp_avg"], _SECOND + name: state["exp_avg_sq"]}
                found[_STEPS + name] = state["step"].reshape(1)
        return {name: value for name, value in found.items() if rank == 0 or isinstance(value, DTensor)}

    def load(self, folder: Path) -> None:
        """Reads a checkpoint of any number of processes, sharded or not.

        Raises ValueError when it is one of another network.
        """
        reader = HuggingFaceStorageReader(str(folder))
        there = reader.read_metadata().state_dict_metadata
        found = self._network_tensors()
        self._require_same(there, found)
        steps: dict[Tensor, Tensor] = {}
        for name, parameter in self._network.named_parameters():
            if _FIRST + name not in there:
                continue
            averages = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
            steps[parameter] = torch.zeros(1, device=parameter.device)
            found |= {_FIRST + name: averages["exp_avg"], _SECOND + name: averages["exp_avg_sq"]}
            found[_STEPS + name] = steps[parameter]
            # A fused kernel reads the number of steps on the device of the weights.
            self._optimizer.state[parameter] = {"step": steps[parameter].reshape(()), **averages}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(found, storage_reader=reader, no_dist=True)

    def _network_tensors(self) -> dict[str, Tensor]:
        state = {_MODEL + name: _at_least_1d(value) for name, value in self._network.state_dict().items()}
        if self._ema is not None:
            state |= {_EMA + name: value for name, value in self._ema.averages.items()}
        return state

    def _require_same(self, there: Mapping[str, object], own: Mapping[str, Tensor]) -> None:
        saved = {
            name: tuple(about.size)
            for name, about in there.items()
            if name.startswith((_MODEL, _EMA)) and isinstance(about, TensorStorageMetadata)
        }
        if wrong := state_dict_diff(saved, {name: tuple(value.shape) for name, value in own.items()}, {}):
            raise ValueError(f"it holds another network than the settings describe: {'; '.join(wrong)}")


def _at_least_1d(value: Tensor) -> Tensor:
    """The reader of safetensors can't read a part of a scalar."""
    return value.reshape(1) if value.dim() == 0 else value
