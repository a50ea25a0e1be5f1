"""Commands that look after a store: check, measure and clean it."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.commands.options import STORE, AsJson, RunName, StorePath
from pipeline.cli.errors import errors_reported


def verify(
    run_name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Check only this run's artifacts.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is damaged; the next run rebuilds it.")] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Read artifacts, records and caches again; report what is damaged and which runs need it; exit with 1 if damage remains."""
    from pipeline.cli.maintenance import verify

    with errors_reported():
        verify(store, run_name, repair, as_json)


def gc(
    grace: Annotated[float, typer.Option(min=0, help="Keep what a run made or used within this many days.")] = 14.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the garbage; without this, only list it.")] = False,
    newest: Annotated[
        bool, typer.Option("--newest", help="Spare only what the newest state of each run needs.")
    ] = False,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """List the artifacts and abandoned scratch folders that no run refers to, or delete them."""
    from pipeline.cli.maintenance import collect_garbage

    with errors_reported():
        collect_garbage(store, grace, delete, as_json, newest)


def du(store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Show how many bytes each stage and each run takes."""
    from pipeline.cli.maintenance import show_usage

    with errors_reported():
        show_usage(store, as_json)


def rm(run_name: RunName, store: StorePath = STORE, as_json: AsJson = False) -> None:
    """Remove a run from the store; its artifacts stay until `rlip gc --delete`."""
    from pipeline.cli.maintenance import remove_run

    with errors_reported():
        remove_run(store, run_name, as_json)
