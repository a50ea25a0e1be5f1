"""The local engine: a pool of processes, each of which opens the stage once and then executes item after item."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from pipeline.runtime.engines.engine import ATTEMPTS, Progress, StageCall, Worker, drop
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.logs import log
from pipeline.runtime.processes import begin_fork, fork_context, keep_freed_memory, one_thread_each
from storage.errors import RetryableError


class LocalEngine:
    """A pool of `workers` processes for one stage. Use it as a context manager; `submit` is safe from any thread.

    A worker that dies is replaced and its item tried again, `ATTEMPTS` times in all; then the item's future raises
    `RetryableError`. Workers die with this process, whatever ends it.
    """

    def __init__(self, call: StageCall, workers: int, progress: Progress | None = None) -> None:
        self._call = call
        self._progress = progress
        self._queue: queue.Queue[tuple[WorkItem, Future[Record]] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._serve, args=(number,), daemon=True) for number in range(workers)]
        self._processes: set[multiprocessing.process.BaseProcess] = set()
        self._stopping = False
        for thread in self._threads:
            thread.start()

    @property
    def workers(self) -> int:
        """Number of processes, each of which executes one item at a time."""
        return len(self._threads)

    def submit(self, item: WorkItem) -> Future[Record]:
        """Queue an item. The future gives its record or raises what went wrong."""
        future: Future[Record] = Future()
        if self._stopping:
            drop(item, future)
        else:
            self._queue.put((item, future))
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for queued items. After an error, drop them and end the workers at once (commits are atomic)."""
        if kind is not None:
            self._stop()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=None if kind is None else 10)

    def _stop(self) -> None:
        """Drop what is queued and kill the workers."""
        self._stopping = True
        while True:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                drop(*entry)
        for process in list(self._processes):
            process.kill()

    def _serve(self, number: int) -> None:
        """Own one worker process and feed it items until told to stop. A replacement keeps the worker's number."""
        worker: _Process | None = None
        while (entry := self._queue.get()) is not None:
            item, future = entry
            if self._stopping:
                drop(item, future)
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                for attempt in range(1, ATTEMPTS + 1):
                    try:
                        worker = worker or _Process(self._call, number, self._processes)
                        future.set_result(worker.execute(item, self._progress))
                        break
                    except (EOFError, ConnectionError):  # of the worker, or of the process that it is forked from
                        code = worker.close() if worker is not None else None
                        worker = None
                        self._note_death(item, number, attempt, code)
            except BaseException as error:
                future.set_exception(error)
        if worker is not None:
            worker.close()

    def _note_death(self, item: WorkItem, number: int, attempt: int, code: int | None) -> None:
        """Log a worker's death. Raises `RetryableError` when the item is not to be tried again."""
        if self._stopping:
            raise RetryableError(f"{item.step} {item.partition}: stopped") from None
        fields = {
            "step": item.step,
            "partition": item.partition,
            "worker": number,
            "exit_code": code,
            "attempt": attempt,
        }
        log.warning("worker died", extra={"fields": fields})
        if attempt == ATTEMPTS:
            raise RetryableError(
                f"{item.step} {item.partition}: its worker process died {ATTEMPTS} times (last exit code {code}); "
                "check whether memory ran out, then run again to resume"
            ) from None


class _Process:
    """One process and the pipe to it."""

    def __init__(self, call: StageCall, number: int, processes: set[multiprocessing.process.BaseProcess]) -> None:
        context = fork_context()
        self._pipe, theirs = context.Pipe()
        self._processes = processes
        with one_thread_each():
            self._process = context.Process(target=_main, args=(theirs, call, number, dict(os.environ)), daemon=True)
            self._process.start()
        processes.add(self._process)
        theirs.close()

    def execute(self, item: WorkItem, progress: Progress | None) -> Record:
        """Send an item and follow it to its record. Raises EOFError when the process dies."""
        self._pipe.send(item)
        while True:
            kind, value = self._pipe.recv()
            if kind == "progress":
                if progress is not None:
                    progress(item, *value)
            elif kind == "record":
                assert isinstance(value, Record)
                return value
            else:
                raise value

    def close(self) -> int | None:
        """End the process and return its exit code."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._processes.discard(self._process)
        return self._process.exitcode


def _main(pipe: Connection, call: StageCall, number: int, environment: dict[str, str]) -> None:
    """Main loop of a worker: open the stage at the first item, and answer each item with a record or an error."""
    begin_fork(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    worker = Worker(call, number)
    while True:
        try:
            item: WorkItem = pipe.recv()
        except EOFError:
            return
        answer = worker.execute(item, lambda done, total, note="": pipe.send(("progress", (done, total, note))))
        pipe.send(("record" if isinstance(answer, Record) else "error", answer))
