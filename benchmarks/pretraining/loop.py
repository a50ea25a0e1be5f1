"""The trainer beside a bare loop: the same micro-batches, network, loss and optimiser, and nothing else.

Both take turns step by step, in one process with one thread, so that whatever else the machine does slows both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row
from benchmarks.photos import Photos
from benchmarks.pretraining.setup import (
    WARM_UP,
    make_config,
    make_task,
    make_trainer,
    open_samples,
    write_training_set,
)  # fmt: skip
from models.network import Network
from pipeline.training.batches import MicroBatches, Origin
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import make_optimizer, set_rates
from pipeline.training.ranks import Ranks
from pipeline.training.task import Draws
from storage.stream.order import stable_seed

CPU = torch.device("cpu")
LOG_EVERY = 5
"""Four times as often as by default."""


class BareLoop:
    """Trains a network as a short script would. It is called after each step of a trainer, and then runs the same step."""

    def __init__(self, config: TrainConfig) -> None:
        self._settings = config.settings
        self._task = make_task(config)
        self._batches = MicroBatches(open_samples(config), config.settings, self._task, Origin(), {})
        torch.manual_seed(stable_seed("weights", config.settings.seed))
        self.network = self._task.build(lambda note: None).train()
        self._optimizer = make_optimizer(self.network, config.settings)
        self._parameters = list(self.network.parameters())
        self.own: list[float] = []
        """CPU-seconds of each step of this loop."""
        self.beside: list[float] = []
        """CPU-seconds of each step of the trainer."""
        self._ended = time.process_time()
        self._step = self._total = 0

    def is_due(self, step: int, total: int) -> bool:
        self._step, self._total = step, total
        return True

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Runs a step after the trainer's own."""
        began = time.process_time()
        self.beside.append(began - self._ended)
        count = self._settings.micro_batches
        parts = [self._batches[(self._step - 1) * count + part] for part in range(count)]
        self._train(self._step - 1, self._total, parts)
        self._ended = time.process_time()
        self.own.append(self._ended - began)
        return {}

    def _train(self, step: int, total: int, parts: list[Any]) -> None:
        set_rates(self._optimizer, self._settings, step, total)
        self._optimizer.zero_grad(set_to_none=True)
        for part, batch in enumerate(parts):
            Draws(self._settings.seed, step, part).seed_torch()
            images, given = batch.images(CPU), batch.inputs.to(CPU)
            predictions = self.network(images, batch.sizes, given.texts)
            loss = self._task.losses(predictions, given)["loss"] / len(parts)
            loss.backward()
            loss.item()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm, foreach=True)
        self._optimizer.step()


def measure_loop(photos: Photos, folder: Path, steps: int) -> Iterator[Row]:
    """Yields the time of the trainer over that of the bare loop. Raises `RuntimeError` when their weights differ."""
    shards = write_training_set(photos, folder / "set")
    settings = {"batch": 8, "steps": steps + WARM_UP, "schedule": "cosine", "max_grad_norm": 1e6}
    config = make_config(folder / "training", shards, log_every=LOG_EVERY, **settings)
    bare = BareLoop(config)
    trained = make_trainer(config, check=bare).train(lambda: False)
    theirs = bare.network.state_dict()
    if not all(torch.equal(value, theirs[name]) for name, value in trained.network.state_dict().items()):
        raise RuntimeError("the trainer and the bare loop end with different weights")
    ours, peer = bare.beside[WARM_UP:], bare.own[WARM_UP:]
    # Those steps count in which the ratio is neither among the highest nor the lowest quarter.
    ratios = [mine / its for mine, its in zip(ours, peer, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    kept = [place for place, ratio in enumerate(ratios) if low <= ratio <= high]
    means = (statistics.fmean(times[place] for place in kept) for times in (ours, peer))
    note = f"quartiles {low:.3f} and {high:.3f} of {len(ratios)} steps"
    yield Row("loop / trainer, beside a loop that prepares the same batches", "CPU-s", *means, note)
    yield Row("loop / weights after the last step", note=f"equal in every bit, after {trained.steps} steps")
