"""Opens the trackers of a training run: TensorBoard always, services where the settings name them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.training.tracking.services import MlflowTracker, TrackioTracker, WandbTracker
from storage.errors import FatalError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Tracker(Protocol):
    """Receives values by name while a training run goes on."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values measured at a step. Steps are counted from 1."""

    def close(self) -> None:
        """Writes what is still to be written. Nothing is logged afterwards."""


class TensorBoardTracker:
    """Writes an event file per attempt, which `tensorboard --logdir FOLDER` shows. Steps that a resumed run repeats are
    shown from its file."""

    def __init__(self, folder: Path, _run_name: str, settings: Mapping[str, Any], first_step: int) -> None:
        self._folder, self._settings, self._first_step = folder / "tensorboard", settings, first_step
        self._writer: SummaryWriter | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values to disk."""
        writer = self._writer = self._writer or self._open()
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self._folder), purge_step=self._first_step + 1)
        if not self._first_step:
            text = json.dumps(self._settings, indent=1, ensure_ascii=False, default=str)
            writer.add_text("settings", f"```\n{text}\n```")
        return writer


_TRACKERS: dict[str, tuple[Callable[..., Tracker], tuple[str, ...]]] = {
    "tensorboard": (TensorBoardTracker, ("tensorboard",)),
    "wandb": (WandbTracker, ("wandb",)),
    "mlflow": (MlflowTracker, ("mlflow", "sqlalchemy", "alembic")),
    "trackio": (TrackioTracker, ("trackio",)),
}
"""Kind → its class, and the packages that it imports, sooner or later."""


def require_extras(kinds: Iterable[str]) -> None:
    """Raises `FatalError` that names the extra when the packages of a tracker are not installed. Imports none."""
    for kind in kinds:
        missing = [package for package in _TRACKERS[kind][1] if find_spec(package) is None]
        if missing:
            raise FatalError(f"the tracker {kind!r} needs {', '.join(missing)}: pip install 'rlip[{kind}]'")


class Trackers:
    """TensorBoard and the trackers that the settings name."""

    def __init__(
        self,
        kinds: Sequence[str],
        folder: Path,
        run_name: str,
        settings: Mapping[str, Any],
        first_step: int,
        warn: Callable[[str], None],
    ) -> None:
        """Opens the trackers, which write to `folder` unless their environment variables say otherwise.

        `settings` are shown with the run as JSON values. `first_step` is the number of steps that a resumed training
        run has behind it: it goes on with the runs that `folder` knows, and no step counts twice; with 0, new runs
        begin. A tracker that fails later is reported by `warn`, once. Raises `FatalError` when an extra is not
        installed.
        """
        kinds = ("tensorboard", *kinds)
        require_extras(kinds)
        folder.mkdir(parents=True, exist_ok=True)
        self._trackers = [
            GuardedTracker(kind, _TRACKERS[kind][0](folder, run_name, settings, first_step), warn) for kind in kinds
        ]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands the values of a step, counted from 1, to every tracker."""
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        """Closes every tracker, which may take some seconds: do it after the last checkpoint is written."""
        for tracker in self._trackers:
            tracker.close()


MOST_WAITING = 1000
"""Calls of `log` that wait for a slow tracker; further ones are dropped."""
PATIENCE = 30.0
"""Seconds that the end of a training run waits for a tracker."""


class GuardedTracker:
    """Runs a tracker in a separate thread, so that an unresponsive server never delays the training run.

    An error, such as a full disk or a refused connection, is reported once. The tracker still gets the later values,
    because the cause may pass.
    """

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None], patience: float = PATIENCE) -> None:
        self._name, self._tracker, self._patience = name, tracker, patience
        self._warn_person, self._has_warned = warn, False
        self._queue: Queue[tuple[int, dict[str, float]] | None] = Queue(MOST_WAITING)
        self._thread = Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands the values over and returns at once. They are dropped when the tracker is too far behind."""
        try:
            self._queue.put_nowait((step, dict(values)))
        except Full:
            self._warn(f"it is {MOST_WAITING} values behind, so some are dropped")

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
            self._attempt(self._tracker.log, *entry)
        self._attempt(self._tracker.close)

    def _attempt(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except (Exception, SystemExit) as error:
            self._warn(f"{type(error).__name__}: {error}")

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn_person(f"the tracker {self._name} fails, and the training run goes on without it ({what})")
