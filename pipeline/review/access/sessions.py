"""Who is signed in. Sessions live in memory and end with the server."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Session:
    """A reviewer who is signed in.

    `csrf_token` belongs in the page, e.g. in a `<meta>` element: scripts send it as header `X-CSRF-Token` with
    every write, and the form of /logout as field `csrf_token`.
    """

    reviewer: str
    csrf_token: str = field(repr=False)


class Sessions:
    """Open sessions by their random id, which only the cookie holds."""

    def __init__(self, key: bytes, *, seconds: float, most: int, clock: Callable[[], float]) -> None:
        self._key = key
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._sessions: dict[str, tuple[Session, float]] = {}

    def open(self, reviewer: str) -> str:
        """Start a session under a new id and return the id. The oldest session ends if there are too many."""
        if len(self._sessions) >= self._most:
            del self._sessions[next(iter(self._sessions))]
        session_id = secrets.token_urlsafe(32)
        session = Session(reviewer, csrf_token(self._key, session_id))
        self._sessions[session_id] = (session, self._clock() + self._seconds)
        return session_id

    def find(self, session_id: str) -> Session | None:
        """The session with this id, or None if there is none or it has expired."""
        session, expires = self._sessions.get(session_id, (None, 0.0))
        if session is not None and self._clock() >= expires:
            self.close(session_id)
            return None
        return session

    def close(self, session_id: str) -> None:
        """End a session. An unknown id is ignored."""
        self._sessions.pop(session_id, None)


def csrf_token(key: bytes, bound_to: str) -> str:
    """HMAC-SHA256 of what the token is bound to, in hexadecimal."""
    return hmac.new(key, b"csrf:" + bound_to.encode(), hashlib.sha256).hexdigest()


def same_secret(given: str, right: str) -> bool:
    """Compare two secrets in a time that doesn't tell where they differ."""
    return hmac.compare_digest(given.encode(), right.encode())
