"""How a worker makes its stage, on whichever machine it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.logs import RunLogs
from pipeline.runtime.resources import Resources
from pipeline.runtime.stage import Inputs, Stage
from storage.open_store import Address
from storage.store import Store


@dataclass(frozen=True)
class StageCall:
    """How a worker makes its stage: class, settings, image folders, what `open` receives, store and logs."""

    stage: type[Stage]
    settings: Any
    image_folders: Mapping[str, Path | str]
    given: Mapping[str, tuple[Path, ...]]
    store: Address
    logs: RunLogs | None = None

    @property
    def resources(self) -> Resources:
        """What one worker of the stage takes of its machine."""
        return self.stage(self.settings, self.image_folders).resources()

    def opened(self, store: Store, worker: int = 0) -> Stage:
        """Make the stage of worker number `worker` and open it."""
        stage = self.stage(self.settings, self.image_folders)
        stage.worker = worker
        stage.open(Inputs({name: store.fetch_artifacts(paths) for name, paths in self.given.items()}))
        return stage
