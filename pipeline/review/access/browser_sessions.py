"""Sessions with the cookies that hold their ids."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pipeline.review.access.local_target import local_target
from pipeline.review.access.sessions import Session, Sessions
from pipeline.review.access.terms import Access


class BrowserSessions:
    """Opens, finds and closes the session of a request's browser."""

    def __init__(self, access: Access, key: bytes) -> None:
        limits = access.limits
        self._sessions = Sessions(key, seconds=limits.session_seconds, most=limits.sessions, clock=access.clock)
        self._seconds = limits.session_seconds
        self._secure = access.hosts.secure

    def id(self, request: Request) -> str:
        """The session id that the request's cookie holds, or an empty text."""
        return request.cookies.get(self.cookie(request), "")

    def find(self, request: Request) -> Session | None:
        """The session of the request, or None if it has none or an expired one."""
        return self._sessions.find(self.id(request))

    def open(self, request: Request, reviewer: str, target: str) -> Response:
        """A redirect to `target` that starts a session. Its id is new: one that was planted before is worth nothing."""
        self._sessions.close(self.id(request))
        response = RedirectResponse(local_target(target), 303)
        self.set_cookie(response, self.cookie(request), self._sessions.open(reviewer), self._seconds)
        return response

    def close(self, request: Request, target: str) -> Response:
        """A redirect to `target` that ends the session and deletes its cookie."""
        self._sessions.close(self.id(request))
        response = RedirectResponse(local_target(target), 303)
        self.set_cookie(response, self.cookie(request), "", 0)
        return response

    def cookie(self, request: Request) -> str:
        """The cookie's name. It has the port, because browsers share a host's cookies among its ports."""
        server = request.scope.get("server") or ("", None)
        # The prefix keeps subdomains from setting the cookie; browsers accept it over TLS only.
        return f"{'__Host-' if self._secure else ''}rlip_review_{server[1] or 0}"

    def set_cookie(self, response: Response, name: str, value: str, seconds: float) -> None:
        """Set a cookie that scripts can't read and that no other site's request carries."""
        response.set_cookie(
            name, value, max_age=int(seconds), path="/", secure=self._secure, httponly=True, samesite="strict"
        )
