"""Sends the values of a training run to Weights & Biases, by default to files that `wandb sync` uploads later."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.training.tracking.service import ServiceTracker

PROJECT = "rlip"


class WandbTracker(ServiceTracker):
    """Writes to `folder`/wandb offline, unless the user sets WANDB_MODE. Each attempt adds a folder of the same run id.

    Values are plotted over `step`, a value of their own: the service would refuse to go back to an earlier step of its
    own.
    """

    kind = "wandb"

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any], first_step: int) -> None:
        super().__init__(folder, run_name, settings, first_step)
        # Offline means offline: reports of the library's own errors would be sent all the same.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb: Any = import_module("wandb")

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def _open(self) -> Any:
        if not self._file.id:
            self._file.begin(uuid.uuid4().hex[:8])
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._name,
            id=self._file.id,
            resume="allow",
            dir=str(self._folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(self._settings),
            settings=self._wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run
