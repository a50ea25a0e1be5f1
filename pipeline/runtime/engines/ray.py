"""The Ray engine: a pool of actors on the nodes of a cluster, each of which opens the stage once.

Only items and records pass through Ray. Tables go to the store, which all nodes reach, so nothing fills Ray's object
store.
"""

from __future__ import annotations

import os
import platform
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.runtime.engines.engine import ATTEMPTS, Progress, StageCall, Worker, drop
from pipeline.runtime.engines.ray_cluster import connect, live_nodes, room_for
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.logs import log
from pipeline.runtime.processes import THREADS, keep_freed_memory
from storage.errors import FatalError, PipelineError, RetryableError

TICK_SECONDS = 0.5
"""How often actors are asked for their progress, and the pool is looked over."""
IDLE_SECONDS = 60.0
"""How long an actor above the lower bound stays without work."""
NO_NODE_SECONDS = 60.0
"""How long items wait while no live node could hold an actor. A lost node may be replaced."""
STOP_SECONDS = 10.0
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


@dataclass
class _Task:
    """An item on its way, and how many actors have tried it."""

    item: WorkItem
    future: Future[Record]
    attempts: int = 0


@dataclass
class _Actor:
    """An actor as the engine sees it."""

    number: int
    handle: Any
    place: str | None = None
    """Where it runs; None until a node has started it."""
    task: _Task | None = None
    idle_since: float = field(default_factory=time.monotonic)
    reported: tuple[int, int, str] | None = None
    """The last progress of its item that was passed on."""
    asked: bool = False
    """Whether a question for its progress is on its way: it is asked again only when it has answered."""


