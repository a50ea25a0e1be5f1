"""The Ray actor that executes items of a stage. It runs on any node and needs rlip, but no part of Ray's library."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from pipeline.runtime.engines.stage_call import StageCall
from pipeline.runtime.engines.worker import Worker
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.processes import keep_freed_memory
from storage.errors import FatalError, PipelineError

PROGRESS = "progress"
"""The concurrency group in which an actor answers while it executes an item."""


class StageActor:
    """One worker process on a node. Relative paths of the recipe start at `folder`, as on the machine of the run."""

    def __init__(self, call: StageCall, number: int, folder: Path) -> None:
        self._worker = Worker(call, number)
        self._folder = folder
        self._progress = (0, 0, "")

    def place(self) -> str:
        """Where the actor runs, for logs and messages."""
        return f"{platform.node()}, process {os.getpid()}"

    def execute(self, item: WorkItem) -> Record | PipelineError:
        """The record of an item, or what went wrong with it. Errors are values, because Ray wraps those that are raised."""
        self._progress = (0, 0, "")
        try:
            os.chdir(self._folder)
        except OSError as error:
            return FatalError(
                f"node {platform.node()} can't enter {self._folder} ({error.strerror}), where the run was started and relative "
                "paths begin; mount it there under the same path, or start the run in a folder that all nodes have"
            )
        keep_freed_memory()
        return self._worker.execute(item, self._report)

    def progress(self) -> tuple[int, int, str]:
        """What the stage reported last of its item: done, total and note. The total is 0 before the first report."""
        return self._progress

    def _report(self, done: int, total: int, note: str = "") -> None:
        self._progress = (done, total, note)
