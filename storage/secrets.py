"""Passwords in URLs are redacted in messages and refused as input: runs, folder names and Prefect keep addresses."""

from __future__ import annotations

import re

from storage.errors import FatalError

_USER = re.compile(r"(?<=://)[^/\s'\"]*@")
_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s]*@")
_VALUE = re.compile(r"([?&][^=&\s]*(?:token|secret|password|signature|key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """A text without the users, passwords, tokens and keys in its URLs."""
    return _VALUE.sub(r"\1***", _USER.sub("***@", text))


def require_no_secret(url: str) -> None:
    """Raises `FatalError` for a URL that contains a password, a token or a key."""
    if _PASSWORD.search(url) or _VALUE.search(url):
        raise FatalError(
            f"{redacted(url)}: the URL contains a password or a key, which would be stored with the run; set it in the "
            "environment (docs/security.md, Secrets)"
        )
