"""Several processes of a device: the bandwidth of their sums, and ways to share a step."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

from models.config import NetworkConfig
from models.losses import SetCriterion
from pipeline.run.device_networks import SMALL, Work
from pipeline.run.device_outcome import NEAR, Absent, Outcome, difference, is_gpu, judged, wait
from pipeline.runtime.processes import fork_context
from pipeline.training.checkpoints.checkpointer import Checkpointer, TrainingState
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS
from pipeline.training.optimizer import gradient_norm, make_optimizer
from pipeline.training.parallel import make_parallel
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from pipeline.training.worker import be_deterministic

SMALL_NETWORK = NetworkConfig.from_dict(SMALL)


def exchange(device: torch.device) -> Outcome:
    """Bandwidth of a sum over all GPUs, or over two processes on the CPU."""
    rates, sums = zip(*_by_rank(_exchange, device), strict=True)
    count = len(rates)
    figure = f"{min(rates):.3g} GB/s over {count} processes by {'NCCL' if is_gpu(device) else 'gloo'}"
    if set(sums) != {count * (count + 1) / 2}:
        return Outcome(f"{figure}, sums {sorted(set(sums))}", "wrong", "run nccl-tests, and look for NCCL_ variables")
    if is_gpu(device) and min(rates) < 5:
        return Outcome(figure, "slow", "GPUs exchange by the host: look at `nvidia-smi topo -m` and NCCL_P2P_DISABLE")
    return Outcome(figure)


def _exchange(ranks: Ranks) -> list[float]:
    values = torch.full((2**26 if is_gpu(ranks.device) else 2**18,), ranks.rank + 1.0, device=ranks.device)
    ranks.summed(values)
    total, repeated = float(values[-1]), 5
    wait(ranks.device)
    began = time.perf_counter()
    for _ in range(repeated):
        ranks.summed(values)
    wait(ranks.device)
    rate = repeated * values.nbytes * 2 * (ranks.count - 1) / ranks.count / (time.perf_counter() - began) / 1e9
    return [rate, total]


def sharing(device: torch.device) -> Outcome:
    """The gradient's norm by DDP and FSDP2 beside that of one process, and FSDP2's checkpoint read by one process."""
    differences = [max(each) for each in zip(*_by_rank(_share, device), strict=True)]
    figure = ", ".join(
        f"{what} differs by {far:.1e}"
        for what, far in zip(("the gradient's norm by DDP", "by FSDP2", "its checkpoint"), differences, strict=True)
    )
    is_right = max(differences[:2]) <= 10 * NEAR and not differences[2]
    return judged(is_right, figure, "a line above")


def _share(ranks: Ranks) -> list[float]:
    """A step of several processes: how far the gradient's norm by DDP and by FSDP2 is from that of one process, and the
    weights in FSDP2's checkpoint, read by one process, from those that were written."""
    be_deterministic()
    found = []
    for way in ("ddp", "fsdp"):
        work = Work.on(ranks.device, SMALL_NETWORK)
        work.network.eval()  # without dropout
        _, alone = work.gradients()
        work.network.zero_grad(set_to_none=True)
        settings = TrainingSettings(parallel=way, batch=ranks.count, micro_batch=1, processes=ranks.count)
        parallel, optimizer = make_parallel(work.network, ranks, settings), make_optimizer(work.network, settings)
        predictions = parallel.module(work.images, None, work.texts, *work.queries).float()
        parallel.backward(SetCriterion()(predictions, work.targets)["loss"], True)
        parallel.finish()
        norm = gradient_norm(list(work.network.parameters()))
        found.append(abs(float(norm / alone.norm()) - 1))
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(ranks.agreed(folder))
        checkpoints = Checkpointer(
            TrainingState(work.network, optimizer, None), settings, place, ranks, True, lambda note: None
        )
        checkpoints.save(1, {})
        checkpoints.close()
        written, fresh = parallel.whole_state(), Work.on(ranks.device, SMALL_NETWORK).network
        ranks.agreed(None)  # the checkpoint is there
        TrainingState(fresh, make_optimizer(fresh, settings), None).load(CheckpointFolder(place / CHECKPOINTS).path(1))
        read = fresh.state_dict()
        found.append(difference([read[name] for name in written], list(written.values())) if written else 0.0)
        ranks.agreed(None)  # all have read it
    return found


def _by_rank(work: Callable[[Ranks], list[float]], device: torch.device) -> list[list[float]]:
    """What a function returns in a process for each GPU, or in two on the CPU."""
    count = torch.cuda.device_count() if is_gpu(device) else 2
    if count < 2:
        raise Absent("one GPU")
    fork_context()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(  # type: ignore[no-untyped-call]
            _rank, (count, folder, is_gpu(device), work), nprocs=count, start_method="forkserver"
        )
        return [json.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(count)]


def _rank(rank: int, count: int, folder: str, is_on_gpus: bool, work: Callable[[Ranks], list[float]]) -> None:
    device = torch.device("cuda", rank) if is_on_gpus else torch.device("cpu")
    if is_on_gpus:
        torch.cuda.set_device(device)
    store = dist.FileStore(str(Path(folder) / "meet"), count)
    dist.init_process_group("nccl" if is_on_gpus else "gloo", store=store, rank=rank, world_size=count)
    (Path(folder) / str(rank)).write_text(json.dumps(work(Ranks(rank, count, device))))
    dist.destroy_process_group()
