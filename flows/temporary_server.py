"""A Prefect server for the length of one run: a process of its own on a free port, its records kept in a folder."""

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
"""Seconds that a server may take to answer: the first start in a folder also makes the database."""

SERVER_SETTINGS = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "2",
}
"""SQLite may be busy for longer than Prefect expects on a machine that is. And it refuses who would write after another
has: Prefect's client tries again two seconds later, so the states of tasks are written in batches and not one by one."""


class TemporaryServer:
    """Starts at once on construction; `ready` waits for it. A context manager that ends it.

    Prefect has a temporary server of its own; this one survives the Ctrl-C that its terminal also sends to it, so that
    the run's last states are recorded, and it ends with this process even when that is killed. It has the web pages.
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
                f"{self._home}: no folder for Prefect's records ({error.strerror}); set `store`"
            ) from error
        # Two servers that make one database at the same time break it: one starts after the other.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.address = f"http://127.0.0.1:{free_port()}"
        self._process = self._start()

    @property
    def api(self) -> str:
        """The API's URL."""
        return f"{self.address}/api"

    def ready(self) -> str:
        """Wait until the server answers; the address of its web pages. Raises `FatalError` with its last words."""
        until = time.monotonic() + HEALTHY_WITHIN
        while not answers(self.api, seconds=2):
            if self._process.poll() is not None or time.monotonic() > until:
                last = (self._home / "server.log").read_text(errors="replace")[-1500:].strip()
                raise FatalError(
                    f"Prefect's temporary server did not start at {self.address} (log: {self._home / 'server.log'}). "
                    f"Set PREFECT_API_URL to a server that runs, or leave Prefect out with --direct.\n{last}"
                )
            time.sleep(0.1)
        self._lock.close()
        return self.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the server."""
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
    """A TCP port of this machine that nothing listens on."""
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
        return error.code in (401, 403)  # it wants to know who asks: Prefect's client will tell
    except (OSError, ValueError):
        return False
