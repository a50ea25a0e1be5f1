"""Checks, before any work, that the configured URL is that of a Prefect server which takes this client's requests."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from storage.errors import FatalError
from storage.secrets import redacted

SUPPORTED = SpecifierSet(">=3.9,<4", prereleases=True)
"""Versions of servers that this project was tested with. Older ones also lack fixes of known vulnerabilities
(docs/operations.md, "Versions")."""

ANSWERS_WITHIN = 5.0
"""Seconds that the configured server may take to answer."""

_OTHER_WAYS = "unset PREFECT_API_URL for a temporary one, or run without Prefect with --direct"


def require_server(api: str, setting: Callable[[str], str | None]) -> None:
    """Raise `FatalError` unless a supported Prefect server answers at `api` and accepts the credentials.

    `setting` returns a setting of Prefect by its name. Prefect Cloud, which needs an API key, has no version to check.
    """
    given = f"PREFECT_API_URL = {redacted(api)}"
    if not api.startswith(("http://", "https://")):
        raise FatalError(f"{given}: not a URL; write http://host:4200/api, {_OTHER_WAYS}")
    try:
        if setting("PREFECT_API_KEY"):
            _get(api, "health", setting)
            return
        version = str(json.loads(_get(api, "admin/version", setting)))
        supported = Version(version) in SUPPORTED
    except urllib.error.HTTPError as error:
        raise FatalError(_refused(given, error.code)) from error
    except InvalidVersion as error:
        raise FatalError(f"{given}: it answers, but not as a Prefect server; correct it ({error})") from error
    except OSError as error:
        raise FatalError(
            f"no Prefect server answers at {given} ({getattr(error, 'reason', error)}): start it (prefect server start), "
            f"{_OTHER_WAYS}"
        ) from error
    except ValueError as error:
        raise FatalError(
            f"{given}: something answers there, but not the API of a Prefect server; the URL ends with /api "
            f"(http://host:4200/api)"
        ) from error
    if not supported:
        raise FatalError(
            f"{given}: that server is Prefect {version}, and this project needs {SUPPORTED}; upgrade the server "
            f"(docs/operations.md), {_OTHER_WAYS}"
        )


def _get(api: str, path: str, setting: Callable[[str], str | None]) -> bytes:
    """Send a GET request as Prefect's client would: with its credentials, headers and certificates."""
    headers = dict(json.loads(setting("PREFECT_CLIENT_CUSTOM_HEADERS") or "{}"))
    if key := setting("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif password := setting("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    request = urllib.request.Request(f"{api.rstrip('/')}/{path}", headers=headers)
    trusted = ssl.create_default_context(cafile=setting("PREFECT_API_SSL_CERT_FILE"))
    with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN, context=trusted) as answer:
        return bytes(answer.read())


def _refused(given: str, status: int) -> str:
    """What an HTTP error means, and what to do."""
    if status in (401, 403):
        return (
            f"{given}: the server refuses the credentials (HTTP {status}); set PREFECT_API_AUTH_STRING to the server's "
            "PREFECT_SERVER_API_AUTH_STRING (user:password)"
        )
    if status in (404, 405):
        return (
            f"{given}: no API of a Prefect server there (HTTP {status}); the URL ends with /api (http://host:4200/api)"
        )
    return f"{given}: the server answers HTTP {status}; look at its log and try again, or {_OTHER_WAYS}"
