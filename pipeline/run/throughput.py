"""Measures the rate of a step and estimates its remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta


class Throughput:
    """Counts what the workers of a step do after their first report, so that loading and earlier work do not count.

    The remaining time follows from the share of the images that is done. Cached partitions are left out. Any thread may call
    any method.
    """

    def __init__(self, images: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        """`images`: due partition → its number of images; any number for a step over whole datasets, which is alone."""
        self._images, self._clock = {partition: max(number, 1) for partition, number in images.items()}, clock
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

    @property
    def images(self) -> tuple[int, int]:
        """How many images of the due partitions are done, and how many there are."""
        total = sum(self._images.values())
        return round(self._share() * total), total

    def in_words(self, unit: str, later: float | None = None) -> str:
        """E.g. "4.2 images/s, 0:03:10 left, 0:20:00 for the run"; empty if still unknown. `later`: seconds of the steps after."""
        left = self.seconds_left
        if left is None:
            return ""
        whole = "" if later is None else f", {timedelta(seconds=round(left + later))} for the run"
        digits = 0 if self.rate >= 100 else 1 if self.rate >= 1 else 2
        return f"{self.rate:.{digits}f} {unit}/s, {timedelta(seconds=round(left))} left{whole}"

    def _count(self) -> int:
        return sum(done for done, _ in self._done.copy().values())

    def _share(self) -> float:
        done = self._done.copy().items()  # other threads add partitions meanwhile
        shares = (self._images[part] * (count / total if total else 1.0) for part, (count, total) in done)
        return sum(shares) / max(sum(self._images.values()), 1)
