"""How long a training run of the released size stands still for a checkpoint: `python -m benchmarks.pretraining.stall FOLDER`.

The state is that of ParSeDA with ResNet-50 and RoBERTa-base, with AdamW's averages. The peers write the same tensors:
torch.save and torch.distributed.checkpoint while the training waits, and the latter's asynchronous ways, in a thread and in
a process, of which only the time counts until the training could go on.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from models.config import NetworkConfig
from models.rlip import RLIP
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.checkpoints.checkpointer import Checkpointer, TrainingState
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.optimizer import make_optimizer
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings

Figures = dict[str, float]


def full_size_state(settings: TrainingSettings) -> TrainingState:
    """Returns the state of a training after its first step, which has no gradients."""
    network = RLIP(NetworkConfig(), None)
    optimizer = make_optimizer(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return TrainingState(network, optimizer, None)


def ours(state: TrainingState, settings: TrainingSettings, folder: Path, saves: int) -> Figures:
    """Saves some checkpoints. Raises `RuntimeError` when the last one differs from the state."""
    checkpoints = Checkpointer(state, settings, folder, Ranks(), False, lambda note: None)
    stalls, writes = [], []
    for step in range(1, saves + 1):
        before, began = checkpoints.waited, time.perf_counter()
        checkpoints.save(step, {})
        stalls.append(checkpoints.waited - before)
        checkpoints.finish()
        writes.append(time.perf_counter() - began)
    if checkpoints.written != saves:
        raise RuntimeError("the last checkpoint was not written")
    checkpoints.close()
    files = CheckpointFolder(folder / CHECKPOINTS)
    files.record(saves)
    (file,) = files.path(saves).glob("*.safetensors")
    with safe_open(file, "pt") as there:
        for name, tensor in state.tensors(0).items():
            if not torch.equal(there.get_tensor(name), tensor):
                raise RuntimeError(f"{name} differs in the checkpoint")
    shutil.rmtree(folder / CHECKPOINTS)
    return {"first": stalls[0], "stall": min(stalls[1:]), "written": min(writes)}


def saved_and_synced(tensors: dict[str, Tensor], folder: Path) -> Callable[[], None]:
    """Returns a call of torch.save that waits for the disk, as ours does."""

    def save() -> None:
        with (folder / "state.pt").open("wb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())

    return save


def best(call: Callable[[], object], rounds: int) -> float:
    """Returns the least wall-clock seconds of a call."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def asynchronous(tensors: dict[str, Tensor], folder: Path, kind: AsyncCheckpointerType, rounds: int) -> Figures:
    """Returns how long torch's asynchronous checkpoint keeps its caller, the first time and at best later, and takes in all."""
    stalls, writes = [], []
    for _ in range(rounds + 1):
        shutil.rmtree(folder / "async", ignore_errors=True)
        began = time.perf_counter()
        future = dcp.async_save({"state": tensors}, checkpoint_id=str(folder / "async"), async_checkpointer_type=kind)
        stalls.append(time.perf_counter() - began)
        future.result()
        writes.append(time.perf_counter() - began)
    shutil.rmtree(folder / "async", ignore_errors=True)
    return {"first": stalls[0], "stall": min(stalls[1:]), "written": min(writes)}


def join_alone() -> None:
    """Makes a process group of this process, which torch's asynchronous checkpoints need."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo")


def main(folder: Path, rounds: int) -> None:
    """Prints the seconds as JSON."""
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = TrainingSettings(keep_checkpoints=1)
    state = full_size_state(settings)
    tensors = state.tensors(0)
    found: dict[str, object] = {"bytes": sum(tensor.nbytes for tensor in tensors.values())}
    found["ours"] = ours(state, settings, folder, rounds + 1)
    found["torch.save"] = {"stall": best(saved_and_synced(tensors, folder), rounds)}
    (folder / "state.pt").unlink()
    join_alone()
    for kind in (AsyncCheckpointerType.THREAD, AsyncCheckpointerType.PROCESS):
        try:
            found[f"async_save, {kind.value}"] = asynchronous(tensors, folder, kind, rounds)
        except Exception as error:
            found[f"async_save, {kind.value}"] = {"failed": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(found), flush=True)
    os._exit(0)  # the peer's process and its threads stay otherwise


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
