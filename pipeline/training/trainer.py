"""The trainer. Interrupted and resumed, a training run ends with the same bits as an undisturbed one.

Every step is a pure function of the weights before it, the seed and the step number. The number of processes only
changes the order in which gradients are summed, and with `parallel = "tree"` not even that.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from models.network import Network
from pipeline.runtime.processes import begin_fork, fork_context, keep_freed_memory, preload
from pipeline.training.batches import MicroBatch, MicroBatches, sample_sequence
from pipeline.training.checkpointer import Checkpointer, TrainingState
from pipeline.training.config import WARNING, Summary, TrainConfig
from pipeline.training.monitor import Monitor
from pipeline.training.optimizer import Ema, freeze, gradient_norm, make_optimizer, set_rates, update
from pipeline.training.parallel import make_parallel
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import Draws, Task
from storage.errors import FatalError, PipelineError
from storage.stream.order import stable_seed
from storage.stream.stream import Skipped

Progress = Callable[[int, int, str], None]
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "could not create a memory object")
"""What PyTorch and oneDNN say when an allocation fails."""


class PeriodicEvaluation(Protocol):
    """Measures a network while it is trained."""

    def is_due(self, step: int, total: int) -> bool:
        """Whether to measure after this step."""
        ...

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Returns values by name. All processes call it. The network is left as it was, in training mode."""
        ...


class TrainingResult(NamedTuple):
    """The outcome of a training run."""

    state: Mapping[str, torch.Tensor]
    """In rank 0 of a finished training run, the network's parameters and buffers; elsewhere empty."""
    network: Network
    total: int
    """Number of steps to train for; more than those of the summary when the training run was asked to stop."""
    summary: Summary
    """Its times are those of this process."""

    @property
    def finished(self) -> bool:
        """Whether all steps have run."""
        return self.summary.steps == self.total


@dataclass(frozen=True)
class StepMetrics:
    """The outcome of a step, the same in every process."""

    losses: dict[str, float]
    norm: float
    """Norm of the mean gradient before clipping."""
    stop: bool
    """Whether any process was asked to stop."""


