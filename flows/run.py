"""Runs a recipe with Prefect; the default runner of `rlip run`."""

from __future__ import annotations

import sys
from asyncio import get_running_loop
from contextlib import suppress
from typing import cast

from flows.connection import connected
from flows.server import prefect_folder
from pipeline.report.steps import RunOutcome
from pipeline.run.context import RunContext
from pipeline.run.progress import Display
from storage.errors import FatalError


def run(context: RunContext, display: Display) -> RunOutcome:
    """Run a recipe in the flow `end_to_end`, with the same steps, store and bytes as `pipeline.run.runner.run`.

    Uses the configured Prefect server, or else a temporary one that keeps its records in the folder `prefect` beside
    the store. Raises `PipelineError`, and `FatalError` when no server answers and inside an event loop.
    """
    with suppress(RuntimeError):
        get_running_loop()  # in which Prefect returns coroutines
        raise FatalError('runner = "prefect": does not work inside an event loop, as in a notebook; use "direct"')
    display.busy("starting Prefect")
    with connected(prefect_folder(context.recipe.store)) as ready:
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.chain import end_to_end
        from flows.session import Session, shared

        session = Session.begin(context, display, reports=False)
        sys.stderr.write(f"Follow this run in Prefect at {ready()}\n")
        # Heartbeats detect dead workers, which do not exist here, and make each flow run wait a second for a thread.
        with shared(session), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return cast(RunOutcome, end_to_end(context.recipe, return_state=True).result())
