"""The id and the last step of a tracker's run, for a training run that is resumed."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic_core import from_json

from storage.atomic import write_atomic


class RunFile:
    """A JSON file with the id of a tracker's run and the last step that was sent to it.

    Services such as MLflow can't take values back. A resumed training run repeats the steps since its last checkpoint
    with the same losses, so those that the tracker already has are not sent again.
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