class Trainer:
    """Trains a network on samples, from the last checkpoint in `work` on."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        samples: ShardSamples,
        ranks: Ranks,
        progress: Progress,
        check: PeriodicEvaluation | None = None,
    ) -> None:
        """Raises `FatalError` for a missing tar, and for a checkpoint of a different network."""
        samples.require_tars()
        settings = config.settings
        self._task, self._samples, self._settings, self._ranks = task, samples, settings, ranks
        self._progress, self._check, self._tracking = progress, check, config.tracking
        self._sequence = sample_sequence(samples, settings)
        self.total = settings.steps or -(-settings.epochs * len(self._sequence) // settings.batch)
        self.step = 0
        self._skipped = Skipped(len(samples), settings.max_damaged)
        self._monitor = Monitor(config, ranks, self._warn)
        self._build(config.work)
        self._resume()
        if not self.step and (initial := settings.ema**self.total) > 0.01:
            self._warn(
                f"ema = {settings.ema} averages too slowly for {self.total} steps: initial weights will make up "
                f"{initial:.0%} of the result; lower ema"
            )
        if not self.step and settings.warmup > self.total:
            self._warn(
                f"warmup = {settings.warmup:,} steps are more than the {self.total:,} of this run, which ends before "
                f"it reaches lr = {settings.lr}; lower warmup"
            )

    def _build(self, work: Path) -> None:
        settings, ranks = self._settings, self._ranks
        torch.manual_seed(stable_seed("weights", settings.seed))
        self.network = self._task.build(self._report).to(ranks.device).train()
        # Before the network is wrapped: DDP exchanges the gradients of what needs one at that time.
        freeze(self.network, settings)
        if settings.activation_checkpointing:
            self.network.checkpoint_activations()
        self._parallel = make_parallel(self.network, ranks, settings)
        # After sharding, which puts other parameters in the place of the network's
        self._optimizer = make_optimizer(self.network, settings)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._ema = Ema(self.network, settings.ema) if settings.ema else None
        state = TrainingState(self.network, self._optimizer, self._ema)
        self._checkpoints = Checkpointer(state, settings, work, ranks, self._parallel.parts, self._warn)

    def _resume(self) -> None:
        """Goes back to the newest undamaged checkpoint."""
        about = self._checkpoints.load()
        if about:
            self.step = int(about["step"])
            self._sequence.restore(about["sequence"])
            self._skipped.restore(about["skipped"])
        self._first = self.step
        self._monitor.open(self.step, about["alarm"] if about else None)
        if self.step:
            self._report(f"continuing from the checkpoint of step {self.step}")

    def train(self, is_asked_to_stop: Callable[[], bool]) -> TrainingResult:
        """Trains to the end, or until any process is asked to stop; either way it leaves a checkpoint.

        Raises `FatalError` when the loss or the gradient is not finite, or too many samples are damaged.
        """
        try:
            return self._train(is_asked_to_stop)
        except BaseException:
            self._checkpoints.finish()  # a checkpoint under way is worth the wait
            raise

    def _train(self, is_asked_to_stop: Callable[[], bool]) -> TrainingResult:
        started, reported = time.monotonic(), 0.0
        saved_every = self._settings.checkpoint_every, self._settings.milestone_every
        for parts in self._steps():
            rates = set_rates(self._optimizer, self._settings, self.step, self.total)
            done = self._run(parts, is_asked_to_stop)
            self.step += 1
            is_last = self.step == self.total
            self._monitor.updated(self.step, done.losses, done.norm, self._checkpoints.steps())
            if is_last or self.step % self._settings.log_every == 0:
                self._monitor.log(self.step, done.losses | {"gradient_norm": done.norm} | rates, with_speed=True)
            if not is_last:
                self._measure()
            now = time.monotonic()
            if is_last or now - reported > 1:
                speed = (self.step - self._first) * self._settings.batch / (now - started)
                self._report(f"loss {done.losses['loss']:.2f}, {speed:.{0 if speed >= 10 else 2}f} images/s")
                reported = now
            if is_last or done.stop or any(every and self.step % every == 0 for every in saved_every):
                self._save()
            self._monitor.timer.pause()
            if done.stop:
                break
        self._checkpoints.close()
        if self.step == self.total:
            self._measure()  # after the last checkpoint, so that a failed or slow measurement costs no training
            self._monitor.sync()
        self._monitor.close()
        state, seen = self._final_state(), (self.step - self._first) * self._settings.batch
        summary = Summary(
            steps=self.step,
            resumed_from=self._first,
            images=len(self._samples),
            images_seen=seen,
            images_per_second=round(seen / max(time.monotonic() - started, 1e-9), 1),
            processes=self._ranks.count,
            device=str(self._ranks.device.type),
            tracking=str(self._tracking),
            data_wait=round(self._monitor.timer.data_wait, 4),
            checkpoint_wait=round(self._checkpoints.waited, 3),
            damaged={self._samples.samples.key(n): reason for n, reason in sorted(self._skipped.reasons.items())},
        )
        return TrainingResult(state, self.network, self.total, summary)

    def _run(self, parts: Iterator[MicroBatch], is_asked_to_stop: Callable[[], bool]) -> StepMetrics:
        """Runs one step: the micro-batches of this process, the exchange with the others, the update."""
        settings, numbers = self._settings, self._parallel.own_parts()
        self._optimizer.zero_grad(set_to_none=True)
        losses: dict[int, dict[str, torch.Tensor]] = {}
        for number, batch in zip(numbers, parts, strict=True):
            self._monitor.timer.loaded()
            self._skipped.add(batch.damaged)
            if number == numbers[0] and self._monitor.flops.is_counting:
                with self._explain_out_of_memory(batch):
                    self._count(batch, number)
            is_last = number == numbers[-1]
            with self._explain_out_of_memory(batch), self._parallel.syncing(is_last):
                losses[number] = self._losses(batch, number)
                self._parallel.backward(losses[number]["loss"], is_last)
            self._monitor.passed(batch)
        with self._explain_out_of_memory(batch):
            self._parallel.finish()
            done = self._exchanged(losses, gradient_norm(self._parameters), is_asked_to_stop())
            if not math.isfinite(done.norm + done.losses["loss"]):
                raise FatalError(self._diverged(f"loss {done.losses['loss']}, gradient norm {done.norm}"))
            # A checkpoint may still be copying what the update changes.
            self._checkpoints.wait_for_copy()
            update(self._optimizer, done.norm, settings.max_grad_norm)
        if self._ema is not None:
            self._ema.update()
        return done

    def _count(self, batch: MicroBatch, number: int) -> None:
        """Counts the operations of a micro-batch in separate passes without side effects."""
        before = [buffer.clone() for buffer in self.network.buffers()]
        # A compiler that first meets the network while it is counted leaves it uncompiled for good.
        with torch.compiler.set_stance("force_eager"):
            self._monitor.count(batch, lambda: self._parallel.backward(self._losses(batch, number)["loss"], True))
        # So that parallel = "tree" forgets the gradient of these passes
        self._parallel.finish()
        self._optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(value)

    def _losses(self, batch: MicroBatch, number: int) -> dict[str, torch.Tensor]:
        settings, device = self._settings, self._ranks.device
        Draws(settings.seed, self.step, number).seed_torch()
        images, inputs = batch.images(device), batch.inputs.to(device)
        with self._explain_bad_network():
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                predictions = self._task.predict(self._parallel.module, images, batch.sizes, inputs)
            return self._task.losses(predictions, inputs)

    def _exchanged(self, losses: Mapping[int, dict[str, torch.Tensor]], norm: torch.Tensor, stop: bool) -> StepMetrics:
        """Averages losses over all micro-batches in their order, and learns whether any process was asked to stop."""
        names = list(next(iter(losses.values())))
        # One table for everything: one exchange between processes, and one wait for the device.
        table = torch.zeros(self._settings.micro_batches + 1, len(names), device=self._ranks.device)
        for number, own in losses.items():
            table[number] = torch.stack([own[name].detach().float() for name in names])
        table[-1, 0] = float(stop)
        rows = self._ranks.summed(table)
        values = torch.cat([rows[:-1].mean(0), rows[-1, :1], norm.detach().reshape(1)]).tolist()
        return StepMetrics(dict(zip(names, values[:-2], strict=True)), values[-1], values[-2] > 0)

    def _steps(self) -> Iterator[Iterator[MicroBatch]]:
        """Yields the micro-batches of this process for each remaining step. Raises `PipelineError`."""
        own = self._parallel.own_parts()
        every = self._settings.micro_batches
        remaining = (step * every + part for step in range(self.step, self.total) for part in own)
        batches = MicroBatches(self._samples, self._settings, self._task, dict(self._skipped.reasons))
        loaded = _loaded(batches, remaining, self._settings, self._ranks.device)
        for _ in range(self.step, self.total):
            yield (next(loaded) for _ in own)

    def _save(self) -> None:
        # The checkpoint under way may be the one that the alarm keeps.
        self._checkpoints.finish()
        for skipped in self._ranks.gathered(self._skipped.as_state()):
            self._skipped.add({int(sample): reason for sample, reason in skipped.items()})
        if not self._ranks.agreed(self._monitor.sync()):
            return
        alarm = self._monitor.alarm
        self._checkpoints.save(
            self.step,
            {
                "step": self.step,
                "sequence": self._sequence.state(self.step * self._settings.batch),
                "skipped": self._skipped.as_state(),
                "alarm": alarm.state(),
            },
            alarm.kept(self._checkpoints.steps()) if alarm.last_good_step < self.step else None,
        )

    def _final_state(self) -> Mapping[str, torch.Tensor]:
        """Returns the weights to keep: their averages, where the settings ask for those."""
        if self.step < self.total:
            return {}
        with self._with_averages():
            return self._parallel.whole_state()

    def _measure(self) -> None:
        """Measures the network, if that is due after this step."""
        if self._check is None or not self._check.is_due(self.step, self.total):
            return
        is_last = self.step == self.total
        if is_last:
            # The failure of one process ends all, so each waits until the first has written the checkpoint.
            self._ranks.agreed(None)
        with self._explain_bad_network(), self._with_averages(), self._parallel.measuring():
            values = self._check.measure(self.network, is_last, self._ranks)
        self._monitor.log(self.step, values)

    def _with_averages(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ema is None else self._ema.applied()

    def _report(self, message: str) -> None:
        if self._ranks.rank == 0:
            self._progress(self.step, self.total, message)

    def _warn(self, message: str) -> None:
        self._report(f"{WARNING}{message}")

    @contextmanager
    def _explain_out_of_memory(self, batch: MicroBatch) -> Iterator[None]:
        """Turns an allocation that fails into a `FatalError` that names the batch's sizes and the settings to lower."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(text in str(error) for text in OUT_OF_MEMORY):
                raise
            images, _, height, width = batch.pixels.shape
            texts = len(batch.inputs.to(torch.device("cpu")).texts.rows)
            raise FatalError(
                f"out of memory on {self._ranks.device} at step {self.step + 1}, with {images} images of "
                f"{width}x{height} pixels and {texts} texts; set activation_checkpointing = true, or lower micro_batch "
                f"= {self._settings.micro_batch}, image_size = {self._settings.image_size} or object_texts = "
                f"{self._settings.object_texts}"
            ) from error

    @contextmanager
    def _explain_bad_network(self) -> Iterator[None]:
        """Turns values that are not finite and too many compiled graphs into a `FatalError` that says what to do."""
        try:
            yield
        except FloatingPointError as error:
            raise FatalError(self._diverged(str(error))) from error
        except FailOnRecompileLimitHit as error:
            raise FatalError(
                "torch.compile would create ever more graphs of a layer (TORCH_LOGS=recompiles in the environment says "
                "why); set compile = false and run again: training continues from its last checkpoint"
            ) from error

    def _diverged(self, what: str) -> str:
        settings, kept = self._settings, self._checkpoints.written
        if self.step == 0:
            where = (
                f"the weights of pretrained = {settings.pretrained}, or in the images"
                if settings.pretrained
                else "the images"
            )
            return f"step 1 failed before it changed any weight ({what}); look for huge values in {where}"
        last = f"; the newest checkpoint is of step {kept}" if kept else ""
        return (
            f"training diverged at step {self.step + 1} ({what}){last}; lower lr = {settings.lr} (or raise warmup = "
            f"{settings.warmup}, or lower max_grad_norm = {settings.max_grad_norm}) and run again: "
            "changed settings start a new training run"
        )


def _loaded(
    batches: MicroBatches, numbers: Iterator[int], settings: TrainingSettings, device: torch.device
) -> Iterator[MicroBatch]:
    """Yields micro-batches, prepared here or by loader processes. Raises `PipelineError`."""
    preload(["pipeline.training.batches"])  # for the loader processes
    loader = torch.utils.data.DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=settings.num_workers,
        multiprocessing_context=fork_context() if settings.num_workers else None,
        worker_init_fn=partial(_begin_loader, dict(os.environ), os.getpid()),
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        if isinstance(batch, PipelineError):
            raise batch
        yield batch


def _begin_loader(environment: Mapping[str, str], trainer: int, loader: int) -> None:
    """Sets up a loader process. It ignores a request to stop, because its trainer still finishes the step."""
    begin_fork(environment, Path(f"/proc/{trainer}/fd/1"))
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
