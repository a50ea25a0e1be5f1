"""The session: what the flows of one run share in a process, so that nothing is planned twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from prefect.context import FlowRunContext

from flows.displays import FlowLogDisplay
from flows.liveness import alive
from pipeline.report.steps import StepOutcome
from pipeline.run.context import RunContext
from pipeline.run.planner import Planner
from pipeline.run.prepare import prepare
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.run.runner import logged_run


@dataclass
class Session:
    """A run under way: its planner, where people watch it, and the outcomes of its steps so far."""

    planner: Planner
    display: Display
    reports: bool
    """Whether the flow writes the report at the end; the `rlip` command does so itself."""
    steps: dict[str, StepOutcome] = field(default_factory=dict)

    @classmethod
    def begin(cls, context: RunContext, display: Display, *, reports: bool) -> Session:
        """Check what the recipe needs before any work. Raises `FatalError`."""
        prepare(context, display.drawing, display.reading)
        return cls(Planner(context), display, reports)


# Flows are called with the recipe alone, which is what Prefect stores and shows. The rest reaches them through here.
_current: ContextVar[Session | None] = ContextVar("session", default=None)


@contextmanager
def shared(session: Session) -> Iterator[Session]:
    """Let the flows called inside work in `session`."""
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)


@contextmanager
def session_of(recipe: Recipe) -> Iterator[Session]:
    """The session that is shared with this flow, or a new one that logs to the flow run. It is marked as alive meanwhile."""
    current = _current.get()
    with ExitStack() as stack:
        if current is None:
            context = RunContext(recipe)
            stack.enter_context(logged_run(context, "prefect deployment"))
            current = stack.enter_context(shared(Session.begin(context, FlowLogDisplay(), reports=True)))
        flow_context = FlowRunContext.get()
        run = flow_context.flow_run if flow_context is not None else None
        if run is not None and run.parent_task_run_id is None:
            stack.enter_context(alive(current.planner.context.store, run.id))
        yield current
