"""A Prefect server for the duration of one run: a separate process on a free port that keeps its records in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pipeline.runtime.processes import die_with_parent
from storage.errors import FatalError

HEALTHY_WITHIN = 120.0
"""Seconds that a server may take to answer. The first start in a folder also creates the database."""

SERVER_SETTINGS = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "2",
}
"""On a busy machine SQLite may be busy for longer than Prefect expects. It also refuses a writer that comes second, and
Prefect's client retries only two seconds later, so task states are written in batches instead of one by one."""


class TemporaryServer:
    """Starts on construction; `ready` waits until it answers. Leaving the context stops it.

    Prefect has a temporary server of its own. This one survives a Ctrl-C in the terminal, so that the last states of the
    run are recorded, ends with this process even if the process is killed, and serves the web pages.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self._home = home.absolute()
        self._environment = {**environment, **SERVER_SETTINGS, "PREFECT_HOME": str(self._home)}
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            self._lock = (self._home / "starting.lock").open("w")
            self._log = (self._home / "server.log").open("w")
        except OSError as error:
            raise FatalError(
                f"{self._home}: can't keep Prefect's records there ({error.strerror}); change `store`"
            ) from error
        # Two servers that create one database at the same time break it, so they start one after the other.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.address = f"http://127.0.0.1:{free_port()}"
        self._process = self._start()

    @property
    def api(self) -> str:
        """URL of the API."""
        return f"{self.address}/api"

    def ready(self) -> str:
        """Wait until the server answers, and return the address of its web pages. Raises `FatalError` with the end of its log."""
        until = time.monotonic() + HEALTHY_WITHIN
        while not answers(self.api, seconds=2):
            if self._process.poll() is not None or time.monotonic() > until:
                last = (self._home / "server.log").read_text(errors="replace")[-1500:].strip()
                raise FatalError(
                    f"Prefect's temporary server did not start at {self.address} (log: {self._home / 'server.log'}). "
                    f"Set PREFECT_API_URL to a running server, or run without Prefect with --direct.\n{last}"
                )
            time.sleep(0.1)
        self._lock.close()
        return self.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the server."""
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
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        parent = os.getpid()
        return subprocess.Popen(
            [*command, "--no-scheduler", "--no-late-runs", "--analytics-off"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),
        )


def free_port() -> int:
    """A TCP port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(api: str, seconds: float) -> bool:
    """Whether a Prefect server answers at this URL."""
    try:
        with urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it asks for credentials, which Prefect's client will send
    except (OSError, ValueError):
        return False
