"""A pool of workers for one stage, whichever machines they are on. A subclass starts them."""

from __future__ import annotations

import platform
import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pipeline.runtime.execute import Record, WorkItem, execute
from pipeline.runtime.logs import RunLogs, log, noticing
from pipeline.runtime.stage import Inputs, ReportProgress, Resources, Stage
from storage.digests import digest_path
from storage.errors import FatalError, PipelineError, RetryableError
from storage.keys import changes
from storage.open_store import Address, open_store
from storage.store import Store

Progress = Callable[[WorkItem, int, int, str], None]

ATTEMPTS = 3
"""How often an item is tried when its worker dies (e.g. killed for lack of memory) before the run stops."""
STOP_SECONDS = 10.0


class WorkerDied(Exception):
    """A worker died, or could not be started. The message says where and how, if known."""


class WorkerHandle(ABC):
    """A worker as its engine sees it."""

    @abstractmethod
    def execute(self, item: WorkItem, progress: Progress | None) -> Record | PipelineError:
        """The record of an item, or what went wrong with it. Raises `WorkerDied`."""

    @abstractmethod
    def kill(self) -> None:
        """End the worker at once, from any thread. A call of `execute` then raises `WorkerDied`."""

    def close(self) -> None:
        """End a worker that is idle or dead."""
        self.kill()


@dataclass
class _Task:
    """A submitted item, and how many workers have tried it."""

    item: WorkItem
    future: Future[Record] = field(default_factory=Future)
    attempts: int = 0

    def stop(self) -> None:
        self.future.set_exception(RetryableError(f"{self.item.step} {self.item.partition}: stopped"))


