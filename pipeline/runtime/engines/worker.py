"""What every process of an engine does: open the stage once, then execute item after item."""

from __future__ import annotations

import traceback
from contextlib import ExitStack

from pipeline.runtime.engines.stage_call import StageCall
from pipeline.runtime.execute import Record, WorkItem, execute
from pipeline.runtime.logs import log
from pipeline.runtime.stage import ReportProgress, Stage
from storage.errors import FatalError, PipelineError
from storage.open_store import open_store
from storage.store import Store


class Worker:
    """Worker number `number` of an engine. It opens store and stage with its first item, and logs to a file of its own."""

    def __init__(self, call: StageCall, number: int) -> None:
        self._call = call
        self._number = number
        self._store: Store | None = None
        self._stage: Stage | None = None

    def execute(self, item: WorkItem, report: ReportProgress) -> Record | PipelineError:
        """The record of an item, or what went wrong with it. A failure that no one foresaw becomes a `FatalError`."""
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
