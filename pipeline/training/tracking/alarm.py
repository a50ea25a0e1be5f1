"""Notices that a training diverges before its loss is no number, so that the last good checkpoint is kept."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

IN_A_ROW = 3
"""Steps that must be too high one after the other. A single hard batch is no divergence."""
LEAST_WINDOW = 2 * IN_A_ROW


class DivergenceAlarm:
    """Watches values such as the loss and the gradient norm: each against `factor` times the median of its last steps.

    The median is over the last `window` steps that were not too high: those of a divergence would raise it until the
    divergence looked normal. An episode begins with the third step in a row that is too high, and ends when no value is
    too high any more. Nothing is told before the window is full.
    """

    def __init__(self, factor: float, window: int) -> None:
        """Raises ValueError for a factor or a window that is too small."""
        if factor <= 1 or window < LEAST_WINDOW:
            raise ValueError(f"factor = {factor}, window = {window}: must be above 1, and at least {LEAST_WINDOW}")
        self._factor, self._window = factor, window
        self._histories: dict[str, deque[float]] = {}
        self._high: dict[str, int] = {}
        """Value → the number of steps in a row that it was too high."""
        self._in_episode = False
        self.last_good_step = 0
        """The last step before the values became too high, or the last step if they are not. Its checkpoint, or the newest
        before it, must be kept."""

    def told(self, step: int, values: Mapping[str, float], checkpoints: Iterable[int] = ()) -> str | None:
        """Takes the values of a step, by name. Returns a sentence when they begin to diverge, once per episode.

        `checkpoints`: the steps of those that exist; the sentence names the one to go back to.
        """
        said = None
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
                said = self._sentence(step, name, value, median, checkpoints)
        if not any(self._high.values()):
            self.last_good_step, self._in_episode = step, False
        return said

    def kept(self, checkpoints: Iterable[int]) -> int | None:
        """Returns the step of the newest checkpoint that was written before the values became too high."""
        return max((step for step in checkpoints if step <= self.last_good_step), default=None)

    def state(self) -> dict[str, Any]:
        """Returns what a resumed training needs to behave the same, as JSON values."""
        return {
            "histories": {name: list(history) for name, history in self._histories.items()},
            "high": dict(self._high),
            "in_episode": self._in_episode,
            "last_good_step": self.last_good_step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state. A window of another size keeps the newest values that fit."""
        self._histories = {name: deque(values, self._window) for name, values in state["histories"].items()}
        self._high = {name: int(count) for name, count in state["high"].items()}
        self._in_episode, self.last_good_step = bool(state["in_episode"]), int(state["last_good_step"])

    def _sentence(self, step: int, name: str, value: float, median: float, checkpoints: Iterable[int]) -> str:
        kept = self.kept(checkpoints)
        back = f"the checkpoint of step {kept} is kept" if kept is not None else "there is no checkpoint from before it"
        return (
            f"the training seems to diverge at step {step}: {name.replace('_', ' ')} {value:.4g} is above "
            f"{self._factor:g} times {median:.4g}, the median of the last {self._window} steps, for {IN_A_ROW} steps in a row; "
            f"{back}"
        )
