"""Keeps a training safe from its trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import Full, Queue
from threading import Thread

from pipeline.training.tracking.tracker import Tracker

MOST_WAITING = 1000
"""Calls of `log` that wait for a slow tracker; further ones are left out."""
PATIENCE = 30.0
"""Seconds that the end of a training waits for a tracker."""


class GuardedTracker:
    """Runs a tracker in a thread of its own, so that a server that does not answer never delays the training.

    An error, such as a full disk or a refused connection, is told once. The tracker still gets the later values, because
    the cause may pass.
    """

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None], patience: float = PATIENCE) -> None:
        self._name, self._tracker, self._patience = name, tracker, patience
        self._tell, self._has_warned = warn, False
        self._queue: Queue[tuple[int, dict[str, float]] | None] = Queue(MOST_WAITING)
        self._thread = Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands the values over and returns at once. They are left out when the tracker is too far behind."""
        try:
            self._queue.put_nowait((step, dict(values)))
        except Full:
            self._warn(f"it is {MOST_WAITING} values behind, so some are left out")

    def close(self) -> None:
        """Waits until the tracker has written everything, for `patience` seconds at most."""
        try:
            self._queue.put(None, timeout=self._patience)
        except Full:
            self._warn("it did not finish in time")
            return
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._warn("it did not finish in time")

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            self._attempt(lambda step, values: self._tracker.log(step, values), *entry)
        self._attempt(self._tracker.close)

    def _attempt(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except (Exception, SystemExit) as error:
            self._warn(f"{type(error).__name__}: {error}")

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._tell(f"the tracker {self._name} fails, and the training goes on without it ({what})")
