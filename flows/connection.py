"""Connects a run to a Prefect server: the one that the user has configured, or a temporary one beside the store."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from flows.server_check import require_server
from flows.temporary_server import TemporaryServer
from storage.errors import RetryableError

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
"""Defaults that the user can override: Prefect sends no telemetry and logs to its server only, not between the progress bars.
Errors reach the terminal once, as `rlip` words them."""


@contextmanager
def connected(home: Path) -> Iterator[Callable[[], str]]:
    """Connect Prefect in this process to a server. A temporary server keeps its records in the folder `home`.

    Enter it before importing Prefect, which reads its settings from the environment. Yields a function that waits for
    the server and returns the address of its web pages, so that work that needs no server can be done first. Raises
    `FatalError` when the configured server does not answer, is too old, or refuses the credentials, and `RetryableError`
    when a server is lost later.
    """
    changed = (*DEFAULTS, "PREFECT_HOME", "PREFECT_API_URL")
    before = {name: os.environ.get(name) for name in changed}
    imported = "prefect" in sys.modules
    os.environ.update({name: value for name, value in DEFAULTS.items() if name not in os.environ})
    try:
        address = configured_api()
        if address is not None:
            require_server(address, configured)
            pages = address.rstrip("/").removesuffix("/api")
            yield lambda: pages
            return
        with TemporaryServer(home, os.environ) as server:
            os.environ["PREFECT_HOME"], os.environ["PREFECT_API_URL"] = str(home), server.api
            reread_settings()
            try:
                yield server.ready
            finally:
                drain()
    except httpx.TransportError as error:
        raise RetryableError(
            f"Prefect's server no longer answers ({error}). What was committed is kept: start the server, or run with --direct"
        ) from error
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old
        if imported:  # otherwise this would read the settings for the first time and create ~/.prefect
            reread_settings()


def configured_api() -> str | None:
    """The API URL that the user has set in the environment or in the active Prefect profile, if any."""
    return configured("PREFECT_API_URL")


def configured(name: str) -> str | None:
    """A setting of Prefect that the user has set in the environment or in the active profile, if any."""
    if name in os.environ:
        return os.environ[name] or None
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    try:
        profiles = tomllib.loads(Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).read_text())
    except (OSError, ValueError):
        return None
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active"))
    found = profiles.get("profiles", {}).get(active, {}).get(name)
    return str(found) if found else None


def reread_settings() -> None:
    """Make Prefect, if it is already imported, read its settings from the environment again."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def drain() -> None:
    """Send what Prefect still has in its queues: it sends states and logs in the background."""
    if "prefect.main" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all()
    APILogWorker.drain_all()
