"""A real PostgreSQL server for tests, as the database of a Prefect server in production."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

from flows.server import free_port


class Postgres:
    """A PostgreSQL server in a folder. It refuses to run as root, so a process of root runs it as user `nobody`."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self._data, self._port = binaries, folder / "data", free_port()
        self._user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._data.mkdir(mode=0o700)
        folder.chmod(0o711)
        shutil.chown(self._data, self._user)
        self.command("initdb", "-D", str(self._data), "-U", "prefect", "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self.command("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")

    @property
    def url(self) -> str:
        """The URL of database `prefect`, as a Prefect server takes it."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self._port}/prefect"

    def command(self, name: str, *words: str) -> None:
        """Run a program of PostgreSQL to its end."""
        user, output = self._user if os.geteuid() == 0 else None, self._data.parent / "output"
        # A file, because the server keeps what it is started with open.
        with output.open("w") as file:
            done = subprocess.run(
                [self._binaries / name, *words], cwd=self._data, user=user, stdout=file, stderr=subprocess.STDOUT
            )
        log = self._data / "log"
        assert done.returncode == 0, f"{output.read_text()}\n{log.read_text() if log.exists() else ''}"

    def stop(self) -> None:
        """End the server."""
        self.command("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Optional["Postgres"]]:
        """A server on loopback with an empty database `prefect`, or None where PostgreSQL is not installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            yield None
            return
        # Each start of pytest closes its own folder of temporary files to other users.
        with TemporaryDirectory() as folder:
            server = cls(found[-1].parent, Path(folder))
            try:
                server.command("createdb", "-h", "127.0.0.1", "-p", str(server._port), "-U", "prefect", "prefect")
                yield server
            finally:
                server.stop()
