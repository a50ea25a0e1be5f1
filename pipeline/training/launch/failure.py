"""Why a rank ended early: as reported by the rank, or else by its exit code."""

from __future__ import annotations

import re
import signal
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch.distributed as dist
from pydantic import ValidationError

from pipeline.runtime.settings import Settings
from storage.atomic import write_atomic
from storage.errors import PipelineError, RetryableError

Kind = Literal["fatal", "retry", "peer"]


class Failure(Settings):
    """Why a rank, or a node as a whole, ended early."""

    rank: int | None
    """None: the node as a whole."""
    node: str
    """Name of the node. Empty where all ranks are on one."""
    kind: Kind
    """fatal: a person must change something. retry: a new start may help. peer: another rank was lost, for a reason
    that only that one knows."""
    message: str

    @classmethod
    def of(cls, error: Exception, rank: int) -> Failure:
        """Describes an error that a rank ends with."""
        message = str(error) if isinstance(error, PipelineError | ValueError) else f"{type(error).__name__}: {error}"
        return cls(rank=rank, node="", kind=_kind(error), message=message)

    @classmethod
    def from_exit(cls, rank: int, node: str, code: int, written: Failure | None, out_of_memory: bool) -> Failure:
        """Describes a rank that ended with `code`, as `Popen.returncode` gives it, and with the failure that it wrote,
        if any.

        `out_of_memory`: the kernel killed a process for its memory while the rank ran.
        """
        who = f"rank {rank} (node {node})" if node else f"rank {rank}"
        if written is not None and written.kind == "fatal":
            return written.model_copy(update={"node": node})
        if code < 0:
            # NCCL aborts a process whose collective timed out or lost a peer.
            kind: Kind = "peer" if -code == signal.SIGABRT else "retry"
            hint = " (out of memory)" if -code == signal.SIGKILL and out_of_memory else ""
            return cls(rank=rank, node=node, kind=kind, message=f"{who} was killed by {_signal(-code)}{hint}")
        message = f"{who} ended with exit code {code}" + (f": {written.message}" if written else "")
        return cls(rank=rank, node=node, kind=written.kind if written else "retry", message=message)

    def write(self, work: Path) -> None:
        """Writes the failure for the process that started this rank."""
        write_atomic(failure_file(work, self.rank), self.model_dump_json().encode())


OOM_KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
"""Where Linux counts the processes that it killed for their memory: in this container, and on this machine."""


def oom_kills() -> int | None:
    """Returns how many processes the kernel has killed for their memory, as near to this one as can be read."""
    for file in OOM_KILLS:
        with suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE):
                return int(found[1])
    return None


def read_failure(work: Path, rank: int) -> Failure | None:
    """Returns what a rank wrote before its end, if anything."""
    try:
        return Failure.model_validate_json(failure_file(work, rank).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def failure_file(work: Path, rank: int | None) -> Path:
    """The file in which a rank says why it ended."""
    return work / f"failure-{rank}.json"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kind(error: Exception) -> Kind:
    if isinstance(error, RetryableError):
        return "retry"
    if isinstance(error, PipelineError | ValueError):
        return "fatal"
    return "peer" if isinstance(error, RuntimeError) and _is_of_a_collective(error) else "retry"


def _is_of_a_collective(error: RuntimeError) -> bool:
    """Gloo raises plain RuntimeErrors, known by where they come from, or by their text if a handle was waited for."""
    if isinstance(error, dist.DistError) or "/gloo/" in str(error):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith("torch.distributed.") for frame, _ in frames)
