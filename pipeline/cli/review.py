"""`rlip review`: serves the page on which a person judges the labels of a run."""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from pipeline.cli.report import last_recipe, recorded_view
from pipeline.data.images.folders import UprightRoot
from pipeline.labels.verdict_log import verdicts_folder
from pipeline.report.view import RunView
from pipeline.run.dag import build_steps
from storage.errors import FatalError
from storage.open_store import Address, existing_store
from storage.runs import find_run


@dataclass(frozen=True, kw_only=True)
class ReviewOptions:
    """What the command line says."""

    against: str | None = None
    """Another run to compare with."""
    reviewer: str | None = None
    """Name of who opens the link; None: that of the user of this machine."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    names: Sequence[str] = ()
    """Names under which browsers reach the server, for any host but this machine."""
    password_file: Path | None = None
    read_only: bool = False
    verdicts: Path | None = None
    """Folder of verdicts; None: `verdicts` in the store."""
    images: Sequence[str] = ()
    """SET=FOLDER where images lie elsewhere than the recipe says."""


def serve_review(root: Address, run_name: str, options: ReviewOptions) -> None:
    """Serve the page until Ctrl-C. Prints the link that opens it."""
    import uvicorn

    from pipeline.review.access import Access, kept_secret, read_password
    from pipeline.review.app import page_routes
    from pipeline.review.entrance import protected, server_settings
    from pipeline.review.review_state import ReviewState

    store = existing_store(root)
    run = find_run(store, run_name)
    view = _with_images(recorded_view(run), options.images)
    recipe = last_recipe(run)
    against = None if options.against is None else recorded_view(find_run(store, options.against))
    verdicts = options.verdicts or verdicts_folder(root)
    password = read_password(os.environ, options.password_file)
    listener = _listen(options.host, options.port)
    port = listener.getsockname()[1]
    index = store.root / "indexes" / "review" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', run_name)}.duckdb"
    host = f"[{options.host}]" if ":" in options.host else options.host
    access = Access(
        names=options.names or (f"{host}:{port}",),
        secret=kept_secret(index.with_suffix(".secret")),
        reviewer=options.reviewer or _user(),
        password=password,
        read_only=options.read_only,
    )
    access.require_password_beyond_loopback(options.host)
    console = Console(stderr=True)
    with console.status("Indexing the run") as status:
        state = ReviewState(
            view,
            index,
            verdicts,
            against,
            planned={} if recipe is None else {step.name: step.needs for step in build_steps(recipe)},
            progress=lambda done, total: status.update(f"Indexing the run: {done:,} of {total:,} partitions"),
        )
    try:
        # Errors of pages go to the package's log; without a handler nobody would see them.
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        state.watch()
        app = protected(page_routes(state, access.read_only, signed_in=password is not None), access)
        server = uvicorn.Server(server_settings(app, options.host, port))
        print(f"Review {run_name}: {access.url}\nVerdicts: {verdicts}\nCtrl-C ends the server.", flush=True)
        server.run(sockets=[listener])
    finally:
        state.close()
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address, so that who follows the printed link waits for the page and isn't refused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise FatalError(
            f"--host {host} --port {port}: {error.strerror or error}; choose another port, or 0"
        ) from error
    return listener


def _user() -> str:
    """The user's name with what reviewers' names may hold; "reviewer" where this machine knows none."""
    try:
        name = re.sub(r"[^A-Za-z0-9._@-]", "", getpass.getuser()).lstrip("._-")
    except (KeyError, OSError):
        name = ""
    return name[:64] or "reviewer"


def _with_images(view: RunView, given: Sequence[str]) -> RunView:
    """The view with other folders of images. Raises `FatalError` for a set that the run does not label."""
    folders = dict(view.image_folders)
    for each in given:
        name, _, folder = each.partition("=")
        if not folder or (view.label_sets and name not in view.label_sets):
            raise FatalError(f"--images {each}: write SET=FOLDER with one of {', '.join(view.label_sets)}")
        folders[name] = UprightRoot(folder) if isinstance(folders.get(name), UprightRoot) else folder
    return replace(view, image_folders=folders)
