"""The session: the state that the flows of one run share in a process, so that nothing is planned twice."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger
from prefect.context import FlowRunContext

from flows.liveness import alive
from pipeline.captioning.settings import CaptionSettings
from pipeline.report.steps import StepOutcome
from pipeline.run.context import RunContext
from pipeline.run.metrics import measured
from pipeline.run.planner import Planner
from pipeline.run.prepare import prepare
from pipeline.run.progress import Display, Lines
from pipeline.run.recipe import Recipe
from pipeline.run.runner import logged_run
from storage.errors import FatalError
from storage.open_store import is_remote, local_folder, open_store

STORES = "RLIP_STORES"
"""Environment variable of a worker: folders and URLs (space-separated) that may contain stores. Unset: any place."""
LAVIS_PYTHON = "RLIP_LAVIS_PYTHON"
"""Environment variable of a worker naming the only interpreter besides the default that captioner `lavis` may start."""


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
def session_of(recipe: Recipe, stages: Collection[str] = ()) -> Iterator[Session]:
    """The session shared with this flow, or a new one that logs to the flow run and computes these stages. Holds the
    lock of a flow run that has its own process.

    Flow runs of deployments that work on the same run of the same store wait for each other; others run side by side.
    """
    current = _current.get()
    began = current is None
    with ExitStack() as stack:
        if current is None:
            require_allowed(recipe, os.environ)
            # Progress arrives on threads of the engine, outside the flow run, so its logger is looked up here.
            logger = get_run_logger()

            def report_wait(node: str) -> None:
                logger.info(
                    "another flow run, on %s, is working on run %r of %s; this one continues when it ends",
                    node, recipe.name, recipe.store,
                )  # fmt: skip

            # Before the run's own view of the store is opened, which must show what the other flow run committed.
            stack.enter_context(open_store(recipe.store).claim(f"run-{recipe.name}", report_wait))
            context = RunContext(recipe, stages)
            stack.enter_context(logged_run(context, "prefect deployment"))
            display = stack.enter_context(measured(recipe, Lines(logger.info)))
            current = stack.enter_context(shared(Session.begin(context, display, reports=True)))
        flow_context = FlowRunContext.get()
        run = flow_context.flow_run if flow_context is not None else None
        if run is not None and (began or run.parent_task_run_id is None):
            stack.enter_context(alive(current.planner.context.store, run.id))
        yield current


def require_allowed(recipe: Recipe, environment: Mapping[str, str]) -> None:
    """Raise `FatalError` for a recipe that names a store or interpreter that the worker's environment does not allow.

    The worker's environment decides what the parameters of a deployment may name on its machine.
    """
    python = recipe.caption.lavis_python
    default = CaptionSettings.model_fields["lavis_python"].default
    if str(python) not in (str(default), environment.get(LAVIS_PYTHON)):
        raise FatalError(
            f"caption.lavis_python = {python}: a deployment may start only {default} or what {LAVIS_PYTHON} names in "
            "its worker's environment"
        )
    allowed = environment.get(STORES, "").split()
    if allowed and not any(_is_within(recipe.store, place) for place in allowed):
        raise FatalError(
            f"store = {recipe.store}: this worker accepts only stores in {', '.join(allowed)}; name one there, or add "
            f"its location to {STORES} in the worker's environment"
        )


def _is_within(store: Path | str, place: str) -> bool:
    """Whether a store is at or below a place. Links are resolved."""
    if is_remote(store) or is_remote(place):
        below = str(store).removeprefix(place.rstrip("/"))
        return below != str(store) and below[:1] in ("", "/") and ".." not in below.split("/")
    return local_folder(store).resolve().is_relative_to(local_folder(place).resolve())
