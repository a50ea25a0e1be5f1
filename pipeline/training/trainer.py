"""The training loop. Interrupted and resumed, a training ends with the same bits as an undisturbed one.

Every step is a pure function of the weights before it, the seed, the step number and the number of processes.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.network import Network
from pipeline.training.batches import Batch, StepBatches, sample_sequence
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from pipeline.training.config import CHECKPOINT, METRICS_LOG
from pipeline.training.gradient_sync import Ranks, gathered, sync_gradients
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import Task
from storage.errors import FatalError, PipelineError
from storage.stream.order import stable_seed
from storage.stream.stream import Skipped


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training."""

    network: Network
    steps: int
    """Number of steps that the network has been trained for."""
    total: int
    """Number of steps to train for; more than `steps` when the training was asked to stop."""
    resumed_from: int
    seconds: float
    """Duration of the steps of this process."""
    damaged: Mapping[int, str]
    """Samples that were left out, by number, with the reason."""

    @property
    def finished(self) -> bool:
        """Whether all steps have run."""
        return self.steps == self.total


Progress = Callable[[int, int, str], None]
Check = Callable[[Network, int, int], Mapping[str, float]]
"""Measures a network after a step, given the step and the total. Returns values by name, usually none."""


def train(
    task: Task,
    samples: ShardSamples,
    settings: TrainingSettings,
    work: Path,
    ranks: Ranks,
    asked_to_stop: Callable[[], bool],
    progress: Progress,
    check: Check = lambda network, step, total: {},
) -> TrainingResult:
    """Trains from the last checkpoint in `work` to the end, or until any process is asked to stop.

    `check` runs in the first process alone and must leave the network unchanged.
    Raises `FatalError` when the loss or the gradient is not finite, or too many samples are damaged.
    """
    samples.require_tars()
    sequence = sample_sequence(samples, settings)
    total = settings.steps or -(-settings.epochs * len(sequence) // settings.batch)
    torch.manual_seed(stable_seed("weights", settings.seed))
    network = task.build().to(ranks.device).train()
    if settings.lr_backbone == 0:
        network.backbone.requires_grad_(False)
    if settings.recompute:
        network.recompute()
    optimizer = make_optimizer(network, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    first, stream = load_checkpoint(work / CHECKPOINT, ranks.count, network, optimizer)
    skipped = Skipped(len(samples), settings.max_damaged)
    if stream:
        sequence.restore(stream["sequence"])
        skipped.restore(stream["skipped"])
    metrics = MetricsLog(work / METRICS_LOG)
    if ranks.rank == 0:
        metrics.rewind(first)
        if first:
            progress(first, total, "continuing from the last checkpoint")
    step, stop, started, reported = first, False, time.monotonic(), 0.0
    batches = StepBatches(samples, settings, ranks.rank, ranks.count, dict(skipped.reasons))
    for batch in _loaded(batches, range(first, total), settings, ranks.device):
        skipped.add(batch.damaged)
        for group, rate in zip(optimizer.param_groups, _rates(settings), strict=True):
            group["lr"] = rate * schedule(settings, step, total)
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(stable_seed("step", settings.seed, step, ranks.rank))
        generator = np.random.default_rng(stable_seed("draws", settings.seed, step, ranks.rank))
        losses = _losses(task, network, batch, generator, settings, ranks, step)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        synced = sync_gradients(parameters, losses, asked_to_stop(), ranks)
        if not math.isfinite(synced.norm + synced.losses["loss"]):
            raise FatalError(_diverged(step, settings, f"loss {synced.losses['loss']}, gradient norm {synced.norm}"))
        _clip(parameters, settings.clip / (synced.norm + 1e-6))
        optimizer.step()
        step += 1
        stop = synced.stop
        is_saved = step % settings.checkpoint_every == 0 or step == total or stop
        if is_saved:
            skipped.add(gathered(skipped.reasons, ranks))
        if ranks.rank == 0:
            now = time.monotonic()
            if step % settings.log_every == 0 or step == total:
                metrics.write(step, synced.losses | {"gradient_norm": synced.norm})
            metrics.write(step, check(network, step, total))
            if now - reported > 1 or step == total:
                speed = (step - first) * settings.batch / (now - started)
                progress(step, total, f"loss {synced.losses['loss']:.2f}, {speed:.0f} images/s")
                reported = now
            if is_saved:
                metrics.sync()
                stream = {"sequence": sequence.state(step * settings.batch), "skipped": skipped.as_state()}
                save_checkpoint(work / CHECKPOINT, step, ranks.count, stream, network, optimizer)
        if stop:
            break
    return TrainingResult(network, step, total, first, time.monotonic() - started, skipped.reasons)


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Builds AdamW over three parameter groups: backbone, text encoder, the rest, in the order of `_rates`."""
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "text_encoder": [], "": []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            next(members for kind, members in groups.items() if kind in name).append(parameter)
    return torch.optim.AdamW(
        [{"params": members} for members in groups.values()],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        # One pass over the weights instead of ten, without copies. Weights, gradients and averages must have the same
        # memory layout, so no weight is channels-last.
        fused=True,
    )


def schedule(settings: TrainingSettings, step: int, total: int) -> float:
    """Returns the factor of the learning rates at a step."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    done = step / total
    if settings.schedule == "step":
        return warm * (0.1 if done >= settings.drop_at else 1.0)
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def _rates(settings: TrainingSettings) -> tuple[float, float, float]:
    return settings.lr_backbone, settings.lr_text, settings.lr


def _loaded(
    batches: StepBatches, remaining: range, settings: TrainingSettings, device: torch.device
) -> Iterator[Batch]:
    """Yields the batch of each remaining step, prepared here or by loader processes. Raises `PipelineError`."""
    loader = torch.utils.data.DataLoader(
        batches,
        batch_size=None,
        sampler=remaining,
        num_workers=settings.loaders,
        multiprocessing_context="spawn" if settings.loaders else None,
        worker_init_fn=_outlast_signals,
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        if isinstance(batch, PipelineError):
            raise batch
        yield batch


def _outlast_signals(loader: int) -> None:
    """Lets a loader process finish the step that its trainer finishes when the whole process group is asked to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _losses(
    task: Task,
    network: Network,
    batch: Batch,
    generator: np.random.Generator,
    settings: TrainingSettings,
    ranks: Ranks,
    step: int,
) -> dict[str, torch.Tensor]:
    try:
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            return task.losses(network, batch, generator)
    except FloatingPointError as error:
        raise FatalError(_diverged(step, settings, str(error))) from error


def _clip(parameters: list[nn.Parameter], factor: float) -> None:
    if factor < 1:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)


def _diverged(step: int, settings: TrainingSettings, what: str) -> str:
    return (
        f"training diverged at step {step + 1} ({what}); lower lr = {settings.lr} (or raise warmup = "
        f"{settings.warmup}, or lower clip = {settings.clip}) and run again: changed settings start a new training"
    )
