"""Connects a run to a Prefect server: the one that the user has configured, or a temporary one next to the store."""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from flows.server import TemporaryServer
from pipeline.runtime.processes import environment
from storage.errors import FatalError, RetryableError, first_line
from storage.secrets import redacted

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
"""Defaults that the user can override: Prefect sends no telemetry, and it logs only to its server, not between the
progress bars. Errors reach the terminal once, as `rlip` words them."""

SUPPORTED = SpecifierSet(">=3.9,<4", prereleases=True)
"""Server versions tested with this project. Older ones also lack security fixes (docs/operations.md, "Versions")."""

ANSWERS_WITHIN = 5.0
"""Seconds that the configured server may take to answer."""

_OTHER_WAYS = "unset PREFECT_API_URL for a temporary one, or run without Prefect with --direct"


@contextmanager
def connected(home: Path) -> Iterator[Callable[[], str]]:
    """Connect Prefect in this process to a server. A temporary server keeps its records in the folder `home`.

    Enter it before importing Prefect, which reads its settings from the environment. Yields a function that waits for
    the server and returns the address of its web pages, so that work that needs no server can be done first. Raises
    `FatalError` when the configured server does not answer, is too old, or refuses the credentials, and
    `RetryableError` when a server is lost or fails later.
    """
    is_imported = "prefect" in sys.modules
    defaults = {name: value for name, value in DEFAULTS.items() if name not in os.environ}
    # No proxy reaches this machine's own addresses.
    hosts = filter(None, ["127.0.0.1", "localhost", urllib.request.getproxies().get("no")])
    direct = {} if urllib.request.proxy_bypass("127.0.0.1") else {"no_proxy": ",".join(hosts)}
    try:
        with environment(defaults | direct):
            api = configured("PREFECT_API_URL")
            if api is not None:
                require_server(api)
                yield lambda: api.rstrip("/").removesuffix("/api")
                return
            with (
                TemporaryServer(home, os.environ) as server,
                environment({"PREFECT_HOME": str(home), "PREFECT_API_URL": server.api}),
            ):
                reread_settings()
                try:
                    yield server.ready
                finally:
                    _send_what_is_queued()
    except (httpx.TransportError, httpx.HTTPStatusError) as error:
        if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
            raise
        raise RetryableError(
            f"Prefect's server fails or no longer responds ({first_line(error)}). Committed results are kept: start "
            "the server, or run with --direct"
        ) from error
    finally:
        if is_imported:  # otherwise this would read the settings for the first time and create ~/.prefect
            reread_settings()


def configured(name: str) -> str | None:
    """A setting of Prefect that the user has set in the environment or in the active profile, if any."""
    if name in os.environ:
        return os.environ[name] or None
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        profiles = tomllib.loads(Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).read_text())
    except (OSError, ValueError):
        return None
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active"))
    value = profiles.get("profiles", {}).get(active, {}).get(name)
    return str(value) if value else None


def reread_settings() -> None:
    """Make Prefect, if it is already imported, read its settings from the environment again."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _send_what_is_queued() -> None:
    """Send the states and logs that Prefect has queued for its background threads."""
    if "prefect.main" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all()
    APILogWorker.drain_all()


def require_server(api: str) -> None:
    """Raise `FatalError` unless a supported Prefect server answers at `api` and accepts the configured credentials.

    Prefect Cloud, which needs an API key, has no version to check.
    """
    setting = f"PREFECT_API_URL = {redacted(api)}"
    if not api.startswith(("http://", "https://")):
        raise FatalError(f"{setting}: not a URL; write http://host:4200/api, {_OTHER_WAYS}")
    try:
        if configured("PREFECT_API_KEY"):
            _get(api, "health")
            return
        version = str(json.loads(_get(api, "admin/version")))
        is_supported = Version(version) in SUPPORTED
    except urllib.error.HTTPError as error:
        raise FatalError(f"{setting}: {_meaning(error.code)}") from error
    except InvalidVersion as error:
        raise FatalError(f"{setting}: what answers there is not a Prefect server; correct the URL ({error})") from error
    except OSError as error:
        raise FatalError(
            f"no Prefect server answers at {setting} ({getattr(error, 'reason', error)}): start it (prefect server "
            f"start), {_OTHER_WAYS}"
        ) from error
    except ValueError as error:
        raise FatalError(
            f"{setting}: something answers there, but not the API of a Prefect server; the URL ends with /api "
            "(http://host:4200/api)"
        ) from error
    if not is_supported:
        raise FatalError(
            f"{setting}: that server is Prefect {version}, and this project needs {SUPPORTED}; upgrade the server "
            f"(docs/operations.md), {_OTHER_WAYS}"
        )


def _get(api: str, path: str) -> bytes:
    """Send a GET request as Prefect's client would: with its credentials, headers and certificates."""
    headers = dict(json.loads(configured("PREFECT_CLIENT_CUSTOM_HEADERS") or "{}"))
    if key := configured("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif password := configured("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    request = urllib.request.Request(f"{api.rstrip('/')}/{path}", headers=headers)
    trusted = ssl.create_default_context(cafile=configured("PREFECT_API_SSL_CERT_FILE"))
    with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN, context=trusted) as answer:
        return bytes(answer.read())


def _meaning(status: int) -> str:
    if status in (401, 403):
        return (
            f"the server refuses the credentials (HTTP {status}); set PREFECT_API_AUTH_STRING to the server's "
            "PREFECT_SERVER_API_AUTH_STRING (user:password)"
        )
    if status in (404, 405):
        return f"no API of a Prefect server there (HTTP {status}); the URL ends with /api (http://host:4200/api)"
    return f"the server answers HTTP {status}; look at its log and try again, or {_OTHER_WAYS}"
