"""The time that a training run stands still for a checkpoint of the released size, beside torch.save of the same tensors.

The state is that of ParSeDA with ResNet-50 and RoBERTa-base, with AdamW's averages.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.harness import Row, in_own_process, wall_seconds
from models.config import NetworkConfig
from models.rlip import RLIP
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.checkpoints.checkpointer import Checkpointer, TrainingState
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.optimizer import make_optimizer
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings


def measure_checkpoints(folder: Path, rounds: int) -> Iterator[Row]:
    """Yields the time of the first checkpoint of a process, and of later ones beside torch.save."""
    folder.mkdir()
    size, (first, stall, written), peer = in_own_process(at_full_size, folder, rounds)
    note = f"on disk after {written:.1f} s"
    yield Row(f"checkpoints / {size / 1e9:.1f} GB: standing still, beside torch.save", "s", stall, peer, note)
    yield Row("checkpoints / the same, first one of a process", "s", first)


def at_full_size(folder: Path, rounds: int) -> tuple[int, tuple[float, float, float], float]:
    """Returns the bytes of the state, our times, and the least of torch.save, in this process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = TrainingSettings(keep_checkpoints=1)
    network = RLIP(NetworkConfig(), None)
    optimizer = make_optimizer(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state = TrainingState(network, optimizer, None)
    tensors = state.tensors(0)
    found = save(state, settings, folder, rounds + 1)
    peer = min(wall_seconds(lambda: save_and_sync(tensors, folder / "state.pt")) for _ in range(rounds))
    return sum(tensor.nbytes for tensor in tensors.values()), found, peer


def save(state: TrainingState, settings: TrainingSettings, folder: Path, saves: int) -> tuple[float, float, float]:
    """Saves some checkpoints. Returns seconds of standing still for the first, and at best later, and until one is on disk.

    Raises `RuntimeError` when the last one differs from the state.
    """
    checkpoints = Checkpointer(state, settings, folder, Ranks(), False, lambda note: None)
    stalls, writes = [], []
    for step in range(1, saves + 1):
        before, began = checkpoints.waited, time.perf_counter()
        checkpoints.save(step, {})
        stalls.append(checkpoints.waited - before)
        checkpoints.finish()
        writes.append(time.perf_counter() - began)
    checkpoints.close()
    files = CheckpointFolder(folder / CHECKPOINTS)
    files.record(saves)
    (file,) = files.path(saves).glob("*.safetensors")
    with safe_open(file, "pt") as there:
        for name, tensor in state.tensors(0).items():
            if not torch.equal(there.get_tensor(name), tensor):
                raise RuntimeError(f"{name} differs in the checkpoint")
    shutil.rmtree(folder / CHECKPOINTS)
    return stalls[0], min(stalls[1:]), min(writes)


def save_and_sync(tensors: dict[str, Tensor], path: Path) -> None:
    """Calls torch.save and waits for the disk, as ours does."""
    with path.open("wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())
