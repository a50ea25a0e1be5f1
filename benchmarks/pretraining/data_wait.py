"""How long a training waits for data, and how many images a process can prepare."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.harness import Row, at_most
from benchmarks.photos import Photos
from benchmarks.pretraining.setup import (
    WARM_UP,
    make_config,
    make_task,
    open_samples,
    tracked,
    train,
    write_training_set,
)  # fmt: skip
from models.network import Size
from models.predictions import Predictions
from pipeline.training.batches import MicroBatches, Origin
from pipeline.training.config import TrainConfig
from pipeline.training.sample import TrainingSample
from pipeline.training.task import Draws, PretrainTask, StepInputs

PAPER = {"image_size": 1333, "shortest": tuple(range(480, 801, 32)), "crop": 0.5}
VIEWS: dict[str, dict[str, Any]] = {"320 pixels": {}, "640 pixels": {"image_size": 640}, "the paper's scales": PAPER}
LOG_EVERY = WARM_UP
DEVICE_SHARE = 0.7
"""Images per second of the stand-in for a device, as a share of those that one process prepares."""


def measure_data_wait(photos: Photos, folder: Path, steps: int) -> Iterator[Row]:
    """Yields the share of steps that is spent waiting, and the speed of a loader."""
    shards = write_training_set(photos, folder / "set")
    speeds = {}
    for name, view in VIEWS.items():
        speeds[name] = _prepared_per_second(make_config(folder / name, shards, **view), images=96)
        yield Row(f"data / images that a process prepares, {name}", "images/s", speeds[name])
    for num_workers in (0, 1):
        config = make_config(
            folder / f"{num_workers}", shards, num_workers=num_workers, steps=steps, log_every=LOG_EVERY
        )
        train(config)
        share, goal = 100 * waiting_share(config), at_most(5) if num_workers else None
        yield Row(f"data / share of a step spent waiting, loaders = {num_workers}", "%", share, goal=goal)
    speed = speeds["640 pixels"] * DEVICE_SHARE
    config = make_config(
        folder / "device", shards, image_size=640, num_workers=1, steps=10 * steps, log_every=LOG_EVERY
    )
    train(config, task=DeviceTask(make_task(config), speed))
    name, note = (
        f"data / the same, a device that takes {speed:.0f} images/s of 640 pixels",
        "a pause stands for the device",
    )
    yield Row(name, "%", 100 * waiting_share(config), goal=at_most(5), note=note)


def waiting_share(config: TrainConfig) -> float:
    """Returns the share of the time after the first entry of the log that a training waited for data."""
    waited, speed = tracked(config, "data_wait"), tracked(config, "images_per_second")
    times = {step: 1 / speed[step] for step in sorted(waited)[1:]}
    return sum(waited[step] * spent for step, spent in times.items()) / sum(times.values())


def _prepared_per_second(config: TrainConfig, images: int) -> float:
    """Returns the images per CPU-second, read from tars, decoded, resized, coloured and padded, with tokens and targets."""
    batches = MicroBatches(open_samples(config), config.settings, make_task(config), Origin(), {})
    batches[0]
    count, began = 0, time.process_time()
    for number in itertools.count(1):
        batch = batches[number]
        assert not isinstance(batch, Exception)
        count += len(batch.pixels)
        if count >= images:
            return count / (time.process_time() - began)
    raise AssertionError


class _OneWeight(nn.Module):
    """A network that computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1)


class DeviceTask:
    """The inputs of a training run, and a device that leaves the processor idle: a pause for each micro-batch.

    `speed`: images per second of the device.
    """

    def __init__(self, task: PretrainTask, speed: float) -> None:
        self._task, self._speed = task, speed

    def build(self, say: Callable[[str], None]) -> Any:
        return _OneWeight()

    def inputs(self, samples: Sequence[TrainingSample], draws: Draws) -> StepInputs:
        return self._task.inputs(samples, draws)

    def predict(
        self, network: nn.Module, images_B3HW: Tensor, sizes: Sequence[Size] | None, given: StepInputs
    ) -> Predictions:
        """Pauses as long as the device would work."""
        time.sleep(len(images_B3HW) / self._speed)
        weight = next(network.parameters())
        return Predictions(weight, weight, weight, weight, weight)

    def losses(self, predictions: Predictions, given: StepInputs) -> dict[str, Tensor]:
        return {"loss": predictions.subject_logits.mean() ** 2}
