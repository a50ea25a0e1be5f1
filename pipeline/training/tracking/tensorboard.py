"""Writes the values of a training run as TensorBoard events: `tensorboard --logdir FOLDER` shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Writes an event file per attempt. Steps that a resumed run repeats are shown from its file."""

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
        writer = SummaryWriter(str(self._folder), purge_step=self._first_step + 1)
        if not self._first_step:
            text = json.dumps(self._settings, indent=1, ensure_ascii=False, default=str)
            writer.add_text("settings", f"```\n{text}\n```")
        return writer
