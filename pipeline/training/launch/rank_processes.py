"""The training processes of one host: their start, their failures, their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.training.config import LAUNCHER, TrainConfig
from pipeline.training.launch.failure import Failure, forget_failure, read_failure
from pipeline.training.launch.meeting import STORE

WORKER = "pipeline.training.worker"
_ROOT = Path(__file__).resolve().parents[3]
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Placement:
    """The ranks that one host has in a round."""

    first: int
    """Number of its first rank."""
    count: int
    """Number of ranks of all hosts."""
    store: str
    """Name of the store where they meet, for `STORE`."""
    interface: str
    """Network interface for their connections."""
    host: str = ""
    """Name of this host in messages. Empty where all ranks are on one."""


class RankProcesses:
    """Starts `config.settings.processes` ranks and holds them. Their output is appended to `log`.

    Linux ends them with the thread that starts them, so this must be the main thread. Each rank leads a process group of its
    own, which its loader processes are in: Ctrl-C in a terminal does not reach them.
    """

    def __init__(
        self, config_file: Path, config: TrainConfig, placement: Placement, log: Path, worker: str = WORKER
    ) -> None:
        self._work, self._placement = config.work, placement
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            with log.open("ab") as out:
                for local in range(config.settings.processes):
                    forget_failure(config.work, placement.first + local)
                    self._processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", worker, str(config_file)],
                            stdout=out,
                            stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL,
                            start_new_session=True,
                            env=_environment(config, placement, local),
                        )
                    )
        except BaseException:
            self.kill()
            raise

    def ended(self) -> bool:
        """Whether all ranks of this host have ended, for good or ill."""
        return all(process.poll() is not None for process in self._processes)

    def failures(self) -> list[Failure]:
        """Returns why ranks of this host ended, for those that ended otherwise than by finishing or stopping on request."""
        found = []
        for rank, process in enumerate(self._processes, self._placement.first):
            if process.poll():
                told = read_failure(self._work, rank)
                found.append(Failure.from_exit(rank, self._placement.host, process.returncode, told))
        return found

    def ask(self) -> None:
        """Asks the ranks to write a checkpoint and end."""
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends whatever still runs, also loader processes of ranks that have ended."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_SECONDS)


def _environment(config: TrainConfig, placement: Placement, local: int) -> dict[str, str]:
    """Returns environment variables: import paths, threads, the rank, and the process that it must not outlive."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(config.settings.threads)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A folder of the user with the name of one of our packages must not be imported instead of it.
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "GLOO_SOCKET_IFNAME": placement.interface,
        # The sign of equality makes NCCL take this interface only, and none that merely starts with its name.
        "NCCL_SOCKET_IFNAME": f"={placement.interface}",
        "RANK": str(placement.first + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(placement.count),
        STORE: placement.store,
        LAUNCHER: str(os.getpid()),
    }
