"""Delivers OpenLineage events: to a file of JSON lines, or to the HTTP endpoint of a lineage server such as Marquez."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from storage.atomic import write_atomic
from storage.errors import FatalError, RetryableError
from storage.secrets import redacted

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

RETRIES = 3
"""How often to resend an unanswered event, after pauses of 0.3, 0.6 and 1.2 seconds."""
TIMEOUT = 10.0
"""Seconds to wait for a response."""
API_KEY = "OPENLINEAGE_API_KEY"
"""Environment variable with the server's API key, as in OpenLineage's own clients."""


def is_server(target: str) -> bool:
    """Whether a target is a server rather than a file."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def write_events(events: Iterable[RunEvent], path: Path) -> None:
    """Write events to a new file, one JSON object per line. Raises `FatalError` if it exists."""
    from openlineage.client.serde import Serde

    if path.exists():
        raise FatalError(f"{path} exists; name a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(f"{Serde.to_json(event)}\n" for event in events).encode())


def send_events(events: Iterable[RunEvent], url: str) -> int:
    """Send events to `URL/api/v1/lineage`, in order. Returns their number.

    Event ids are deterministic, so resending adds nothing. Raises `RetryableError` if the server does not answer after
    `RETRIES` retries, and `FatalError` if it refuses an event.
    """
    import requests
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

    key = os.environ.get(API_KEY)
    retry = {
        "total": RETRIES, "connect": RETRIES, "read": RETRIES, "backoff_factor": 0.3,
        "status_forcelist": [500, 502, 503, 504], "allowed_methods": ["POST"],
    }  # fmt: skip
    auth = ApiKeyTokenProvider({"apiKey": key}) if key else TokenProvider({})
    # The client uses `urljoin`, which replaces what follows the last slash.
    base = url if url.endswith("/") else f"{url}/"
    shown, sent = redacted(url), 0
    try:
        transport = HttpTransport(HttpConfig(url=base, timeout=TIMEOUT, auth=auth, retry=retry))
    except ValueError:
        raise FatalError(f"{shown}: not a server URL; write e.g. http://127.0.0.1:5000") from None
    try:
        for event in events:
            transport.emit(event)
            sent += 1
    # Errors of requests quote the URL with its secrets, so they are not passed on.
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "unknown"
        raise FatalError(
            f"{shown} refused event {sent + 1} with HTTP status {status}; for 401 and 403 set {API_KEY}, for 404 check "
            "that the URL is that of a lineage server, without /api/v1/lineage"
        ) from None
    except requests.RequestException as error:
        raise RetryableError(
            f"{shown}: event {sent + 1} got no response after {RETRIES} retries ({type(error).__name__}); check the "
            "URL and that the server is running"
        ) from None
    finally:
        transport.close()
    return sent
