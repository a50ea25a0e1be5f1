"""Measures the rate of a step and estimates its remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta


class Throughput:
    """Counts what the workers of a step do after their first report, so that loading and earlier work do not count.

    The remaining time follows from the share of the due partitions that is done, not from images: the number of images
    of a partition is unknown until the partition starts. Cached partitions are left out. Any thread may call any method.
    """

    def __init__(self, partitions: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._partitions, self._clock = partitions, clock
        self._done: dict[str, tuple[int, int]] = {}
        self._first: tuple[float, int, float] | None = None

    def update(self, partition: str, done: int, total: int) -> None:
        """Note that `done` of `total` images (or training steps) of a partition are finished."""
        self._done[partition] = (done, total)
        if self._first is None:
            self._first = (self._clock(), self._count(), self._share())

    def finish(self, partition: str) -> None:
        """Note that a partition is committed."""
        done, total = self._done.get(partition, (0, 0))
        self.update(partition, max(done, total), max(done, total))

    @property
    def rate(self) -> float:
        """Images (or training steps) per second; 0 before the first report."""
        if self._first is None:
            return 0.0
        began, count, _ = self._first
        return (self._count() - count) / max(self._clock() - began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all partitions are done at this rate; None if still unknown."""
        if self._first is None:
            return None
        began, _, before = self._first
        share = self._share()
        return (self._clock() - began) * (1 - share) / (share - before) if share > before else None

    def in_words(self, unit: str) -> str:
        """E.g. "4.2 images/s, 0:03:10 left"; empty if still unknown."""
        left = self.seconds_left
        if left is None:
            return ""
        return f"{self.rate:.{1 if self.rate < 100 else 0}f} {unit}/s, {timedelta(seconds=round(left))} left"

    def _count(self) -> int:
        return sum(done for done, _ in self._reports())

    def _share(self) -> float:
        return sum(done / total if total else 1.0 for done, total in self._reports()) / max(self._partitions, 1)

    def _reports(self) -> Iterable[tuple[int, int]]:
        return self._done.copy().values()  # other threads add partitions meanwhile
