"""Serves Prefect's pages on the database that temporary servers wrote; behind `rlip cluster server`."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

from flows.temporary_server import DATABASE, TemporaryServer, prefect_folder
from storage.errors import FatalError


def serve(store: str, port: int) -> None:
    """Serve the records of the runs that write to `store` until Ctrl-C. Prints the address of the last flow run.

    Raises `FatalError` when no run has written any, a newer Prefect did, or the port is taken.
    """
    home = prefect_folder(store)
    if not (home / DATABASE).is_file():
        raise FatalError(
            f"{home / DATABASE}: no such database yet; `rlip run` writes it, without --direct and without PREFECT_API_URL. "
            "Name the store whose runs you look for: --store"
        )
    _require_free(port)
    with TemporaryServer(home, os.environ, port) as server:
        pages = server.ready()
        print(f"Prefect: {pages}", flush=True)
        for name, run in _last_run(home / DATABASE):
            print(f"Last flow run, {name}: {pages}/runs/flow-run/{run}", flush=True)
        print("Ctrl-C ends the server.", flush=True)
        server.wait()


def _require_free(port: int) -> None:
    """Raise `FatalError` when another process listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise FatalError(f"--port {port}: {error.strerror}; choose another port, or 0 for any free one") from error


def _last_run(database: Path) -> list[tuple[str, str]]:
    """Name and id of the last top-level flow run, if there is one."""
    last = "select name, id from flow_run where parent_task_run_id is null order by created desc limit 1"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [(str(name), str(run)) for name, run in connection.execute(last)]
