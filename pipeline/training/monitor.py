"""What a training run reports while it runs: metrics, trackers, speed, and the alarm for divergence (docs/training.md).

The metrics file contains only values that a repeated training run reproduces, because it becomes part of the result.
Speed and memory go to the trackers.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch._dynamo.utils import counters

from pipeline.training.batches import MicroBatch
from pipeline.training.config import METRICS_LOG, TrainConfig
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.ranks import Ranks
from pipeline.training.throughput import StepFlops, StepTimer, device_peak
from pipeline.training.trackers import GuardedTracker, open_trackers

IN_A_ROW = 3
"""Steps that must be too high one after the other. A single hard batch is not divergence."""


class DivergenceAlarm:
    """Watches values such as the loss and the gradient norm: each against `factor` times the median of its last steps.

    The median is over the last `window` steps that were not too high: those of a divergence would raise it until the
    divergence looked normal. An episode begins with the third step in a row that is too high, and ends when no value is
    too high any more. Nothing is reported before the window is full.
    """

    def __init__(self, factor: float, window: int) -> None:
        self._factor, self._window = factor, window
        self._histories: dict[str, deque[float]] = {}
        self._high: dict[str, int] = {}
        """Value → the number of steps in a row that it was too high."""
        self._in_episode = False
        self.last_good_step = 0
        """The last step before the values became too high, or the last step if they are not. Its checkpoint, or the
        newest before it, must be kept."""

    def check(self, step: int, values: Mapping[str, float], checkpoints: Iterable[int] = ()) -> str | None:
        """Takes the values of a step, by name. Returns a sentence when they begin to diverge, once per episode.

        `checkpoints`: the steps of those that exist; the sentence names the one to go back to.
        """
        warning = None
        for name, value in values.items():
            history = self._histories.setdefault(name, deque(maxlen=self._window))
            median = statistics.median(history) if len(history) == self._window else None
            if median is None or value <= self._factor * abs(median):
                history.append(value)
                self._high[name] = 0
                continue
            self._high[name] = self._high.get(name, 0) + 1
            if self._high[name] >= IN_A_ROW and not self._in_episode:
                self._in_episode = True
                warning = self._sentence(step, name, value, median, checkpoints)
        if not any(self._high.values()):
            self.last_good_step, self._in_episode = step, False
        return warning

    def kept(self, checkpoints: Iterable[int]) -> int | None:
        """Returns the step of the newest checkpoint that was written before the values became too high."""
        return max((step for step in checkpoints if step <= self.last_good_step), default=None)

    def state(self) -> dict[str, Any]:
        """Returns what a resumed training run needs to behave the same, as JSON values."""
        return {
            "histories": {name: list(history) for name, history in self._histories.items()},
            "high": dict(self._high),
            "in_episode": self._in_episode,
            "last_good_step": self.last_good_step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from a state. A window of another size keeps the newest values that fit."""
        self._histories = {name: deque(values, self._window) for name, values in state["histories"].items()}
        self._high = {name: int(count) for name, count in state["high"].items()}
        self._in_episode, self.last_good_step = bool(state["in_episode"]), int(state["last_good_step"])

    def _sentence(self, step: int, name: str, value: float, median: float, checkpoints: Iterable[int]) -> str:
        kept = self.kept(checkpoints)
        back = f"the checkpoint of step {kept} is kept" if kept is not None else "there is no checkpoint from before it"
        return (
            f"the training run seems to diverge at step {step}: {name.replace('_', ' ')} {value:.4g} is above "
            f"{self._factor:g} times {median:.4g}, the median of the last {self._window} steps, for {IN_A_ROW} "
            f"steps in a row; {back}"
        )


class Monitor:
    """Times the steps of one process; that of rank 0 also records their values."""

    def __init__(self, config: TrainConfig, ranks: Ranks, warn: Callable[[str], None]) -> None:
        settings = config.settings
        self._config, self._ranks, self._warn = config, ranks, warn
        self._metrics = MetricsLog(config.work / METRICS_LOG)
        self.alarm = DivergenceAlarm(settings.alarm_factor, settings.alarm_window)
        assert settings.precision != "auto", "a run plans its settings"
        peak = device_peak(ranks.device, settings.precision) if ranks.rank == 0 else None
        self.timer = StepTimer(ranks.device, peak)
        self.flops = StepFlops(ranks.device)
        self._trackers: list[GuardedTracker] = []

    def open(self, step: int, alarm: Mapping[str, Any] | None) -> None:
        """Starts after `step` steps, with the state of the alarm if there is one."""
        if alarm:
            self.alarm.restore(alarm)
        if self._ranks.rank == 0:
            self._metrics.rewind(step)
            settings = self._config.settings.model_dump(mode="json")
            folder: Path = self._config.tracking
            kinds = self._config.settings.trackers
            self._trackers = open_trackers(kinds, folder, folder.name, settings, step, self._warn)
        self.timer.pause()

    def count(self, batch: MicroBatch, passes: Callable[[], object]) -> None:
        """Counts the operations of a forward and backward pass over a micro-batch, which leave gradients behind."""
        self.flops.count(_pixels(batch), passes)
        self.timer.pause()

    def passed(self, batch: MicroBatch) -> None:
        """Ends the passes over a micro-batch."""
        pixels = _pixels(batch)
        images = len(batch.pixels) * self._ranks.count
        self.timer.trained(images, batch.shown_pixels, pixels, self.flops.of(pixels))

    def updated(self, step: int, losses: Mapping[str, float], norm: float, checkpoints: Iterable[int]) -> None:
        """Ends a step. Warns when the training run begins to diverge."""
        self.timer.trained(0, 0, 0)
        if warning := self.alarm.check(step, {"loss": losses["loss"], "gradient_norm": norm}, checkpoints):
            self._warn(warning)

    def log(self, step: int, values: Mapping[str, float], *, with_speed: bool = False) -> None:
        """Records values; with `with_speed`, the trackers also get the speed since the last time."""
        if self._ranks.rank or not (values or with_speed):
            return
        self._metrics.write(step, values)
        speed = self.timer.take() if with_speed else {}
        if with_speed and self._config.settings.compile:
            speed["compiled_graphs"] = counters["stats"]["unique_graphs"]
        for tracker in self._trackers:
            tracker.log(step, {**values, **speed})

    def sync(self) -> bool:
        """Forces the metrics to disk, before a checkpoint relies on them. Returns whether they are there."""
        if self._ranks.rank:
            return True
        try:
            self._metrics.sync()
        except OSError as error:
            self._warn(
                f"the metrics could not be written ({error.strerror}); they are kept in memory until they can be"
            )
            return False
        return True

    def close(self) -> None:
        """Closes the trackers, which may take some seconds."""
        for tracker in self._trackers:
            tracker.close()


def _pixels(batch: MicroBatch) -> int:
    images, _, height, width = batch.pixels.shape
    return images * height * width
