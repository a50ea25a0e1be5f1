"""The local engine: a few processes, each of which opens the stage once and then works item by item."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.runtime.execute import Record, WorkItem, carry_out
from pipeline.runtime.processes import keep_freed_memory
from pipeline.runtime.stage import Inputs, Stage
from storage.errors import PipelineError, Terminal, Transient
from storage.open_store import Address, open_store
from storage.store import Store

Progress = Callable[[WorkItem, int, int, str], None]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STARTING = threading.Lock()

ATTEMPTS = 3
"""How often an item is tried when its worker dies (e.g. killed for memory) before the run stops."""


@dataclass(frozen=True)
class StageCall:
    """How a worker makes its stage: class, settings, where images lie, what `open` gets, and the store's address."""

    stage: type[Stage]
    settings: Any
    image_folders: Mapping[str, Path | str]
    given: Mapping[str, tuple[Path, ...]]
    store: Address

    def opened(self, store: Store, worker: int = 0) -> Stage:
        """Make the stage of worker number `worker` and load what is heavy."""
        stage = self.stage(self.settings, self.image_folders)
        stage.worker = worker
        stage.open(Inputs({name: store.bring(paths) for name, paths in self.given.items()}))
        return stage


class LocalEngine:
    """A pool of `workers` processes for one stage. Use as a context manager; `submit` is safe from any thread.

    A worker that dies is replaced and its item tried again, `ATTEMPTS` times in all; then its future raises
    `Transient`. Workers die with this process, whatever ends it.
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

    def submit(self, item: WorkItem) -> Future[Record]:
        """Queue an item; the future gives its record or raises what went wrong."""
        future: Future[Record] = Future()
        self._queue.put((item, future))
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for queued items; after an error drop them and end the workers at once (commits are atomic)."""
        if kind is not None:
            self._stop()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=None if kind is None else 10)

    def _stop(self) -> None:
        """Cancel what waits, and end the workers at what they are doing."""
        self._stopping = True
        while True:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                entry[1].cancel()
        for process in list(self._processes):
            process.kill()

    def _serve(self, number: int) -> None:
        """Own one worker process and feed it, until told to stop. One that takes its place has its number."""
        worker: _Worker | None = None
        while (entry := self._queue.get()) is not None:
            item, future = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                for attempt in range(ATTEMPTS):
                    worker = worker or _Worker(self._call, number, self._processes)
                    try:
                        future.set_result(worker.work(item, self._progress))
                        break
                    except (EOFError, BrokenPipeError, ConnectionResetError):
                        code = worker.close()
                        worker = None
                        if self._stopping:
                            raise Transient(f"{item.step} {item.partition}: stopped") from None
                        if attempt == ATTEMPTS - 1:
                            raise Transient(
                                f"{item.step} {item.partition}: its worker process died {ATTEMPTS} times "
                                f"(last exit code {code}); look for lack of memory, then run again to resume"
                            ) from None
            except BaseException as error:
                future.set_exception(error)
        if worker is not None:
            worker.close()


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, call: StageCall, number: int, processes: set[multiprocessing.process.BaseProcess]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, call, number, os.getpid()), daemon=True)
        self._processes = processes
        with one_thread_each():
            self._process.start()
        processes.add(self._process)
        theirs.close()

    def work(self, item: WorkItem, progress: Progress | None) -> Record:
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
        """End the process; returns its exit code."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._processes.discard(self._process)
        return self._process.exitcode


def _main(pipe: Connection, call: StageCall, number: int, parent: int) -> None:
    """A worker's life: open the stage at the first item, then answer each item with a record or an error."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    stage: Stage | None = None
    store: Store | None = None
    while True:
        try:
            item: WorkItem = pipe.recv()
        except EOFError:
            return
        try:
            store = store or open_store(call.store)
            stage = stage or call.opened(store, number)
            record = carry_out(
                stage, item, store, lambda done, total, note="": pipe.send(("progress", (done, total, note)))
            )
            pipe.send(("record", record))
        except PipelineError as error:
            pipe.send(("error", error))
        except Exception as error:
            import traceback

            where = f"{item.step} {item.partition}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            pipe.send(("error", Terminal(where)))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started inside compute with one thread: workers must not fight over cores.

    Their libraries ask the environment when they are loaded, which is before a worker's own first line.
    """
    with _STARTING:
        before = {name: os.environ.get(name) for name in _THREADS}
        os.environ.update(dict.fromkeys(_THREADS, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def die_with_parent(parent: int) -> None:
    """Ask Linux to end this process when its parent thread's process ends, even by SIGKILL."""
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(prctl_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
