"""Writes the values of a training run to a local Trackio project, which `trackio show` displays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.training.tracking.run_file import RunFile

PROJECT = "rlip"


class TrackioTracker:
    """Writes to `folder`/trackio, unless the user sets TRACKIO_DIR. A resumed training run continues the Trackio run of
    its name."""

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> None:
        # Trackio reads this while it is imported.
        os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").resolve()))
        self._trackio: Any = import_module("trackio")
        self._name, self._settings = run_name, settings
        self._file = RunFile(folder / "trackio.json", first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step, unless an earlier attempt did."""
        if not self._file.is_known(step):
            self._run.log(dict(values), step=step)
            self._file.reached(step)

    def close(self) -> None:
        """Finishes the run."""
        if "_run" in vars(self):
            self._run.finish()

    @cached_property
    def _run(self) -> Any:
        resumed = bool(self._file.id)
        self._file.begin(self._name)
        return self._trackio.init(
            project=PROJECT,
            name=self._name,
            config=dict(self._settings),
            resume="allow" if resumed else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
