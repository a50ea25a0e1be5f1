"""The Ray engine: workers are actors on the nodes of a cluster.

Only items and records pass through Ray. Tables go to the store, which all nodes reach, so nothing fills Ray's object
store.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.runtime.engines.engine import Engine, Progress, StageCall, Worker, WorkerDied, WorkerHandle
from pipeline.runtime.engines.ray_cluster import brief, connect, live_nodes, room_for
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.logs import log
from pipeline.runtime.processes import THREADS, keep_freed_memory
from storage.errors import FatalError, PipelineError, RetryableError

TICK_SECONDS = 0.5
"""How often an actor is asked for its progress, or whether it has started."""
NO_NODE_SECONDS = 60.0
"""How long items wait while no live node could hold an actor. A lost node may be replaced."""
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
            os.chdir(self._folder)
        except OSError as error:
            return FatalError(
                f"node {platform.node()} can't enter {self._folder} ({error.strerror}), where the run was started and "
                "relative paths begin; mount it there under the same path, or start the run in a folder that all "
                "nodes have"
            )
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
        # The same threads as in a process of the local engine. Actors compute in a thread of their own, whose heap would
        # give large blocks back (see `keep_freed_memory`).
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
        self.place = ""

    def has_started(self) -> bool:
        """Wait a moment for a node to start the actor. Raises `WorkerDied` if it can't."""
        if not self._ray.wait([self._placing], timeout=TICK_SECONDS)[0]:
            return False
        try:
            self.place = self._ray.get(self._placing)
        except self._ray.exceptions.RayError as error:
            advice = "Install the same version of rlip on all nodes; `rlip doctor` checks each"
            raise WorkerDied(f"{brief(error)}. {advice}") from error
        return True

    def execute(self, item: WorkItem, progress: Progress | None) -> Record | PipelineError:
        answer, asked, shown = self._handle.execute.remote(item), None, None
        while not self._ray.wait([answer], timeout=TICK_SECONDS)[0]:
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
        self._ray.kill(self._handle, no_restart=True)
