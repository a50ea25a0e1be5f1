"""The session: what the flows of one run share in a process, so that nothing is planned twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from prefect.context import FlowRunContext

from flows.alive import alive
from flows.run_log import RunLog
from pipeline.report.steps import StepOutcome
from pipeline.run.planner import Chain
from pipeline.run.prepare import prepare
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe


@dataclass
class Session:
    """A chain under way: where people watch it, and what its steps came to so far."""

    chain: Chain
    display: Display
    reports: bool
    """Whether the flow writes the report at the end; the `rlip` command does so itself."""
    steps: dict[str, StepOutcome] = field(default_factory=dict)

    @classmethod
    def begin(cls, recipe: Recipe, display: Display, *, reports: bool) -> Session:
        """Check what the recipe needs and open its store. Raises `Terminal` before any work."""
        prepare(recipe, display.drawing, display.reading)
        return cls(Chain(recipe), display, reports)


# Flows are called with the recipe alone, which is what Prefect stores and shows; the rest reaches them through here.
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
    """The session that is shared with this flow, or a new one that logs to the flow run; marked as alive meanwhile."""
    current = _current.get()
    with ExitStack() as stack:
        if current is None:
            current = stack.enter_context(shared(Session.begin(recipe, RunLog(), reports=True)))
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None and context.flow_run.parent_task_run_id is None:
            stack.enter_context(alive(current.chain.store, context.flow_run.id))
        yield current
