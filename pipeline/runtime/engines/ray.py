"""The Ray engine, whose workers are actors on the nodes of a cluster, and the cluster itself. It needs the extra `ray`.

Only items and records go through Ray. Tables go to the store, which all nodes reach, so Ray's object store never fills.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.engines.engine import Engine, Progress, StageCall, Worker, WorkerDied, WorkerHandle
from pipeline.runtime.execute import Record, WorkItem, installed_version
from pipeline.runtime.logs import log
from pipeline.runtime.processes import THREADS, keep_freed_memory
from pipeline.runtime.settings import split_address
from pipeline.runtime.stage import GIB, Resources
from storage.errors import FatalError, PipelineError, RetryableError

TICK_SECONDS = 0.5
"""How often an actor is asked for its progress, or whether it has started."""
NO_NODE_SECONDS = 60.0
"""How long items wait while no live node could hold an actor. A lost node may be replaced."""
LAST_MOMENT_SECONDS = 1.0
"""How long tasks may take to end by themselves before they are cancelled."""
PROGRESS = "progress"
"""The concurrency group in which an actor answers while it executes an item."""


class StageActor:
    """One worker process on a node. Relative paths of the recipe start at `folder`, as on the machine of the run."""

    def __init__(self, call: StageCall, number: int, folder: Path) -> None:
        self._worker = Worker(call, number)
        self._folder = folder
        self._progress = (0, 0, "")

    def place(self) -> str:
        """Where the actor runs, for logs and messages."""
        return f"{platform.node()}, process {os.getpid()}"

    def execute(self, item: WorkItem) -> Record | PipelineError:
        """The record of an item, or what went wrong with it. Errors are values, for Ray wraps raised ones."""
        self._progress = (0, 0, "")
        try:
            enter(self._folder)
        except FatalError as error:
            return error
        keep_freed_memory()
        return self._worker.execute(item, self._report)

    def progress(self) -> tuple[int, int, str]:
        """What the stage reported last of its item: done, total and note. The total is 0 before the first report."""
        return self._progress

    def _report(self, done: int, total: int, note: str = "") -> None:
        self._progress = (done, total, note)


class RayEngine(Engine):
    """A pool of actors for one stage. An actor may die alone or with its node."""

    idle_seconds = 60.0

    def __init__(
        self,
        call: StageCall,
        progress: Progress | None = None,
        *,
        address: str,
        least: int = 1,
        most: int | None = None,
        gpus_per_actor: float = 1.0,
    ) -> None:
        """Connect to the cluster whose head is at `address` (HOST:PORT).

        `least` actors are started at once and kept while they are idle; `most` defaults to as many as the nodes have
        room for. `gpus_per_actor` is the share of a GPU that an actor takes, if its stage takes one.

        Raises `FatalError` when it can't connect, or when no node can hold an actor.
        """
        self._call, self._ray = call, connect(address)
        nodes = live_nodes(self._ray)
        self._resources = call.resources.where(any_gpus=any(n.gpus for n in nodes), share=gpus_per_actor)
        room = room_for(nodes, self._resources)
        workers = room if most is None else most
        super().__init__(workers, progress, min(least, workers))
        # The same threads as in a process of the local engine. Actors compute in a thread of their own, whose heap
        # would give large blocks back (see `keep_freed_memory`).
        variables = {**dict.fromkeys(THREADS, "1"), "MALLOC_ARENA_MAX": "1"}
        if not self._resources.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides GPUs only from actors that have some
        self._actor_class = self._ray.remote(concurrency_groups={PROGRESS: 1})(StageActor).options(
            num_cpus=self._resources.cpus,
            num_gpus=self._resources.gpus,
            memory=self._resources.memory,
            # An actor that Ray restarts would repeat its item outside our limit.
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )

    def _start(self, number: int) -> WorkerHandle | None:
        """Start an actor and wait for its node. Ray's autoscaler adds nodes for those that find no room.

        Raises `RetryableError` when for some time no live node could hold one.
        """
        actor = _Actor(self._ray, self._actor_class.remote(self._call, number, Path.cwd()))
        possible = time.monotonic()
        while not actor.has_started():
            try:
                room_for(live_nodes(self._ray), self._resources)
                possible = time.monotonic()
            except FatalError as error:
                if time.monotonic() - possible > NO_NODE_SECONDS:
                    raise RetryableError(str(error)) from error
            if not self._wanted(number):
                actor.kill()
                return None
        log.info("worker started", extra={"fields": {"worker": number, "place": actor.place}})
        return actor


class _Actor(WorkerHandle):
    """An actor, which a node has started or is about to start."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray, self._handle = ray, handle
        self._placing = handle.place.remote()
        self._is_killed = False
        self.place = ""

    def has_started(self) -> bool:
        """Wait a moment for a node to start the actor. Raises `WorkerDied` if it can't."""
        if not self._ray.wait([self._placing], timeout=TICK_SECONDS)[0]:
            return False
        try:
            self.place = self._ray.get(self._placing)
        except self._ray.exceptions.RayError as error:
            advice = "Install the same version of rlip on all nodes; `rlip doctor RECIPE` checks each"
            raise WorkerDied(f"{brief(error)}. {advice}") from error
        return True

    def execute(self, item: WorkItem, progress: Progress | None) -> Record | PipelineError:
        answer, asked, shown = self._handle.execute.remote(item), None, None
        while not self._ray.wait([answer], timeout=TICK_SECONDS)[0]:
            # A thread that waited for Ray's answer would outlive the engine, and Ray ends a process with exit code 1
            # when a thread calls it while the process exits.
            if self._is_killed:
                raise WorkerDied(f"on {self.place}: killed")
            asked = asked or self._handle.progress.options(concurrency_group=PROGRESS).remote()
            if progress is None or not self._ray.wait([asked], timeout=0)[0]:
                continue
            with suppress(self._ray.exceptions.RayError):  # of an actor that dies; its answer says why
                found, asked = self._ray.get(asked), None
                if found[1] and found != shown:
                    progress(item, *found)
                    shown = found
        try:
            made: Record | PipelineError = self._ray.get(answer)
            return made
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(f"on {self.place}: {brief(error)}") from error

    def kill(self) -> None:
        if not self._is_killed:
            self._is_killed = True
            self._ray.kill(self._handle, no_restart=True)


