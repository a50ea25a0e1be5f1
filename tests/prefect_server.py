"""A real Prefect server and worker for tests, used as documented."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
from prefect import cli
from prefect.client.orchestration import SyncPrefectClient
from prefect.workers.process import ProcessWorker
from warm_process import wait_for

from flows.connection import reread_settings
from flows.server import answers, free_port

PROCESS_POOL: dict[str, Any] = {
    "type": "process", "base_job_template": ProcessWorker.get_default_base_job_template(),
}  # fmt: skip
"""A work pool as `prefect work-pool create --type process` makes it, less its name."""


@dataclass
class PrefectServer:
    """The API URL of a server, the environment of its clients, and its process once it was started here."""

    api: str
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str, cwd: Path, **variables: str) -> None:
        """Call a `prefect` command in this process: in one of its own, it would first import for seconds."""
        with (
            chdir(cwd),
            mock.patch.dict(os.environ, {**self.environment, **variables}),
            mock.patch.object(sys, "argv", ["prefect", "--no-prompt", *words]),
            pytest.raises(SystemExit) as ended,
        ):
            reread_settings()
            cli.app()
        reread_settings()
        assert ended.value.code == 0

    def start(self, *words: str, cwd: Path) -> subprocess.Popen[bytes]:
        """Start a `prefect` command in the background."""
        log = (cwd / f"{words[0]}.log").open("wb")
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            env=dict(self.environment), cwd=cwd, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @classmethod
    @contextmanager
    def running(cls, home: Path, **settings: str) -> Iterator["PrefectServer"]:
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

        def is_ready() -> bool | None:
            assert self.process is not None and self.process.poll() is None, "the server ended"
            return answers(self.api, 2) or None

        wait_for(is_ready, f"no server at {self.api}")

    def stop(self) -> None:
        """Stop the server that was started here."""
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

    @cached_property
    def client(self) -> SyncPrefectClient:
        """A client of this server. It retries while the server answers 503 because its SQLite is busy."""
        return SyncPrefectClient(self.api, auth_string=self.environment.get("PREFECT_API_AUTH_STRING"))

    def post(self, path: str, **body: Any) -> Any:
        """Send a POST request and return the answer."""
        return self.client.request("POST", f"/{path}", json=body).json()

    def get(self, path: str) -> Any:
        """Send a GET request and return the answer."""
        return self.client.request("GET", f"/{path}").json()

    def submit(self, deployment: str, recipe: Mapping[str, Any]) -> str:
        """Request a run of a deployment and return its id."""
        found = self.get(f"deployments/name/{deployment}")
        run = self.post(f"deployments/{found['id']}/create_flow_run", parameters={"recipe": recipe})
        return str(run["id"])

    def final_state(self, run: str, seconds: float) -> dict[str, Any]:
        """Wait for the final state of a flow run."""
        final = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}

        def has_ended() -> bool | None:  # a run itself comes with its whole recipe
            return self.post("flow_runs/count", flow_runs={"id": {"any_": [run]}, "state": final}) == 1 or None

        wait_for(has_ended, f"flow run {run} did not end", seconds=seconds)
        return self.get(f"flow_runs/{run}")["state"]

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
    return kept | ours | patient | {"OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"} | more


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe as plain JSON values, as in the parameters of a deployment."""
    return dict(json.loads(recipe.model_dump_json()))
