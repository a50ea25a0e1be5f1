"""What every engine has, whichever machines its workers are on: what runners ask of it, and its workers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline.runtime.execute import Record, WorkItem, execute
from pipeline.runtime.logs import RunLogs, log
from pipeline.runtime.stage import Inputs, ReportProgress, Resources, Stage
from storage.errors import FatalError, PipelineError, RetryableError
from storage.open_store import Address, open_store
from storage.store import Store

Progress = Callable[[WorkItem, int, int, str], None]

ATTEMPTS = 3
"""How often an item is tried when its worker dies (e.g. killed for lack of memory) before the run stops."""


class Engine(Protocol):
    """Workers of one stage. Use it as a context manager; on exit it waits for its items, or drops them after an error.

    The futures of dropped items, and of those submitted later, raise `RetryableError`.
    """

    @property
    def workers(self) -> int:
        """Maximum number of items that are executed at once."""

    def submit(self, item: WorkItem) -> Future[Record]:
        """Queue an item, from any thread. The future gives its record or raises what went wrong."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def drop(item: WorkItem, future: Future[Record]) -> None:
    """End the future of an item that nobody will execute. `Future.cancel` alone would not wake `as_completed`."""
    with suppress(InvalidStateError):
        future.set_exception(RetryableError(f"{item.step} {item.partition}: stopped"))


@dataclass(frozen=True)
class StageCall:
    """How a worker makes its stage: class, settings, image folders, what `open` receives, store and logs."""

    stage: type[Stage]
    settings: Any
    image_folders: Mapping[str, Path | str]
    uses: Mapping[str, tuple[Path, ...]]
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
        stage.open(Inputs({name: store.fetch_artifacts(paths) for name, paths in self.uses.items()}))
        return stage


class Worker:
    """Worker number `number` of an engine. It opens store and stage with its first item, and has its own log."""

    def __init__(self, call: StageCall, number: int) -> None:
        self._call = call
        self._number = number
        self._store: Store | None = None
        self._stage: Stage | None = None

    def execute(self, item: WorkItem, report: ReportProgress) -> Record | PipelineError:
        """The record of an item, or what went wrong with it. An unexpected error becomes a `FatalError`."""
        with ExitStack() as stack:
            if self._call.logs is not None:
                stack.enter_context(self._call.logs.open(f"worker-{self._number}"))
            fields = {"step": item.step, "partition": item.partition}
            try:
                self._store = self._store or open_store(self._call.store)
                self._stage = self._stage or self._call.opened(self._store, self._number)
                return execute(self._stage, item, self._store, report)
            except PipelineError as error:
                log.error("failed", extra={"fields": {**fields, "error": error}})
                return error
            except Exception as error:
                log.exception("failed", extra={"fields": fields})
                where = f"{item.step} {item.partition}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
                return FatalError(where)
