"""What a tracker's run is called, and how far it got, for a training run that is resumed."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic_core import from_json

from storage.atomic import write_atomic


class RunFile:
    """A JSON file with the id of a tracker's run and the last step that it was given.

    Services such as MLflow can't take values back. A resumed training repeats the steps since its last checkpoint with the
    same losses, so those that the run has already are not sent again.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        """Reads the file, unless the training begins with `first_step` 0: then the run is a new one."""
        self._path = path
        self.id = ""
        """The id of the run; empty before `begin`."""
        self._known = self._step = 0
        if first_step and path.is_file():
            try:
                found = from_json(path.read_bytes())
                self.id, self._known = str(found["id"]), int(found["step"])
            except (ValueError, KeyError, TypeError):
                return  # damaged: a new run shows the rest
            self._step = self._known

    def begin(self, run_id: str) -> None:
        """Remembers the id of the run."""
        self.id = run_id
        self._save()

    def is_known(self, step: int) -> bool:
        """Whether an earlier attempt has given this step to the run."""
        return step <= self._known

    def reached(self, step: int) -> None:
        """Remembers that the run has the values of a step."""
        if step > self._step:
            self._step = step
            self._save()

    def _save(self) -> None:
        write_atomic(self._path, json.dumps({"id": self.id, "step": self._step}).encode())
