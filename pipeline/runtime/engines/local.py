"""The local engine: workers are processes of this machine."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from threading import Lock

from pipeline.runtime.engines.engine import Engine, Progress, StageCall, Worker, WorkerDied, WorkerHandle
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.processes import begin_fork, fork_context, keep_freed_memory, one_thread_each
from storage.errors import PipelineError


class LocalEngine(Engine):
    """A pool of processes for one stage."""

    def __init__(self, call: StageCall, workers: int, progress: Progress | None = None) -> None:
        super().__init__(workers, progress)
        self._call = call

    def _start(self, number: int) -> WorkerHandle:
        try:
            return _Process(self._call, number)
        except (EOFError, ConnectionError) as error:
            raise WorkerDied("the process that it is forked from has ended") from error


class _Process(WorkerHandle):
    def __init__(self, call: StageCall, number: int) -> None:
        context = fork_context()
        self._pipe, theirs = context.Pipe()
        with one_thread_each():
            self._process = context.Process(target=_main, args=(theirs, call, number, dict(os.environ)), daemon=True)
            self._process.start()
        # While our copy of its end is open, a dead worker's pipe would never close.
        theirs.close()

    def execute(self, item: WorkItem, progress: Progress | None) -> Record | PipelineError:
        try:
            self._pipe.send(item)
            while isinstance(answer := self._pipe.recv(), tuple):
                if progress is not None:
                    progress(item, *answer)
            found: Record | PipelineError = answer
            return found
        except (EOFError, ConnectionError) as error:
            self.close()
            raise WorkerDied(f"exit code {self._process.exitcode}") from error

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """End the process, which is waiting for an item or dead."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _main(pipe: Connection, call: StageCall, number: int, environment: dict[str, str]) -> None:
    """Main loop of a worker: answer each item with progress, as tuples, and then a record or an error."""
    begin_fork(environment)
    keep_freed_memory()
    worker, sending = Worker(call, number), Lock()

    def send(answer: object) -> None:
        with sending:  # threads of a stage report, too
            pipe.send(answer)

    while True:
        try:
            item: WorkItem = pipe.recv()
        except EOFError:
            return
        send(worker.execute(item, lambda done, total, note="": send((done, total, note))))
