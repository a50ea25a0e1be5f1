"""The Ray cluster of a run: connecting to it, its nodes, and how many workers fit on them. Needs the extra `ray`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.execute import installed_version
from pipeline.runtime.stage import GIB, Resources
from storage.errors import FatalError

ANSWER_SECONDS = 5.0
"""How long the head of a cluster may take to accept a connection."""


@dataclass(frozen=True)
class RayNode:
    """A live node of a cluster, with all that it has, whether or not something uses it."""

    id: str
    ip: str
    host: str
    cpus: float
    gpus: float
    memory: float
    """Bytes that Ray may give to workers."""

    def room(self, worker: Resources) -> int:
        """How many such workers fit on it at once."""
        asked = ((self.cpus, worker.cpus), (self.gpus, worker.gpus), (self.memory, worker.memory))
        # Shares such as 0.1 of a GPU are not binary fractions.
        return min(int(has / takes + 1e-6) for has, takes in asked if takes)

    def __str__(self) -> str:
        return f"{self.ip} ({self.host}): {self.cpus:g} CPUs, {self.gpus:g} GPUs, {self.memory / GIB:.1f} GiB"


def look_around(paths: tuple[Path, ...]) -> tuple[str, list[Path]]:
    """Runs on a node: its version of rlip, and which of these paths it doesn't see."""
    return installed_version("rlip"), [path for path in paths if not path.exists()]


def connect(address: str) -> Any:
    """The module `ray`, connected to the cluster whose head is at `address` (HOST:PORT). A second call costs nothing.

    Raises `FatalError` when Ray is not installed, nothing answers there, versions differ, or this machine is not a
    node.
    """
    ray = _import_ray()
    if ray.is_initialized():
        if _port(ray.get_runtime_context().gcs_address) == _port(address):
            return ray
        ray.shutdown()
    _require_answer(address)
    try:
        with _own_sigterm():
            ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FatalError(f"run.ray_address = {address!r}: {_why(error)}") from error
    return ray


def live_nodes(ray: Any) -> list[RayNode]:
    """The nodes that are alive, by IP."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            amounts = (has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0))
            found.append(RayNode(node["NodeID"], node["NodeManagerAddress"], node["NodeManagerHostname"], *amounts))
    return sorted(found, key=lambda node: (node.ip, node.id))


def room_for(nodes: Sequence[RayNode], worker: Resources) -> int:
    """How many such workers fit on the nodes at once. Raises `FatalError` that lists the nodes when none does."""
    count = sum(node.room(worker) for node in nodes)
    if count:
        return count
    there = "; ".join(map(str, nodes)) or "none is alive"
    what = "start a node with more of it (`ray start --num-cpus --num-gpus --memory`)"
    if worker.gpus and not any(node.gpus >= worker.gpus for node in nodes):
        what = (
            "start a node with a GPU (`ray start --num-gpus`), lower run.gpus_per_actor, or set the stage's device to "
            "'cpu'"
        )
    raise FatalError(f"a worker needs {worker}, but no node of the Ray cluster has it: {there}; {what}")


def _import_ray() -> Any:
    """The module. What it writes to standard output about dead workers is switched off: the engine logs it, and `rlip
    run --json` writes one JSON object per line there. Ray reads the variable when it is imported, and never again."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise FatalError(
            "run.engine = 'ray': Ray is not installed; pip install 'rlip[ray]' here and on all nodes"
        ) from error
    return ray


def _require_answer(address: str) -> None:
    """Connect once before Ray does, which would try for minutes and write about it."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise FatalError(
            f"run.ray_address = {address!r}: nothing answers there ({error.strerror or error}). Start a cluster (`ray "
            "start --head` on one machine, `ray start --address HOST:PORT` on the others, this one among them), or "
            "correct the address"
        ) from error


def _why(error: BaseException) -> str:
    """What kept Ray from connecting, and what to do. Ray gives the reason as the error's cause."""
    reason = str(error.__cause__ or error)
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    if reason.startswith("Version mismatch"):
        return (
            f"{' '.join(lines)} Install the same versions of Python and Ray (`pip install 'ray==...'`) here and on all "
            "nodes"
        )
    what = "run rlip on a node of the cluster; `ray start --address HOST:PORT` turns this machine into one"
    return f"can't connect to the Ray cluster ({' '.join(lines)}); {what}"


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM (that of Prefect, or of a training run), which `ray.init` replaces."""
    # Python lets only the main thread set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def brief(error: BaseException) -> str:
    """The last line of what Ray says, which has the reason, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else repr(error))[:300]


def _port(address: str) -> str:
    """The port, which tells two clusters apart where one machine has several names."""
    return address.rpartition(":")[2]
