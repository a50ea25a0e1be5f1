"""What trackers of services share: a run whose values can't be taken back, continued by a resumed training run."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic_core import from_json

from storage.atomic import write_atomic


class ServiceTracker(ABC):
    """A run of a service such as MLflow, which is opened with the first values."""

    kind: ClassVar[str]

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> None:
        self._folder, self._name, self._settings = folder, run_name, settings
        self._file = RunFile(folder / f"{self.kind}.json", first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step, unless an earlier attempt did."""
        if not self._file.is_known(step):
            self._send(step, values)
            self._file.reached(step)

    def close(self) -> None:
        """Finishes the run."""
        if "_run" in vars(self):
            self._finish()

    @cached_property
    def _run(self) -> Any:
        return self._open()

    @abstractmethod
    def _open(self) -> Any:
        """Begins the run or continues that of `self._file`. Returns what sends values to it."""

    @abstractmethod
    def _send(self, step: int, values: Mapping[str, float]) -> None: ...

    def _finish(self) -> None:
        self._run.finish()


class RunFile:
    """A JSON file with the id of a service's run and the last step that was sent to it.

    A resumed training run repeats the steps since its last checkpoint with the same losses, so those that the service
    already has are not sent again.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        """Reads the file, unless `first_step` is 0: then the run is a new one."""
        self._path = path
        self.id = ""
        """The id of the run; empty before `begin`."""
        self._known = self._step = 0
        if first_step and path.is_file():
            try:
                saved = from_json(path.read_bytes())
                self.id, self._known = str(saved["id"]), int(saved["step"])
            except (ValueError, KeyError, TypeError):
                return  # damaged: a new run shows the rest
            self._step = self._known

    def begin(self, run_id: str) -> None:
        """Remembers the id of the run."""
        self.id = run_id
        self._save()

    def is_known(self, step: int) -> bool:
        """Whether an earlier attempt has sent this step."""
        return step <= self._known

    def reached(self, step: int) -> None:
        """Remembers that a step was sent."""
        if step > self._step:
            self._step = step
            self._save()

    def _save(self) -> None:
        write_atomic(self._path, json.dumps({"id": self.id, "step": self._step}).encode())