class RayEngine:
    """A pool of actors for one stage. Use it as a context manager; `submit` is safe from any thread.

    An actor has one item at a time, and the others wait here. An actor that dies, alone or with its node, is replaced
    and its item tried again, `ATTEMPTS` times in all; then the item's future raises `RetryableError`. Actors end with
    this process.
    """

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
        self._ray = connect(address)
        nodes = live_nodes(self._ray)
        self._resources = call.resources.where(any_gpus=any(n.gpus for n in nodes), share=gpus_per_actor)
        room = room_for(nodes, self._resources)
        self._address = address
        self._most = room if most is None else most
        self._least = min(least, self._most)
        self._progress = progress
        self._make = self._actor_maker(call)
        self._waiting: deque[_Task] = deque()
        self._actors: dict[int, _Actor] = {}
        self._failed_starts = 0
        self._without_node_since: float | None = None
        self._is_closing = False
        self._is_stopped = False
        # Everything that happens is a call in this queue, and one thread makes them all, so nothing needs a lock.
        self._events: queue.Queue[Callable[[], None]] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def workers(self) -> int:
        """Maximum number of actors, each of which executes one item at a time."""
        return self._most

    def submit(self, item: WorkItem) -> Future[Record]:
        """Queue an item. The future gives its record or raises what went wrong."""
        task = _Task(item, Future())
        if self._is_stopped:
            drop(item, task.future)
        else:
            self._events.put(partial(self._waiting.append, task))
        return task.future

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for queued items. After an error, drop them and kill the actors at once (commits are atomic)."""
        self._is_stopped = kind is not None
        self._events.put(self._abort if self._is_stopped else self._close)
        self._thread.join(timeout=None if kind is None else STOP_SECONDS)

    def _serve(self) -> None:
        """Make the calls of the queue one after the other, until the engine is closed and nothing is left to do."""
        ticked = time.monotonic()
        for number in range(self._least):
            self._start(number)
        while not (self._is_closing and not self._waiting and not any(a.task for a in self._actors.values())):
            try:
                event = self._events.get(timeout=TICK_SECONDS)
            except queue.Empty:
                event = None
            try:
                if event is not None:
                    event()
                if time.monotonic() - ticked >= TICK_SECONDS:
                    ticked = time.monotonic()
                    self._tick()
                self._assign()
                self._grow()
            except Exception as error:  # an item must end, whatever Ray raises
                self._give_up(RetryableError(f"the Ray cluster at {self._address} failed: {error!r}; run again"))
        for actor in list(self._actors.values()):
            self._drop(actor)

    def _close(self) -> None:
        self._is_closing = True

    def _abort(self) -> None:
        """Drop what waits and kill the actors; their items then end as those of dead ones."""
        self._is_closing = True
        while self._waiting:
            task = self._waiting.popleft()
            drop(task.item, task.future)
        for actor in list(self._actors.values()):
            running, actor.task = actor.task, None
            self._drop(actor)
            if running is not None:
                drop(running.item, running.future)

    def _actor_maker(self, call: StageCall) -> Callable[[int], Any]:
        """A function that starts actor number `n`, with the same threads as a process of the local engine."""
        # Actors compute in a thread of their own, whose heap would give large blocks back (see `keep_freed_memory`).
        variables = {**dict.fromkeys(THREADS, "1"), "MALLOC_ARENA_MAX": "1"}
        if not self._resources.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides GPUs only from actors that have some
        options: dict[str, Any] = {
            "num_cpus": self._resources.cpus,
            "num_gpus": self._resources.gpus,
            "memory": self._resources.memory,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": variables},
        }
        actor_class = self._ray.remote(concurrency_groups={PROGRESS: 1})(StageActor).options(**options)
        return lambda number: actor_class.remote(call, number, Path.cwd())

    def _ask(self, method: Any, then: Callable[[Future[Any]], None]) -> None:
        """Note what happens when an actor has answered: `then` gets the answer, in the engine's thread."""
        method.future().add_done_callback(lambda answer: self._events.put(partial(then, answer)))

    def _start(self, number: int) -> None:
        actor = _Actor(number, self._make(number))
        self._actors[number] = actor
        self._ask(actor.handle.place.remote(), partial(self._started, actor))

    def _started(self, actor: _Actor, answer: Future[str]) -> None:
        """A node has started the actor, or could not."""
        error = answer.exception()
        if error is None:
            actor.place = answer.result()
            actor.idle_since = time.monotonic()
            self._failed_starts = 0
            log.info("worker started", extra={"fields": {"worker": actor.number, "place": actor.place}})
        elif self._actors.get(actor.number) is actor:
            self._drop(actor)
            self._failed_starts += 1
            log.warning("worker did not start", extra={"fields": {"worker": actor.number, "error": _brief(error)}})
            if self._failed_starts >= ATTEMPTS:
                self._failed_starts = 0
                self._give_up(
                    FatalError(
                        f"workers can't be started on the Ray cluster: {_brief(error)}. Install the same version of "
                        "rlip on all nodes; `rlip doctor` looks at each"
                    )
                )

    def _assign(self) -> None:
        """Give each idle actor an item."""
        for actor in self._actors.values():
            while self._waiting and actor.place is not None and actor.task is None:
                task = self._waiting.popleft()
                if task.attempts or task.future.set_running_or_notify_cancel():
                    task.attempts += 1
                    actor.task, actor.reported = task, None
                    self._ask(actor.handle.execute.remote(task.item), partial(self._ended, actor, task))

    def _grow(self) -> None:
        """Start actors for the items that wait. Ray's autoscaler adds nodes for those that find no room."""
        busy = sum(actor.task is not None for actor in self._actors.values())
        for number in range(self._most):
            if len(self._actors) >= min(self._most, busy + len(self._waiting)):
                break
            if number not in self._actors:
                self._start(number)

    def _ended(self, actor: _Actor, task: _Task, answer: Future[Record | PipelineError]) -> None:
        """An actor has answered, or died over its item."""
        if actor.task is not task:
            return  # the engine is stopping and has dropped it
        actor.task, actor.idle_since = None, time.monotonic()
        error = answer.exception()
        if error is not None:
            self._drop(actor)
            self._try_again(actor, task, error)
        elif isinstance(result := answer.result(), PipelineError):
            task.future.set_exception(result)
        else:
            task.future.set_result(result)

    def _try_again(self, actor: _Actor, task: _Task, error: BaseException) -> None:
        item, why = task.item, _brief(error)
        place = {"step": item.step, "partition": item.partition, "worker": actor.number, "place": actor.place}
        log.warning("worker died", extra={"fields": {**place, "attempt": task.attempts, "error": why}})
        if task.attempts < ATTEMPTS:
            self._waiting.appendleft(task)
            return
        message = (
            f"{item.step} {item.partition}: its worker died {ATTEMPTS} times (last on {actor.place}: {why}); check "
            "whether memory ran out there or the node was lost, then run again to resume"
        )
        task.future.set_exception(RetryableError(message))

    def _tick(self) -> None:
        """Ask for progress, let idle actors go, and notice when no node is left for the items that wait."""
        now = time.monotonic()
        for actor in list(self._actors.values()):
            if actor.task is not None and self._progress is not None and not actor.asked:
                actor.asked = True
                self._ask(self._progress_of(actor), partial(self._progressed, actor, actor.task))
            is_idle = actor.place is not None and actor.task is None and now - actor.idle_since > IDLE_SECONDS
            if is_idle and len(self._actors) > self._least:
                self._drop(actor)
        self._look_for_nodes(now)

    def _progress_of(self, actor: _Actor) -> Any:
        return actor.handle.progress.options(concurrency_group=PROGRESS).remote()

    def _progressed(self, actor: _Actor, task: _Task, answer: Future[tuple[int, int, str]]) -> None:
        actor.asked = False
        if answer.exception() is None and actor.task is task and self._progress is not None:
            done, total, note = answer.result()
            if total and (done, total, note) != actor.reported:
                actor.reported = (done, total, note)
                self._progress(task.item, done, total, note)

    def _look_for_nodes(self, now: float) -> None:
        """Give up when items wait, no actor runs, and for some time no live node could hold one."""
        is_running = any(actor.place is not None for actor in self._actors.values())
        if not self._waiting or is_running:
            self._without_node_since = None
            return
        try:
            room_for(live_nodes(self._ray), self._resources)
            self._without_node_since = None
        except FatalError as error:
            self._without_node_since = self._without_node_since or now
            if now - self._without_node_since > NO_NODE_SECONDS:
                self._give_up(RetryableError(str(error)))

    def _give_up(self, error: PipelineError) -> None:
        """Fail the items that wait."""
        while self._waiting:
            task = self._waiting.popleft()
            if task.attempts or task.future.set_running_or_notify_cancel():
                task.future.set_exception(error)

    def _drop(self, actor: _Actor) -> None:
        """Kill an actor, dead or alive, and forget it."""
        self._actors.pop(actor.number, None)
        self._ray.kill(actor.handle, no_restart=True)


def _brief(error: BaseException) -> str:
    """The last line of what Ray says, which has the reason, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else repr(error))[:300]
