"""What a training tells its values to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

TrackerKind = Literal["wandb", "mlflow", "trackio"]
"""The trackers besides TensorBoard. Each needs the extra of its name."""


class Tracker(Protocol):
    """Receives values by name while a training runs."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values measured at a step. Steps are counted from 1."""

    def close(self) -> None:
        """Writes what is still to be written. Nothing is logged afterwards."""
