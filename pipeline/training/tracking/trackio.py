"""Writes the values of a training run to a local Trackio project, which `trackio show` displays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.training.tracking.service import ServiceTracker

PROJECT = "rlip"


class TrackioTracker(ServiceTracker):
    """Writes to `folder`/trackio, unless the user sets TRACKIO_DIR. A resumed run continues that of its name."""

    kind = "trackio"

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> None:
        super().__init__(folder, run_name, settings, first_step)
        # Trackio reads this while it is imported.
        os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").resolve()))
        self._trackio: Any = import_module("trackio")

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def _open(self) -> Any:
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