ANSWER_SECONDS = 5.0
"""How long the head of a cluster may take to accept a connection."""


@dataclass(frozen=True)
class RayNode:
    """A live node of a cluster, with all its resources, whether or not they are in use."""

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


def enter(folder: Path) -> None:
    """Runs on a node: relative paths begin at `folder` from now on. Raises `FatalError` when the node lacks it."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise FatalError(
            f"node {platform.node()} can't enter {folder} ({error.strerror}), where the run was started and relative "
            "paths begin; mount it there under the same path, or start the run in a folder that all nodes have"
        ) from error


def run_on(ray: Any, node: RayNode, cpus: float, gpus: float, function: Callable[..., object], *given: object) -> Any:
    """Start a task on exactly this node, without retries: Ray would repeat the task of a lost node beyond any limit."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy=pinned)(function)
    return task.remote(*given)


def cancel(ray: Any, tasks: list[Any]) -> None:
    """Interrupt the tasks that do not end within a moment.

    Ray's result of a task may arrive before Ray records that the task has ended. Cancelling the task in between would
    end this process with exit code 1.
    """
    _, unfinished = ray.wait(tasks, num_returns=len(tasks), timeout=LAST_MOMENT_SECONDS)
    for task in unfinished:
        ray.cancel(task, force=False)


def connect(address: str) -> Any:
    """The module `ray`, connected to the cluster whose head is at `address` (HOST:PORT). A second call costs nothing.

    Raises `FatalError` when Ray is not installed, nothing answers there, versions differ, or this machine isn't a node.
    """
    ray = _import_ray()
    if ray.is_initialized():
        # The port tells two clusters apart where one machine has several names.
        if split_address(ray.get_runtime_context().gcs_address)[1] == split_address(address)[1]:
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
    try:
        socket.create_connection(split_address(address), timeout=ANSWER_SECONDS).close()
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
