"""The command that serves Prefect's pages after a run."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.commands.options import STORE, StorePath
from pipeline.cli.errors import errors_reported


def server(
    store: StorePath = STORE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 0,
) -> None:
    """Serve Prefect's pages of the runs that were recorded beside a store, on this machine only."""
    from importlib.metadata import entry_points

    with errors_reported():
        # Found by entry point, so that the pipeline does not depend on Prefect.
        (entry,) = entry_points(group="rlip.servers", name="prefect")
        entry.load()(store, port)
