"""A Prefect server whose records lie in PostgreSQL runs a deployment by a worker, and a dump of it can be restored."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prefect_server import PROCESS_POOL, PrefectServer

from flows.server import free_port

TINY = """
from prefect import flow

@flow
def tiny(number: int) -> int:
    return number + 1
"""


class Postgres:
    """A PostgreSQL server in a folder. It refuses to run as root, so a process of root runs it as user `nobody`."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self._data, self.port = binaries, folder / "data", free_port()
        self._user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._data.mkdir(mode=0o700)
        folder.chmod(0o711)
        shutil.chown(self._data, self._user)
        self.command("initdb", "-D", str(self._data), "-U", "prefect", "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self.command("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def url(self, database: str, driver: str = "postgresql+asyncpg") -> str:
        """The URL of a database."""
        return f"{driver}://prefect@127.0.0.1:{self.port}/{database}"

    def command(self, name: str, *words: str) -> str:
        """Run a program of PostgreSQL to its end and return its output."""
        user, output = self._user if os.geteuid() == 0 else None, self._data.parent / "output"
        # A file, because the server keeps what it is started with open.
        with output.open("w") as file:
            done = subprocess.run(
                [self._binaries / name, *words], cwd=self._data, user=user, stdout=file, stderr=subprocess.STDOUT
            )
        log = self._data / "log"
        assert done.returncode == 0, f"{output.read_text()}\n{log.read_text() if log.exists() else ''}"
        return output.read_text()

    def stop(self) -> None:
        """End the server."""
        self.command("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server on loopback with an empty database `prefect`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL here (make services)")
    # Each start of pytest closes its own folder of temporary files to other users.
    with TemporaryDirectory() as folder:
        server = Postgres(found[-1].parent, Path(folder))
        server.command("createdb", "prefect", "-h", "127.0.0.1", "-p", str(server.port), "-U", "prefect")
        yield server
        server.stop()


@pytest.mark.timeout(600)
def test_a_deployment_runs_on_postgres_and_its_record_survives_a_dump(postgres, tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    home = tmp_path / "home"
    home.mkdir()
    with PrefectServer.running(home, PREFECT_API_DATABASE_CONNECTION_URL=postgres.url("prefect")) as server:
        server.post("work_pools/", **PROCESS_POOL, name="cpu")
        server.command("deploy", "tiny.py:tiny", "--name", "rlip", "--pool", "cpu", cwd=tmp_path)
        with server.worker("cpu", tmp_path / "worker"):
            deployment = server.get("deployments/name/tiny/rlip")
            # Without a command, another process prepares the folder first.
            engine = {"command": f"{sys.executable} -m prefect.engine"}
            run = server.post(
                f"deployments/{deployment['id']}/create_flow_run", parameters={"number": 2}, job_variables=engine
            )["id"]
            assert server.final_state(run, 120)["name"] == "Completed", server.logs(run)
    at = ("-h", "127.0.0.1", "-p", str(postgres.port), "-U", "prefect")
    dump = "prefect.dump"  # relative to the server's folder, which its user may write
    postgres.command("pg_dump", *at, "-Fc", "-f", dump, "prefect")
    postgres.command("createdb", *at, "restored")
    postgres.command("pg_restore", *at, "-d", "restored", dump)
    kept = postgres.command("psql", *at, "-tA", "-c", f"select state_name from flow_run where id = '{run}'", "restored")
    assert kept.strip() == "Completed"
