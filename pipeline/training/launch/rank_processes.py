"""The training processes of one node: their start, their failures, their end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from pipeline.runtime.processes import begin_fork, fork_context, preload
from pipeline.training.config import WORKER, TrainConfig
from pipeline.training.launch.failure import Failure, failure_file, oom_kills, read_failure
from pipeline.training.launch.meeting import STORE

_ROOT = Path(__file__).resolve().parents[3]
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Placement:
    """The ranks that one node has in a round."""

    first: int
    """Number of its first rank."""
    count: int
    """Number of ranks of all nodes."""
    store: str
    """Name of the store where they meet, as in the environment variable `STORE`."""
    interface: str
    """Network interface for their connections."""
    node: str = ""
    """Name of this node in messages. Empty where all ranks are on one."""


class RankProcesses:
    """Starts `config.settings.processes` ranks. Their output is appended to `log`.

    Linux ends them with the process that starts them, and their loader processes with them. Each rank leads its own
    process group, together with what it starts: Ctrl-C in a terminal does not reach them.
    """

    def __init__(self, config_file: Path, config: TrainConfig, placement: Placement, log: Path) -> None:
        self._work, self._placement = config.work, placement
        self._processes: list[ForkServerProcess] = []
        self._oom_kills = oom_kills()
        preload([WORKER])
        try:
            for local in range(config.settings.processes):
                failure_file(config.work, placement.first + local).unlink(missing_ok=True)  # of an earlier round
                environment = _environment(config, placement, local)
                process = fork_context().Process(target=_rank, args=(config.worker, config_file, log, environment))
                process.start()
                self._processes.append(process)
        except BaseException:
            self.kill()
            raise

    def ended(self) -> bool:
        """Whether all ranks of this node have ended, for good or ill."""
        return not any(process.is_alive() for process in self._processes)

    def failures(self) -> list[Failure]:
        """Returns why ranks of this node ended that neither finished nor stopped on request."""
        failures = []
        out_of_memory = oom_kills() != self._oom_kills
        for rank, process in enumerate(self._processes, self._placement.first):
            if process.exitcode:
                written = read_failure(self._work, rank)
                failures.append(Failure.from_exit(rank, self._placement.node, process.exitcode, written, out_of_memory))
        return failures

    def request_stop(self) -> None:
        """Makes the ranks write a checkpoint and end."""
        for process in self._processes:
            if process.is_alive():
                _signal(process, signal.SIGTERM)

    def kill(self) -> None:
        """Ends whatever still runs, including what ranks started that have ended themselves."""
        for process in self._processes:
            _signal(process, signal.SIGKILL)
        for process in self._processes:
            process.join(_KILL_SECONDS)


def _signal(process: ForkServerProcess, number: int) -> None:
    """Sends a signal to a rank and what it started. A rank that has just started leads no group yet."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        if process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _rank(worker: str, config_file: Path, log: Path, environment: dict[str, str]) -> None:
    """Runs a rank from its first line to its last."""
    os.setsid()
    begin_fork(environment, log)
    _name_process(f"rank {environment['RANK']}")
    code = import_module(worker).main(config_file)
    if code:  # A usual exit would wait for collectives with peers that are lost.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _name_process(name: str) -> None:
    """Sets what `ps` and `top` show, since the command line is that of the process that this one is forked from."""
    prctl_set_name = 15
    ctypes.CDLL(None).prctl(prctl_set_name, name.encode(), 0, 0, 0)


def _environment(config: TrainConfig, placement: Placement, local: int) -> dict[str, str]:
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(config.settings.threads)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # cuBLAS is deterministic only with a fixed workspace.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "GLOO_SOCKET_IFNAME": placement.interface,
        # The equals sign makes NCCL take exactly this interface, and none whose name merely starts alike.
        "NCCL_SOCKET_IFNAME": f"={placement.interface}",
        "RANK": str(placement.first + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(placement.count),
        STORE: placement.store,
    }
