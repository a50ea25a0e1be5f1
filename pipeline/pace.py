"""How fast a step goes, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta


class Pace:
    """Counts what a step's workers have done since it began; cached partitions are left out.

    Of steps by partition the time that is left follows from the share of partitions, as those not begun have not told
    how many images they hold.
    """

    def __init__(self, partitions: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._partitions, self._clock, self._began = partitions, clock, clock()
        self._done: dict[str, tuple[int, int]] = {}

    def tell(self, partition: str, done: int, total: int) -> None:
        """A partition is `done` of `total` images (or a training so many steps) far."""
        self._done[partition] = (done, total)

    def finish(self, partition: str) -> None:
        """A partition is committed."""
        done, total = self._done.get(partition, (0, 0))
        self._done[partition] = (max(done, total), max(done, total))

    @property
    def rate(self) -> float:
        """Images (or steps) a second."""
        return sum(done for done, _ in self._done.values()) / max(self._clock() - self._began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Until all partitions are done at this pace; None before anything is."""
        share = sum(done / total if total else 1.0 for done, total in self._done.values()) / max(self._partitions, 1)
        return (self._clock() - self._began) * (1 - share) / share if share > 0 else None

    def in_words(self, unit: str) -> str:
        """E.g. "4.2 images/s, 0:03:10 left"; nothing before anything is done."""
        left = self.seconds_left
        if left is None:
            return ""
        return f"{self.rate:.{1 if self.rate < 100 else 0}f} {unit}/s, {timedelta(seconds=round(left))} left"
