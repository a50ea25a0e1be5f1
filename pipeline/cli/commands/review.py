"""The command that serves the reviewers' page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import STORE, RunName, StorePath
from pipeline.cli.errors import errors_reported


def review(
    run_name: RunName,
    against: Annotated[
        str | None, typer.Option("--against", metavar="RUN", help="Another run to compare with.")
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", help="Your name in the log of verdicts; unset: this machine's user.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 0,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A name by which browsers reach the server, e.g. gpu7.lab:8765. Can be repeated."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="File with the password; unset: RLIP_REVIEW_PASSWORD.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, take no verdicts.")] = False,
    verdicts: Annotated[
        Path | None, typer.Option("--verdicts", help="Folder of the verdicts; unset: `verdicts` in the store.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images", metavar="SET=FOLDER", help="Where a dataset's images lie on this machine. Can be repeated."
        ),
    ] = None,
    store: StorePath = STORE,
) -> None:
    """Serve a page on which a person looks through the labels of a run and judges them, also while the run is going."""
    from pipeline.cli.review import ReviewOptions, serve_review

    options = ReviewOptions(
        against=against,
        reviewer=reviewer,
        host=host,
        port=port,
        names=name or (),
        password_file=password_file,
        read_only=read_only,
        verdicts=verdicts,
        images=images or (),
    )
    with errors_reported():
        serve_review(store, run_name, options)
