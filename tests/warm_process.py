"""Processes that tests start, watch and kill, as forks of one that has imported what each would import for seconds."""

import atexit
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO, TypeVar

import psutil

from pipeline.runtime.processes import begin_fork, fork_context
from pipeline.training.config import RESUMES_FROM

Found = TypeVar("Found")


class WarmProcess:
    """Calls a function in a process of its own, with the methods of a `subprocess.Popen` that pipes text.

    `environment` is added to the variables of this process. Use it where only what happens after the imports matters.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *words: Any,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = fork_context()
        (out, their_out), (err, their_err) = (context.Pipe(duplex=False) for _ in range(2))
        begun = (os.environ | (environment or {}), cwd or Path.cwd())
        self._process = context.Process(target=_run, args=(their_out, their_err, *begun, function, words))
        self._process.start()
        for each in (their_out, their_err):
            each.close()
        self.stdout, self.stderr = _reader(out), _reader(err)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        with ThreadPoolExecutor(2) as pool:
            reads = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                out, err = (read.result(timeout) for read in reads)
            except TimeoutError:
                self.kill()
                raise
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def wait_for(look: Callable[[], Found | None], complaint: str, *, seconds: float = 120) -> Found:
    """Calls `look` until it returns something. Fails with `complaint` after `seconds`."""
    until = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < until, complaint
        time.sleep(0.3)
    return found


@contextmanager
def watched(pid: int) -> Iterator[Callable[[float], bool]]:
    """Gives a function that waits some seconds for any process to end, and says whether it did. Then it is killed.

    A process has ended even if nobody reaps it, as in a container whose first process reaps nothing.
    """
    process = os.pidfd_open(pid)
    try:
        yield lambda seconds: bool(select.select([process], [], [], seconds)[0])
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)


def ranks_of(folder: Path) -> list[int]:
    """Returns the ids of all ranks of training runs whose work folder is `folder`, or in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.NoSuchProcess):
            output = Path(f"/proc/{process.pid}/fd/1").readlink()
            if output.is_relative_to(folder) and process.name().startswith("rank "):
                found.append(process.pid)
    return found


def hold_at_checkpoint(folder: Path, process: WarmProcess) -> None:
    """Stops the ranks of the training in `folder` that `process` runs, as soon as it could go on from a checkpoint."""
    while not _holds(folder, RESUMES_FROM):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    for rank in ranks_of(folder):
        os.kill(rank, signal.SIGSTOP)


def _holds(folder: Path, name: str) -> bool:
    """Whether a file lies somewhere in a folder, from which others vanish meanwhile. `os.walk` passes over those."""
    return any(name in files for _, _, files in os.walk(folder))


@contextmanager
def limited(number: int, soft: int) -> Iterator[None]:
    """Sets a limit of `resource`, by its number, for the processes that are forked while the context lasts."""
    fork_context()
    parent = forkserver._forkserver._forkserver_pid
    before = resource.prlimit(parent, number)
    resource.prlimit(parent, number, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(parent, number, before)


def _reader(pipe: Connection) -> TextIO:
    stream = os.fdopen(os.dup(pipe.fileno()), encoding="utf-8")
    pipe.close()
    return stream


def _run(
    out: Connection,
    err: Connection,
    environment: Mapping[str, str],
    cwd: Path,
    function: Callable[..., Any],
    words: tuple[Any, ...],
) -> None:
    for stream, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), stream)
        pipe.close()
    begin_fork(environment)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it stands for a command, which Ctrl-C reaches
    os.chdir(cwd)
    try:
        function(*words)
    finally:  # multiprocessing leaves these out
        atexit._run_exitfuncs()
