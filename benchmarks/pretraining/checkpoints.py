"""The share of a training for which it stands still for checkpoints: of the released size, and of a small one as a whole.

The state is that of ParSeDA with ResNet-50 and RoBERTa-base, with AdamW's averages. The peers write the same tensors:
torch.save while the training waits, and torch.distributed.checkpoint's asynchronous ways, in a thread and in a process, of
which only the time counts until the training could go on.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from benchmarks.harness import Row, at_most, in_own_process, wall_seconds
from benchmarks.photos import Photos
from benchmarks.pretraining.setup import make_config, make_trainer, write_training_set
from models.config import NetworkConfig
from models.rlip import RLIP
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.checkpoints.checkpointer import Checkpointer, TrainingState
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.optimizer import make_optimizer
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings

INTERVAL = 300
"""Seconds between two checkpoints of a large training: the default of 500 steps, of .6 s each."""
EVERY = 10
"""Steps between two checkpoints of the small training: some seconds."""
Stall = tuple[float, float, float]
"""Seconds of standing still for the first checkpoint, and at best later, and until a checkpoint is on disk."""


def measure_checkpoints(photos: Photos, folder: Path, steps: int, rounds: int) -> Iterator[Row]:
    """Yields times at full size, beside the peers, and the share of a whole training."""
    folder.mkdir()
    size, found = in_own_process(at_full_size, folder, rounds)
    first, stall, written = found.pop("ours")
    for name, (_, theirs, their_written) in found.items():
        note = f"on disk after {written:.1f} s (theirs {their_written:.1f})"
        yield Row(f"checkpoints / {size / 1e9:.1f} GB: standing still, beside {name}", "s", stall, theirs, note=note)
    yield Row("checkpoints / the same, first one of a process", "s", first)
    share = 100 * (first + (3600 // INTERVAL - 1) * stall) / 3600
    yield Row(f"checkpoints / share of the first hour, one in {INTERVAL} s", "%", share, goal=at_most(2))
    shards = write_training_set(photos, folder / "set")
    trainer = make_trainer(make_config(folder / "small", shards, steps=steps, checkpoint_every=EVERY))
    seconds = trainer.train(lambda: False).seconds
    share, note = 100 * trainer._checkpoints.waited / seconds, f"one in {seconds / (steps / EVERY):.1f} s"
    yield Row(f"checkpoints / share of a small training, one in {EVERY} steps", "%", share, goal=at_most(2), note=note)


def at_full_size(folder: Path, rounds: int) -> tuple[int, dict[str, Stall]]:
    """Returns the bytes of the state, and the times of each way, in this process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = TrainingSettings(keep_checkpoints=1)
    state = full_size_state(settings)
    tensors = state.tensors(0)
    found = {"ours": ours(state, settings, folder, rounds + 1)}
    least = min(wall_seconds(lambda: save_and_sync(tensors, folder / "state.pt")) for _ in range(rounds))
    found["torch.save"] = least, least, least
    (folder / "state.pt").unlink()
    join_alone()
    for kind in (AsyncCheckpointerType.THREAD, AsyncCheckpointerType.PROCESS):
        found[f"async_save, {kind.value}"] = asynchronous(tensors, folder / "async", kind, rounds)
    return sum(tensor.nbytes for tensor in tensors.values()), found


def full_size_state(settings: TrainingSettings) -> TrainingState:
    """Returns the state of a training after its first step, which has no gradients."""
    network = RLIP(NetworkConfig(), None)
    optimizer = make_optimizer(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return TrainingState(network, optimizer, None)


def ours(state: TrainingState, settings: TrainingSettings, folder: Path, saves: int) -> Stall:
    """Saves some checkpoints. Raises `RuntimeError` when the last one differs from the state."""
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


def asynchronous(tensors: dict[str, Tensor], folder: Path, kind: AsyncCheckpointerType, rounds: int) -> Stall:
    """Returns the times of torch's asynchronous checkpoint."""
    stalls, writes = [], []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        future = dcp.async_save({"state": tensors}, checkpoint_id=str(folder), async_checkpointer_type=kind)
        stalls.append(time.perf_counter() - began)
        future.result()
        writes.append(time.perf_counter() - began)
        shutil.rmtree(folder)
    return stalls[0], min(stalls[1:]), min(writes)


def join_alone() -> None:
    """Makes a process group of this process, which torch's asynchronous checkpoints need."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo")
