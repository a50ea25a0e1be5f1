"""The training loop. Interrupted and resumed, a training ends with the same bits as an undisturbed one.

Every step is a pure function of the weights before it, the seed, the step number and the number of processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.network import Network
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from pipeline.training.config import CHECKPOINT, METRICS_LOG
from pipeline.training.dataset import Example, SampleSource, StepDataset
from pipeline.training.gradient_sync import Ranks, sync_gradients
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.sampler import StepSampler, stable_seed
from pipeline.training.settings import TrainingSettings
from pipeline.training.task import Task
from storage.errors import FatalError


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

    @property
    def finished(self) -> bool:
        """Whether all steps have run."""
        return self.steps == self.total


Progress = Callable[[int, int, str], None]
Check = Callable[[Network, int, int], Mapping[str, float]]
"""Measures a network after a step, given the step and the total. Returns values by name, usually none."""


def train(
    task: Task,
    source: SampleSource,
    settings: TrainingSettings,
    work: Path,
    ranks: Ranks,
    asked_to_stop: Callable[[], bool],
    progress: Progress,
    check: Check = lambda network, step, total: {},
) -> TrainingResult:
    """Trains from the last checkpoint in `work` to the end, or until any process is asked to stop.

    `check` runs in the first process alone and must leave the network unchanged.
    Raises `FatalError` when the loss or the gradient is not finite.
    """
    sampler = StepSampler(len(source), settings.batch, settings.seed)
    total = settings.steps or sampler.steps(settings.epochs)
    torch.manual_seed(stable_seed("weights", settings.seed))
    network = task.build().to(ranks.device).train()
    if settings.lr_backbone == 0:
        network.backbone.requires_grad_(False)
    if settings.recompute:
        network.recompute()
    optimizer = make_optimizer(network, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    first = load_checkpoint(work / CHECKPOINT, ranks.count, network, optimizer)
    metrics = MetricsLog(work / METRICS_LOG)
    if ranks.rank == 0:
        metrics.rewind(first)
        if first:
            progress(first, total, "continuing from the last checkpoint")
    step, stop, started, reported = first, False, time.monotonic(), 0.0
    dataset = StepDataset(source, sampler, settings, ranks.rank, ranks.count)
    for examples in _examples(dataset, range(first, total), settings):
        for group, rate in zip(optimizer.param_groups, _rates(settings), strict=True):
            group["lr"] = rate * schedule(settings, step, total)
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(stable_seed("step", settings.seed, step, ranks.rank))
        generator = np.random.default_rng(stable_seed("draws", settings.seed, step, ranks.rank))
        losses = _losses(task, network, examples, generator, settings, ranks, step)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        synced = sync_gradients(parameters, losses, asked_to_stop(), ranks)
        if not math.isfinite(synced.norm + synced.losses["loss"]):
            raise FatalError(_diverged(step, settings, f"loss {synced.losses['loss']}, gradient norm {synced.norm}"))
        _clip(parameters, settings.clip / (synced.norm + 1e-6))
        optimizer.step()
        step += 1
        stop = synced.stop
        if ranks.rank == 0:
            now = time.monotonic()
            if step % settings.log_every == 0 or step == total:
                metrics.write(step, synced.losses | {"gradient_norm": synced.norm})
            metrics.write(step, check(network, step, total))
            if now - reported > 1 or step == total:
                speed = (step - first) * settings.batch / (now - started)
                progress(step, total, f"loss {synced.losses['loss']:.2f}, {speed:.0f} images/s")
                reported = now
            if step % settings.checkpoint_every == 0 or step == total or stop:
                metrics.sync()
                save_checkpoint(work / CHECKPOINT, step, ranks.count, network, optimizer)
        if stop:
            break
    return TrainingResult(network, step, total, first, time.monotonic() - started)


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


def _examples(steps: StepDataset, remaining: range, settings: TrainingSettings) -> Iterator[list[Example]]:
    """Yields the examples of each remaining step, prepared here or by loader processes."""
    return iter(
        torch.utils.data.DataLoader(
            steps,
            batch_size=None,
            sampler=remaining,
            num_workers=settings.loaders,
            multiprocessing_context="spawn" if settings.loaders else None,
        )
    )


def _losses(
    task: Task,
    network: Network,
    examples: list[Example],
    generator: np.random.Generator,
    settings: TrainingSettings,
    ranks: Ranks,
    step: int,
) -> dict[str, torch.Tensor]:
    try:
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            return task.losses(network, examples, generator)
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