class Engine(ABC):
    """Workers of one stage. Use it as a context manager; `submit` is safe from any thread.

    A worker has one item at a time, and the others wait here. One that dies is replaced and its item tried again,
    `ATTEMPTS` times in all; then the item's future raises `RetryableError`. On exit, the engine waits for its items.
    After an error it drops them and kills its workers (commits are atomic); the futures of dropped items, and of those
    submitted later, raise `RetryableError`. Workers end with this process.
    """

    idle_seconds: float | None = None
    """How long a worker beyond the lower bound may be idle; None: until the end."""

    def __init__(self, workers: int, progress: Progress | None = None, least: int = 0) -> None:
        """`least`: number of workers that start at once and stay while they are idle."""
        self.workers = workers
        """Maximum number of items that are executed at once."""
        self._progress, self._least = progress, least
        self._waiting: deque[_Task] = deque()
        self._running: dict[int, WorkerHandle] = {}
        self._free = 0
        """Number of workers that start or are idle."""
        self._failed_starts = 0
        self._is_closing = self._is_stopped = False
        self._changed = threading.Condition()
        self._threads = 0
        """Number of threads that have begun and not ended. One that begins after the engine has ended does nothing."""

    @abstractmethod
    def _start(self, number: int) -> WorkerHandle | None:
        """Start worker `number`. May give up, and return None, once it is not `_wanted`.

        Raises `WorkerDied` if it can't be started, and `PipelineError` if none can.
        """

    def submit(self, item: WorkItem) -> Future[Record]:
        """Queue an item. The future gives its record or raises what went wrong."""
        task = _Task(item)
        with self._changed:
            if self._is_stopped:
                task.stop()
            else:
                self._waiting.append(task)
                self._changed.notify_all()
        return task.future

    def __enter__(self) -> Self:
        try:
            for number in range(self.workers):
                threading.Thread(target=self._run, args=(number,), daemon=True).start()
        except BaseException:  # an interrupt
            self._end(stop=True)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._end(stop=kind is not None)
        except BaseException:  # an interrupt while it waits for its items
            self._end(stop=True)
            raise

    def _end(self, stop: bool) -> None:
        """End the workers, either once no item is left, or at once."""
        with self._changed:
            self._is_closing, self._is_stopped = True, stop
            while stop and self._waiting:
                self._waiting.popleft().stop()
            self._changed.notify_all()
        if stop:
            for worker in list(self._running.values()):
                worker.kill()
        with self._changed:
            # `Thread.join` takes a living thread for an ended one after an interrupt, before Python 3.13.
            self._changed.wait_for(lambda: not (self._threads or self._waiting), STOP_SECONDS if stop else None)

    def _run(self, number: int) -> None:
        with self._changed:
            self._threads += 1
        try:
            self._serve(number)
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _serve(self, number: int) -> None:
        """Run worker `number` whenever there is work for it, until the engine is closed and nothing waits."""
        while self._is_needed(number):
            try:
                worker = self._start(number)
            except WorkerDied as error:
                log.warning("worker did not start", extra={"fields": {"worker": number, "error": error}})
                self._failed_starts += 1
                if self._failed_starts >= ATTEMPTS:
                    self._give_up(FatalError(f"workers can't be started: {error}"))
            except Exception as error:
                self._give_up(error)
            else:
                if worker is not None:
                    self._running[number] = worker
                    self._failed_starts = 0
                    self._feed(number, worker)
                    del self._running[number]
                    worker.close()
                    continue
            with self._changed:
                self._free -= 1

    def _is_needed(self, number: int) -> bool:
        """Wait until more items wait than workers are free. False when there is nothing left to do."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    len(self._waiting) > self._free
                    or (self._is_closing and not self._waiting)
                    or (number < self._least and not self._failed_starts)
                )
            )
            if self._is_closing and not self._waiting:
                return False
            self._free += 1
            return True

    def _wanted(self, number: int) -> bool:
        """Whether a worker that starts still has something to do."""
        return bool(self._waiting) or (number < self._least and not self._is_closing)

    def _feed(self, number: int, worker: WorkerHandle) -> None:
        """Give items to a worker until it dies, has been idle for too long, or nothing is left to do."""
        while (task := self._next(number)) is not None:
            try:
                answer: Record | Exception = worker.execute(task.item, self._progress)
            except WorkerDied as error:
                self._note_death(number, task, str(error))
                return
            except Exception as error:
                answer = error
            if isinstance(answer, Exception):
                task.future.set_exception(answer)
            else:
                task.future.set_result(answer)
            with self._changed:
                self._free += 1

    def _next(self, number: int) -> _Task | None:
        with self._changed:
            patience = None if number < self._least else self.idle_seconds
            self._changed.wait_for(lambda: self._waiting or self._is_closing, patience)
            self._free -= 1
            task = self._waiting.popleft() if self._waiting else None
            self._changed.notify_all()
            return task

    def _note_death(self, number: int, task: _Task, why: str) -> None:
        """Let another worker try the item, unless `ATTEMPTS` have."""
        item, task.attempts = task.item, task.attempts + 1
        with self._changed:
            if self._is_stopped:
                return task.stop()
            fields = {"step": item.step, "partition": item.partition, "worker": number, "attempt": task.attempts}
            log.warning("worker died", extra={"fields": {**fields, "error": why}})
            if task.attempts < ATTEMPTS:
                self._waiting.appendleft(task)
                return self._changed.notify_all()
        message = f"{item.step} {item.partition}: its worker died {ATTEMPTS} times (last: {why}); check whether memory "
        task.future.set_exception(RetryableError(f"{message}ran out there, then run again to resume"))

    def _give_up(self, error: Exception) -> None:
        """Fail the items that wait."""
        with self._changed:
            while self._waiting:
                self._waiting.popleft().future.set_exception(error)


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

    def opened(self, store: Store, item: WorkItem, worker: int = 0) -> Stage:
        """Make the stage of worker number `worker` and open it for items like this one.

        Raises `FatalError` if a file that it loaded, e.g. of weights, or the version of a package is not the one in
        the item's key.
        """
        stage = self.stage(self.settings, self.image_folders)
        stage.worker = worker
        stage.open(Inputs({name: store.fetch_artifacts(paths) for name, paths in self.uses.items()}))
        there = replace(item.terms, version=stage.version, settings=stage.row_settings())
        if differing := changes(item.terms.as_json(), there.as_json()):
            raise FatalError(
                f"{item.step}: {differing[0]} on {platform.node()}: a package there has another version than this run "
                "was planned with; install the same one on all machines, then run again"
            )
        # After loading, so that a file that is replaced meanwhile is noticed, too.
        files = stage.files()
        for role in sorted(files.keys() | item.terms.weights.keys()):
            path = files.get(role)
            if path is None or digest_path(path) != item.terms.weights.get(role):
                raise FatalError(
                    f"{item.step}: {path or 'a file'} ({role}) on {platform.node()} is not what this run was planned "
                    "with: it was replaced since, or differs between machines; run again"
                )
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
            stack.enter_context(noticing(lambda text: report(0, 1, text)))
            fields = {"step": item.step, "partition": item.partition}
            try:
                self._store = self._store or open_store(self._call.store)
                self._stage = self._stage or self._call.opened(self._store, item, self._number)
                return execute(self._stage, item, self._store, report)
            except PipelineError as error:
                self._stage = None  # a retry opens another, which holds nothing of this attempt
                log.error("failed", extra={"fields": {**fields, "error": error}})
                return error
            except Exception as error:
                self._stage = None
                log.exception("failed", extra={"fields": fields})
                # As text, because a traceback can't be sent to the process of the run.
                where = f"{item.step} {item.partition}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
                return FatalError(where)
