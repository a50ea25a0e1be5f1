"""The trackers of a training run: TensorBoard always; MLflow, Weights & Biases and Trackio where settings name them.

Each of these needs the extra of its name, which it imports when made.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic_core import from_json

from pipeline.runtime.settings import flat
from storage.atomic import write_atomic
from storage.errors import FatalError

PROJECT = "rlip"
"""Name of the project or experiment, unless the user sets another."""


class ServiceTracker(ABC):
    """A run of a service, which is opened with the first values. They can't be taken back.

    A resumed training run continues it, and repeats the steps since its last checkpoint with the same losses. A JSON
    file holds the run's id, the last step that was sent and the names of its values, so that none is sent twice.
    """

    kind: ClassVar[str]
    """Its name in recipes and the name of its library."""
    variable: ClassVar[tuple[str, str]]
    """Environment variable that the library reads while it is imported, and its value unless the user sets another."""

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> None:
        name, value = self.variable
        os.environ.setdefault(name, value.format(folder=folder.resolve()))
        self._library: Any = import_module(self.kind)
        self._folder, self._name, self._settings = folder, run_name, settings
        self._file, self._id = folder / f"{self.kind}.json", ""
        self._step, self._names = 0, list[str]()
        if first_step and self._file.is_file():  # otherwise, the run is a new one
            with suppress(ValueError, KeyError, TypeError):  # damaged: a new run shows the rest
                saved = from_json(self._file.read_bytes())
                # Files of earlier versions have no names: then all values of the step were sent.
                self._id, self._step = str(saved["id"]), int(saved["step"]) + ("names" not in saved)
                self._names = list(saved.get("names", ()))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step, except those that an earlier attempt sent. Steps are counted from 1."""
        sent = self._names if step == self._step else []
        new = {name: value for name, value in values.items() if name not in sent}
        if step >= self._step and new:
            self._send(step, new)
            self._step, self._names = step, [*sent, *new]
            self._remember(self._id)

    def close(self) -> None:
        """Finishes the run."""
        if "_run" in vars(self):
            self._finish()

    @cached_property
    def _run(self) -> Any:
        return self._open()

    def _remember(self, run_id: str) -> None:
        self._id = run_id
        known = {"id": run_id, "step": self._step, "names": self._names}
        write_atomic(self._file, json.dumps(known).encode())

    @abstractmethod
    def _open(self) -> Any:
        """Begins a run or continues that of `_id`. Returns what sends values to it."""

    @abstractmethod
    def _send(self, step: int, values: Mapping[str, float]) -> None: ...

    def _finish(self) -> None:
        self._run.finish()


class MlflowTracker(ServiceTracker):
    """Writes to `folder`/mlflow.db, or to the server in MLFLOW_TRACKING_URI.

    `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` shows the former.
    """

    kind = "mlflow"
    variable = ("MLFLOW_DISABLE_TELEMETRY", "true")
    longest = 6000
    """Characters of a parameter's value that MLflow stores."""
    most = 100
    """Parameters that MLflow takes at once."""

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        client, now = self._run, int(time.time() * 1000)
        metrics = [self._library.entities.Metric(name, value, now, step) for name, value in values.items()]
        client.log_batch(self._id, metrics=metrics)

    def _finish(self) -> None:
        self._run.set_terminated(self._id)

    def _open(self) -> Any:
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(self._folder / 'mlflow.db').resolve()}")
        client = self._library.tracking.MlflowClient(tracking_uri=uri)
        if self._id:
            client.update_run(self._id, status="RUNNING")
            return client
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name)
        self._remember(client.create_run(number, run_name=self._name).info.run_id)
        settings = flat(self._settings)  # because MLflow's parameters are texts
        parameters = [self._library.entities.Param(key, str(value)[: self.longest]) for key, value in settings]
        for first in range(0, len(parameters), self.most):
            client.log_batch(self._id, params=parameters[first : first + self.most])
        return client


class WandbTracker(ServiceTracker):
    """Writes to `folder`/wandb offline, unless the user sets WANDB_MODE; `wandb sync` uploads that later.

    Each attempt adds a folder of the same run id. Values are plotted over a logged value `step`, because the
    service's own step can't go back.
    """

    kind = "wandb"
    # Offline means offline: reports of the library's own errors would be sent all the same.
    variable = ("WANDB_ERROR_REPORTING", "false")

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def _open(self) -> Any:
        self._remember(self._id or uuid.uuid4().hex[:8])
        run = self._library.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._name,
            id=self._id,
            resume="allow",
            dir=str(self._folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(self._settings),
            settings=self._library.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run


class TrackioTracker(ServiceTracker):
    """Writes to `folder`/trackio, unless the user sets TRACKIO_DIR; `trackio show` displays it.

    A resumed run continues that of its name.
    """

    kind = "trackio"
    variable = ("TRACKIO_DIR", "{folder}/trackio")

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def _open(self) -> Any:
        resume = "allow" if self._id else "never"
        self._remember(self._name)
        return self._library.init(
            project=PROJECT,
            name=self._name,
            config=dict(self._settings),
            resume=resume,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Writes an event file per attempt for `tensorboard --logdir FOLDER`. A resumed run's file shows repeated steps."""

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


Tracker = ServiceTracker | TensorBoardTracker
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


def open_trackers(
    kinds: Sequence[str],
    folder: Path,
    run_name: str,
    settings: Mapping[str, Any],
    first_step: int,
    warn: Callable[[str], None],
) -> list[GuardedTracker]:
    """Opens TensorBoard and `kinds`, which write to `folder` unless their environment variables say otherwise.

    `settings` are shown with the run as JSON values. `first_step` is the number of steps that a resumed training run
    has done: it continues the runs that `folder` knows, and no step counts twice; with 0, new runs begin. A tracker
    that fails, e.g. in a read-only folder, is reported by `warn`, once. Raises `FatalError` when an extra is not
    installed.
    """
    kinds = ("tensorboard", *kinds)
    require_extras(kinds)
    with suppress(OSError):  # each tracker reports it when it writes
        folder.mkdir(parents=True, exist_ok=True)
    return [GuardedTracker(kind, _TRACKERS[kind][0](folder, run_name, settings, first_step), warn) for kind in kinds]


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
        with suppress(Full):
            self._queue.put(None, timeout=self._patience)
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
            self._warn_person(f"the tracker {self._name} failed ({what}); training continues")
