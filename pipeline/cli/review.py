"""`rlip review`: serves the page for judging the labels of a run."""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.options import STORE, RunName, StorePath, VerdictsFolder
from pipeline.cli.report import recorded_view
from pipeline.data.images.folders import UprightRoot
from pipeline.labels.team import LABELS, Team, read_team
from pipeline.labels.verdict_log import verdicts_folder
from pipeline.labels.verdicts import require_reviewer
from pipeline.report.view import RunView
from pipeline.run.dag import build_steps
from pipeline.run.recipe_files import recorded_recipe
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.runs import Run, find_run


def review(
    run_name: RunName,
    against: Annotated[
        str | None, typer.Option("--against", metavar="RUN", help="Another run to compare with.")
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", help="Your name in the log of verdicts; unset: your user name.")
    ] = None,
    reviewers: Annotated[
        str | None,
        typer.Option(metavar="N|NAMES", help="A team that shares the images: its size, or names separated by commas."),
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share of the images judged by two team members; unset: as before, or 10%."),
    ] = None,
    labels: Annotated[
        int | None,
        typer.Option(min=1, help=f"Number of audit labels for the team to judge; unset: as before, or {LABELS}."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines can reach needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 0,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="HOST", help="The server's host name for browsers, e.g. gpu7.lab:8765. Can be repeated."
        ),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="File with the password; unset: RLIP_REVIEW_PASSWORD.")
    ] = None,
    user_header: Annotated[
        str,
        typer.Option(metavar="HEADER", help="Header in which your proxy names the reviewer, e.g. X-Forwarded-User."),
    ] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, but accept no verdicts.")] = False,
    verdicts_at: VerdictsFolder = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images", metavar="SET=FOLDER", help="Where a dataset's images are on this machine. Can be repeated."
        ),
    ] = None,
    store_at: StorePath = STORE,
) -> None:
    """Serve a page for browsing and judging the labels of a run, even while it executes.

    Print the link that opens the page, and serve until Ctrl-C.
    """
    import uvicorn

    from pipeline.review.access import Access, kept_secret, protected, server_settings
    from pipeline.review.app import page_routes
    from pipeline.review.review_state import ReviewState

    store = existing_store(store_at)
    run = find_run(store, run_name)
    view = partial(_view_of, run, _folders_of(run, images or ()))
    recipe = recorded_recipe(run)
    other = None if against is None else partial(recorded_view, find_run(store, against))
    verdicts = verdicts_at or verdicts_folder(store_at)
    password = read_password(os.environ, password_file)
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    index = store.root / "indexes" / "review" / f"{run.name}.duckdb"
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    access = Access(
        names=names or (address,),
        secret=kept_secret(index.with_suffix(".secret")),
        reviewer=reviewer or _user(),
        password=password,
        user_header=user_header,
        signed_out=index.with_suffix(".ended"),
        read_only=read_only,
    )
    access.require_password_beyond_loopback(host)
    if reviewers is None and (overlap or labels):
        raise FatalError("--overlap and --labels describe a team; name it with --reviewers")
    if reviewers is not None and access.reviewer:
        raise FatalError("--reviewers: a link gives everyone the same name; set a password, or use --user-header")
    team = None if reviewers is None else team_of(reviewers, overlap, labels, read_team(verdicts))
    console = Console(stderr=True, markup=False)
    with console.status("Indexing the run") as status:
        state = ReviewState(
            view,
            index,
            verdicts,
            other,
            read_only=read_only,
            team=team,
            planned={} if recipe is None else {step.name: step.needs for step in build_steps(recipe)},
            progress=lambda done, total: status.update(f"Indexing the run: {done:,} of {total:,} partitions"),
        )
    try:
        # Errors of pages go to the package's log, which is invisible without a handler.
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        state.watch()
        app = protected(page_routes(state, signed_in=password is not None), access)
        server = uvicorn.Server(server_settings(app, host, port))
        print(f"Review {run_name}: {access.url}\nVerdicts: {verdicts}\nPress Ctrl-C to stop the server.", flush=True)
        server.run(sockets=[listener])
    finally:
        state.close()
        listener.close()


def read_password(environment: Mapping[str, str], file: Path | None) -> str | None:
    """The password: the first line of `file` if one is named, else RLIP_REVIEW_PASSWORD, else None.

    Raises `FatalError` if the file can't be read.
    """
    from pipeline.review.access import VARIABLE

    if file is None:
        return environment.get(VARIABLE)
    try:
        return (file.read_text(encoding="utf-8").splitlines() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(
            f"--password-file {file}: {error}; name a UTF-8 file whose first line is the password"
        ) from error


def team_of(reviewers: str, overlap: str | None, labels: int | None, earlier: Team | None) -> Team:
    """The team that options describe. None keeps an earlier team's value; a number without names keeps its members.

    Raises `FatalError`.
    """
    listed = [] if reviewers.isdecimal() else filter(None, map(str.strip, reviewers.split(",")))
    names = list(dict.fromkeys(map(require_reviewer, listed)))
    if not (names or reviewers.isdecimal()):
        raise FatalError(f"--reviewers {reviewers!r}: write their names, or how many they are")
    size = len(names) or int(reviewers)
    before = earlier or Team(overlap=0.1)
    # Seats decide who judges which images: members who stay keep theirs, and others take those of members who left.
    seated = before.members[:size]
    others = [name for name in names if name not in seated]
    seats = [name if name in names or not names else others.pop(0) for name in seated]
    try:
        share = before.overlap if overlap is None else float(overlap.removesuffix("%")) / (100 if "%" in overlap else 1)
    except ValueError:
        raise FatalError(f"--overlap {overlap}: write a share of the images, e.g. 10%") from None
    return Team(size=size, overlap=share, labels=labels or before.labels, members=(*seats, *others))


def _listen(host: str, port: int) -> socket.socket:
    """A socket that already listens, so that browsers that open the printed link wait instead of being refused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise FatalError(
            f"--host {host} --port {port}: {error.strerror or error}; name an address of this machine and a free port"
        ) from error
    return listener


def _user() -> str:
    """The user name, reduced to characters of reviewers' names; "reviewer" if this machine knows none."""
    try:
        name = re.sub(r"[^A-Za-z0-9._@-]", "", getpass.getuser()).lstrip("._-")
    except (KeyError, OSError):
        name = ""
    return name[:64] or "reviewer"


def _folders_of(run: Run, places: Sequence[str]) -> dict[str, str]:
    """Dataset → folder, by `--images`. Raises `FatalError` for a dataset that the run does not label."""
    known, folders = recorded_view(run).label_sets, {}
    for each in places:
        name, _, folder = each.partition("=")
        if not folder or (known and name not in known):
            raise FatalError(f"--images {each}: write SET=FOLDER with one of {', '.join(known)}")
        folders[name] = folder
    return folders


def _view_of(run: Run, folders: Mapping[str, str]) -> RunView:
    """The run with other image folders, as its last execution left it."""
    view = recorded_view(run)
    roots = {
        name: UprightRoot(folder) if isinstance(view.image_folders.get(name), UprightRoot) else folder
        for name, folder in folders.items()
    }
    return replace(view, image_folders={**view.image_folders, **roots})
