"""How fast a step goes, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta


class Throughput:
    """Counts what a step's workers do from their first report on, so that loading and what was done before don't count.

    Of steps by partition the time that is left follows from the share of partitions, as those not begun have not told
    how many images they hold; cached ones are left out.
    """

    def __init__(self, partitions: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._partitions, self._clock = partitions, clock
        self._done: dict[str, tuple[int, int]] = {}
        self._first: tuple[float, int, float] | None = None

    def tell(self, partition: str, done: int, total: int) -> None:
        """A partition is `done` of `total` images (or a training so many steps) far."""
        self._done[partition] = (done, total)
        if self._first is None:
            self._first = (self._clock(), self._count(), self._share())

    def finish(self, partition: str) -> None:
        """A partition is committed."""
        done, total = self._done.get(partition, (0, 0))
        self.tell(partition, max(done, total), max(done, total))

    @property
    def rate(self) -> float:
        """Images (or steps) a second; 0 before anything was done."""
        if self._first is None:
            return 0.0
        began, count, _ = self._first
        return (self._count() - count) / max(self._clock() - began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Until all partitions are done at this pace; None before it can be known."""
        if self._first is None:
            return None
        began, _, before = self._first
        share = self._share()
        return (self._clock() - began) * (1 - share) / (share - before) if share > before else None

    def in_words(self, unit: str) -> str:
        """E.g. "4.2 images/s, 0:03:10 left"; nothing before it can be known."""
        left = self.seconds_left
        if left is None:
            return ""
        return f"{self.rate:.{1 if self.rate < 100 else 0}f} {unit}/s, {timedelta(seconds=round(left))} left"

    def _count(self) -> int:
        return sum(done for done, _ in self._done.values())

    def _share(self) -> float:
        return sum(done / total if total else 1.0 for done, total in self._done.values()) / max(self._partitions, 1)
