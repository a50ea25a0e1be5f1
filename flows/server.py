"""Prefect servers that keep records next to a store: a temporary one per run, and that of `rlip cluster server`."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Self

from pipeline.runtime.processes import die_with_parent
from storage.disk import lock_file
from storage.errors import FatalError
from storage.open_store import local_folder

DATABASE = "prefect.db"
"""Name of the database in the folder of the records."""

HEALTHY_WITHIN = 120.0
"""Seconds that a server may take to answer. Its first start in a folder also creates the database."""

SERVER_SETTINGS = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "2",
}
"""On a loaded machine, SQLite may stay locked for longer than Prefect expects. It also refuses the second of two
writers, and Prefect's client waits two seconds before it tries again, so task states are written in batches."""


class TemporaryServer:
    """A separate process started on construction, on any free port unless one is given. Leaving the context stops it.

    Unlike Prefect's own temporary server, this one survives a Ctrl-C in the terminal, so that the last states of the
    run are recorded; it ends with this process even if it is killed; and it serves web pages.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], port: int = 0) -> None:
        self._home = home.absolute()
        self._environment = {**environment, **SERVER_SETTINGS, "PREFECT_HOME": str(self._home)}
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(self._home / "starting.lock")
            self._log = (self._home / "server.log").open("w")
            # Two servers that create the same database at the same time corrupt it, so they start one after the other.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise FatalError(
                f"{self._home}: can't keep Prefect's records ({error.strerror}); set PREFECT_HOME to another folder"
            ) from error
        self.address = f"http://127.0.0.1:{port or free_port()}"
        self._process = self._start()

    @property
    def api(self) -> str:
        """URL of the API."""
        return f"{self.address}/api"

    def ready(self) -> str:
        """Wait until the server answers and return the address of its web pages. Raises `FatalError` if it doesn't."""
        until = time.monotonic() + HEALTHY_WITHIN
        while not answers(self.api, seconds=2):
            if self._process.poll() is not None or time.monotonic() > until:
                log = (self._home / "server.log").read_text(errors="replace")
                if unknown := re.search(r"Can't locate revision identified by '(\w+)'", log):
                    raise FatalError(
                        f"{self._home / DATABASE}: a newer Prefect wrote this database (revision {unknown[1]}) than "
                        f"the installed {importlib.metadata.version('prefect')}; install the newer one, or move the "
                        "database away: the store does not need it, and Prefect creates a new one"
                    )
                raise FatalError(
                    f"Prefect's temporary server did not start at {self.address} (log: {self._home / 'server.log'}). "
                    "Set PREFECT_API_URL to a running server, or run without Prefect with --direct.\n"
                    f"{log[-1500:].strip()}"
                )
            time.sleep(0.1)
        self._lock.close()
        return self.address

    def wait(self) -> None:
        """Wait until the server ends by itself, then raise `FatalError`."""
        code = self._process.wait()
        raise FatalError(f"Prefect's server ended with exit code {code} (log: {self._home / 'server.log'})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        # By default, any page that is open in a browser on this machine may read from the server and write to it.
        protection = {
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{self.address},http://localhost:{port}",
            # Browsers send a POST without Content-Type without a preflight request. Another site's page has no token.
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        }
        parent = os.getpid()
        return subprocess.Popen(
            [*command, "--no-scheduler", "--no-late-runs", "--analytics-off"],
            env={**self._environment, **protection},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),
        )


def serve(store: str, port: int) -> None:
    """Show the records of the runs that write to `store` until Ctrl-C, and print the address of the last flow run.

    Raises `FatalError` when there are no records, a newer Prefect wrote them, or the port is taken.
    """
    home = prefect_folder(store)
    if not (home / DATABASE).is_file():
        raise FatalError(
            f"{home / DATABASE}: no such database yet; `rlip run` writes it, without --direct and without "
            "PREFECT_API_URL. Name the store of your runs with --store"
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
        # As servers do: a port whose connections have only just ended counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise FatalError(f"--port {port}: {error.strerror}; choose another port, or 0 for any free one") from error


def _last_run(database: Path) -> list[tuple[str, str]]:
    """Name and id of the last top-level flow run, if there is one."""
    last = "select name, id from flow_run where parent_task_run_id is null order by created desc limit 1"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return [(str(name), str(run)) for name, run in connection.execute(last)]


def prefect_folder(store: str) -> Path:
    """The folder of the temporary servers' records: PREFECT_HOME, or `prefect` next to the store."""
    return Path(os.environ.get("PREFECT_HOME", local_folder(store).absolute().parent / "prefect")).absolute()


def free_port() -> int:
    """A TCP port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(api: str, seconds: float) -> bool:
    """Whether a Prefect server of this machine, which no proxy reaches, answers at this URL."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{api.rstrip('/')}/health", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it asks for the credentials that Prefect's client sends
    except (OSError, ValueError):
        return False
