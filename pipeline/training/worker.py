"""One training process, alone or as one of several ranks."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from models.weights import write
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.checkpoint_folder import CheckpointFolder
from pipeline.training.config import (
    CHECKPOINTS,
    HELD_OUT,
    MODEL,
    SAMPLES,
    SUMMARY,
    TOKENIZER,
    VOCABULARY,
    TrainConfig,
    TrainingProgress,
)
from pipeline.training.launch.failure import Failure
from pipeline.training.launch.meeting import join
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TaggerSettings
from pipeline.training.shards import ShardSamples, range_cache
from pipeline.training.tagger_evaluation import HeldOut
from pipeline.training.task import PretrainTask, TaggerTask, Task
from pipeline.training.throughput import Precision
from pipeline.training.trainer import PeriodicEvaluation, Trainer, TrainingResult
from pipeline.training.vocabulary import Vocabulary
from storage.atomic import put_in_place, write_atomic
from storage.errors import FatalError, PipelineError
from storage.shards.sample_map import SampleMap

MakeCheck = Callable[[TrainConfig], PeriodicEvaluation]


def main(path: Path, make_check: MakeCheck | None = None) -> int:
    """Trains as the configuration says. Returns the exit code: 0 when it finished or stopped on request, otherwise 1.

    `make_check` builds what measures a pre-training run while it runs.
    """
    config = TrainConfig.model_validate_json(path.read_bytes())
    try:
        is_asked_to_stop = _listen()
        ranks = join(path, config)
        trained = run(config, ranks, is_asked_to_stop, make_check)
        # Not after an error: it would wait for peers that may be lost.
        if ranks.count > 1:
            dist.destroy_process_group()
    except Exception as error:
        if not isinstance(error, PipelineError):
            traceback.print_exc()
        failure = Failure.of(error, int(os.environ.get("RANK", 0)))
        with suppress(OSError):  # the exit code alone says that it failed, then
            failure.write(config.work)
        print(f"error: {failure.message}", flush=True)
        return 1
    print(
        "finished" if trained.finished else f"stopped after step {trained.summary.steps} of {trained.total}", flush=True
    )
    return 0


def run(
    config: TrainConfig, ranks: Ranks, is_asked_to_stop: Callable[[], bool], make_check: MakeCheck | None
) -> TrainingResult:
    """Does the part of one process in a training run. Rank 0 writes the results to `config.work`."""
    settings = config.settings
    if settings.deterministic == "bits":
        be_deterministic(ranks.device)
    torch.set_num_threads(settings.threads)
    assert settings.precision != "auto", "a run plans its settings"
    set_precision(settings.precision)
    keep_freed_memory()
    vocabulary = Vocabulary.load(config.work / VOCABULARY)
    task, check = _parts(config, vocabulary, make_check)
    report = partial(_report, config.work)
    trainer = Trainer(config, task, _samples(config, SAMPLES), ranks, report, check)
    trained = trainer.train(is_asked_to_stop)
    if ranks.rank == 0 and trained.finished:
        _finish(config, trained)
    return trained


def be_deterministic(device: torch.device) -> None:
    """Lets the same operations on a device give the same bits in this process. Those that can't warn."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cuda":
        # With `warn_only`, the backward passes of fused attention on GPUs warn and still add in any order. A CPU's
        # have a fixed order, and these flags would turn them off as well.
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
    # Otherwise thousands of new tensors a step are filled with NaN before they are written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def set_precision(precision: Precision) -> None:
    """Sets how this process rounds the factors of 32-bit matrix products."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    if precision == "medium":
        torch.set_float32_matmul_precision("medium")


def _samples(config: TrainConfig, name: str) -> ShardSamples:
    return ShardSamples(SampleMap(config.work / name), range_cache(config), config.settings.predicate_form)


def _parts(
    config: TrainConfig, vocabulary: Vocabulary, make_check: MakeCheck | None
) -> tuple[Task, PeriodicEvaluation | None]:
    """Builds the task, and the check to run after each step."""
    settings, tokenizer = config.settings, config.work / TOKENIZER
    if not isinstance(settings, TaggerSettings):
        return PretrainTask(settings, vocabulary, tokenizer), make_check(config) if make_check else None
    check = HeldOut(_samples(config, HELD_OUT), vocabulary, settings, config.work)
    return TaggerTask(settings, vocabulary, tokenizer), check


def _listen() -> Callable[[], bool]:
    """Makes SIGTERM request a checkpoint and an end after the current step."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    return lambda: bool(received)


def _report(work: Path, step: int, total: int, message: str) -> None:
    with suppress(OSError):  # a full disk must not end a training run because its log can't grow
        print(f"step {step}/{total}: {message}", flush=True)
        TrainingProgress(step=step, total=total, message=message).write(work)


def _finish(config: TrainConfig, trained: TrainingResult) -> None:
    aside = config.work / f".{MODEL}.new"
    try:
        write(trained.state, trained.network.config, aside)
        put_in_place(aside, config.work / MODEL)
    except (SafetensorError, OSError) as error:
        raise FatalError(
            f"the trained weights could not be written to {config.work} ({error}); free space and run again: the "
            f"training run continues from step {CheckpointFolder(config.work / CHECKPOINTS).newest()}"
        ) from error
    write_atomic(config.work / SUMMARY, trained.summary.model_dump_json().encode())
