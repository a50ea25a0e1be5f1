"""Opens the trackers of a training run: TensorBoard always, others where the settings name them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, Literal, Protocol

from storage.errors import FatalError

TrackerKind = Literal["wandb", "mlflow", "trackio"]
"""The trackers besides TensorBoard. Each needs the extra of its name."""


class Tracker(Protocol):
    """Receives values by name while a training runs."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values measured at a step. Steps are counted from 1."""

    def close(self) -> None:
        """Writes what is still to be written. Nothing is logged afterwards."""


_PACKAGES = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
}
"""Tracker → the packages that it imports, sooner or later."""


def require_extras(kinds: Iterable[str]) -> None:
    """Raises `FatalError` that names the extra when the packages of a tracker are not installed. Imports none of them."""
    for kind in kinds:
        missing = [package for package in _PACKAGES[kind] if find_spec(package) is None]
        if missing:
            raise FatalError(f"the tracker {kind!r} needs {', '.join(missing)}: pip install 'rlip[{kind}]'")


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


def make_trackers(
    kinds: Sequence[TrackerKind],
    folder: Path,
    run_name: str,
    settings: Mapping[str, Any],
    first_step: int,
    warn: Callable[[str], None] = lambda text: print(f"warning: {text}", flush=True),
) -> Tracker:
    """Opens TensorBoard and the named trackers as one. All write to `folder`, unless a tracker's environment says otherwise.

    `settings` are shown with the run as JSON values. `first_step` is the number of steps that a resumed training has behind
    it: it goes on with the runs that `folder` knows, and no step counts twice; with 0, new runs begin.
    A tracker that fails later on is told of by `warn`, once, and the training goes on without it. Close the trackers after
    the last checkpoint is written, because that may take some seconds. Raises `FatalError` when an extra is not installed.
    """
    require_extras(("tensorboard", *kinds))
    folder.mkdir(parents=True, exist_ok=True)
    opened = {"tensorboard": _tensorboard(folder, settings, first_step)}
    opened |= {kind: _tracker(kind, folder, run_name, settings, first_step) for kind in kinds}
    return _Several([GuardedTracker(name, tracker, warn) for name, tracker in opened.items()])


class _Several:
    """Passes everything on to each of its trackers."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def _tensorboard(folder: Path, settings: Mapping[str, Any], first_step: int) -> Tracker:
    from pipeline.training.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(folder / "tensorboard", settings, first_step)


def _tracker(kind: TrackerKind, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> Tracker:
    if kind == "wandb":
        from pipeline.training.tracking.wandb import WandbTracker

        return WandbTracker(folder, run_name, settings, first_step)
    if kind == "mlflow":
        from pipeline.training.tracking.mlflow import MlflowTracker

        return MlflowTracker(folder, run_name, settings, first_step)
    from pipeline.training.tracking.trackio import TrackioTracker

    return TrackioTracker(folder, run_name, settings, first_step)
