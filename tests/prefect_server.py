"""A real Prefect server and worker for tests, used as documented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from prefect.workers.process import ProcessWorker

from flows.server import answers, free_port

Found = TypeVar("Found")
PROCESS_POOL: dict[str, Any] = {
    "type": "process", "base_job_template": ProcessWorker.get_default_base_job_template(),
}  # fmt: skip
"""A work pool as `prefect work-pool create --type process` makes it, less its name. Each command takes seconds to start."""


@dataclass
class PrefectServer:
    """The API URL of a server, the environment of its clients, and its process once it was started here."""

    api: str
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str, cwd: Path) -> str:
        """Run a `prefect` command to its end and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            env=dict(self.environment), cwd=cwd, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *words: str, cwd: Path) -> subprocess.Popen[bytes]:
        """Start a `prefect` command in the background."""
        log = (cwd / f"{words[0]}.log").open("wb")
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            env=dict(self.environment), cwd=cwd, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @classmethod
    @contextmanager
    def running(cls, home: Path, **settings: str) -> Iterator[PrefectServer]:
        """A server on a free port with its records in `home`, and further settings for it and its clients."""
        api = f"http://127.0.0.1:{free_port()}/api"
        server = cls(api, client_environment(home, PREFECT_API_URL=api, **settings))
        try:
            server.serve()
            yield server
        finally:
            server.stop()

    def serve(self) -> None:
        """Start the server at its URL, on the records that it has, and wait until it answers."""
        address = urlsplit(self.api)
        self.process = self.start(
            "server", "start", "--host", str(address.hostname), "--port", str(address.port), "--no-ui",
            cwd=Path(self.environment["PREFECT_HOME"]),
        )  # fmt: skip
        wait_for(lambda: answers(self.api, 2) or None, 120, f"no server at {self.api}")

    def stop(self) -> None:
        """Stop the server that was started here."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=20)

    @contextmanager
    def worker(self, pool: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A process worker of a pool, started in the folder `cwd`."""
        cwd.mkdir(exist_ok=True)
        process = self.start("worker", "start", "--pool", pool, "--type", "process", cwd=cwd)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=40)

    def post(self, path: str, **body: Any) -> Any:
        """Send a POST request and return the answer."""
        return self._answer("POST", path, json=body)

    def get(self, path: str) -> Any:
        """Send a GET request and return the answer."""
        return self._answer("GET", path)

    def _answer(self, method: str, path: str, **more: Any) -> Any:
        """Retries while the server answers 503 because its SQLite is busy, as the Prefect client does."""

        def asked() -> httpx.Response | None:
            answer = httpx.request(method, f"{self.api}/{path}", timeout=60, **more)
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        answer = wait_for(asked, 60, f"{method} {path}: the server stays too busy")
        answer.raise_for_status()
        return answer.json()

    def submit(self, deployment: str, recipe: Mapping[str, Any]) -> str:
        """Request a run of a deployment and return its id."""
        found = self.get(f"deployments/name/{deployment}")
        run = self.post(f"deployments/{found['id']}/create_flow_run", parameters={"recipe": recipe})
        return str(run["id"])

    def final_state(self, run: str, seconds: float) -> dict[str, Any]:
        """Wait for the final state of a flow run."""

        def ended() -> dict[str, Any] | None:
            state = self.get(f"flow_runs/{run}")["state"]
            return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return wait_for(ended, seconds, f"flow run {run} did not end")

    def task_states(self, run: str) -> dict[str, str]:
        """Task run → name of its state, for a flow run and its direct subflows."""
        below = self.post("flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run]}})
        ids = [run, *(flow["id"] for flow in below)]
        tasks = self.post("task_runs/filter", flow_runs={"id": {"any_": ids}}, limit=200)
        return {task["name"]: task["state_name"] for task in tasks if task["state"] is not None}

    def logs(self, run: str) -> str:
        """The log of a flow run."""
        entries = self.post("logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200)
        return "\n".join(entry["message"] for entry in entries)


def client_environment(home: Path, **more: str) -> dict[str, str]:
    """An environment for Prefect processes without the Prefect settings of this user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    ours = {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    patient = {"PREFECT_SERVER_DATABASE_TIMEOUT": "60", "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60"}
    return kept | ours | patient | {"OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "2"} | more


def wait_for(look: Callable[[], Found | None], seconds: float, complaint: str) -> Found:
    """Call `look` until it returns something. Fails with `complaint` after `seconds`."""
    until = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < until, complaint
        time.sleep(0.3)
    return found


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe as plain JSON values, as in the parameters of a deployment."""
    return dict(json.loads(recipe.model_dump_json()))
