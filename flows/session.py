"""The session: the state that the flows of one run share in a process, so that nothing is planned twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from prefect import get_run_logger
from prefect.context import FlowRunContext

from flows.allowed import require_allowed
from flows.liveness import alive
from pipeline.report.steps import StepOutcome
from pipeline.run.context import RunContext
from pipeline.run.metrics import measured
from pipeline.run.planner import Planner
from pipeline.run.prepare import prepare
from pipeline.run.progress import Display, Lines
from pipeline.run.recipe import Recipe
from pipeline.run.runner import logged_run
from storage.open_store import open_store


@dataclass
class Session:
    """A run in progress: its planner, its display, and the outcomes of its steps so far."""

    planner: Planner
    display: Display
    reports: bool
    """Whether the flow writes the report at the end; the `rlip` command writes its own."""
    steps: dict[str, StepOutcome] = field(default_factory=dict)

    @classmethod
    def begin(cls, context: RunContext, display: Display, *, reports: bool) -> Session:
        """Prepare the run and start a session. Raises `FatalError` before any work if something is missing."""
        prepare(context, display)
        return cls(Planner(context), display, reports)


# Prefect stores and shows the arguments of a flow, so flows take the recipe alone. The session reaches them this way.
_current: ContextVar[Session | None] = ContextVar("session", default=None)


@contextmanager
def shared(session: Session) -> Iterator[Session]:
    """Make the flows called in this context use `session`."""
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)


@contextmanager
def session_of(recipe: Recipe) -> Iterator[Session]:
    """The session shared with this flow, or a new one that logs to the flow run. Holds the lock of a top-level flow run.

    Flow runs of deployments that work on the same run of the same store wait for each other; all others go on side by side.
    """
    current = _current.get()
    with ExitStack() as stack:
        if current is None:
            require_allowed(recipe, os.environ)
            # Progress arrives on threads of the engine, outside the flow run, so its logger is looked up here.
            logger = get_run_logger()

            def waits(host: str) -> None:
                logger.info(
                    "another flow run, on %s, works on run %r of %s; this one goes on when that has ended",
                    host, recipe.name, recipe.store,
                )  # fmt: skip

            # Before the run's own view of the store is opened, which is to show what the other flow run made.
            stack.enter_context(open_store(recipe.store).claim(f"run-{recipe.name}", waits))
            context = RunContext(recipe)
            stack.enter_context(logged_run(context, "prefect deployment"))
            display = stack.enter_context(measured(recipe, Lines(logger.info)))
            current = stack.enter_context(shared(Session.begin(context, display, reports=True)))
        flow_context = FlowRunContext.get()
        run = flow_context.flow_run if flow_context is not None else None
        if run is not None and run.parent_task_run_id is None:
            stack.enter_context(alive(current.planner.context.store, run.id))
        yield current
