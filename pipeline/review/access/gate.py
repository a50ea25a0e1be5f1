"""The ASGI application in front of the review page: only what passes it reaches the page."""

from __future__ import annotations

import secrets
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.review.access.allowed_hosts import READS
from pipeline.review.access.browser_sessions import BrowserSessions
from pipeline.review.access.client import client_address
from pipeline.review.access.entrance import Entrance, LinkEntrance, PasswordEntrance
from pipeline.review.access.headers import SecuredSend
from pipeline.review.access.rate_limit import RateLimit, too_many
from pipeline.review.access.refusal import refusal_response
from pipeline.review.access.request_body import form_fields, read_body, replayed
from pipeline.review.access.sessions import Session, same_secret
from pipeline.review.access.terms import Access
from pipeline.runtime.logs import log

SESSION = "rlip.review.session"
"""Where the gate puts the session in the scope of a request that it lets through."""
CSRF_HEADER = "X-CSRF-Token"
STYLE = "/access.css"
_STYLE_FILE = Path(__file__).parent / "templates" / "access.css"
_FORMS = {"/login", "/logout"}


class Gate:
    """Checks, in this order: head, host and site, rates, session, read-only mode, CSRF token, size of the body."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        limits, clock = access.limits, access.clock
        key = secrets.token_bytes(32)
        self._sessions = BrowserSessions(access, key)
        self._entrance: Entrance = (
            LinkEntrance(access, self._sessions)
            if access.password is None
            else PasswordEntrance(access, access.password, self._sessions, key)
        )
        self._of_address = RateLimit(limits.address_per_second, limits.address_burst, clock)
        self._of_session = RateLimit(limits.session_per_second, limits.session_burst, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI asks."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        # Files that hold nothing of the run may be kept, if browsers ask whether they changed.
        reply = SecuredSend(send, caching="no-cache" if _is_open(request) else "no-store")
        try:
            await self._serve(request, reply)
        except Exception as error:
            if not isinstance(error, HTTPException):
                log.exception("the review page failed", extra={"fields": {"path": repr(scope["path"])}})
            if reply.finished:
                return
            if reply.started:
                raise
            await refusal_response(request.headers, error)(scope, receive, reply)

    async def _serve(self, request: Request, send: Send) -> None:
        path = request.scope["path"]
        self._check_head(request)
        self._access.hosts.check(request.headers, request.method, form=path in _FORMS)
        self._spend(self._of_address, client_address(request))
        response = _style(request) or await self._entrance.admit(request)
        if response is None and _is_open(request):
            await self._app(request.scope, request.receive, send)
            return
        response = response or await self._with_session(request, send)
        if response is not None:
            await response(request.scope, request.receive, send)

    async def _with_session(self, request: Request, send: Send) -> Response | None:
        """Let the request through and return None, or return the response to it."""
        session = self._sessions.find(request)
        if session is None:
            return self._entrance.turn_away(request)
        self._spend(self._of_session, self._sessions.id(request))
        if request.scope["path"] == "/logout":
            return await self._leave(request, session)
        if request.method not in READS:
            if self._access.read_only:
                raise HTTPException(403, "This server was started read-only: it takes no verdicts.")
            _check_token(session, request.headers.get(CSRF_HEADER, ""))
        body = await read_body(request.receive, request.headers, self._access.limits)
        scope = {**request.scope, SESSION: session}
        await self._app(scope, replayed(body, request.receive), send)
        return None

    async def _leave(self, request: Request, session: Session) -> Response:
        if request.method != "POST":
            raise HTTPException(405, "Sign out with POST.", {"Allow": "POST"})
        token = request.headers.get(CSRF_HEADER)
        if token is None:
            body = await read_body(request.receive, request.headers, self._access.limits)
            token = form_fields(body, request.headers).get("csrf_token", "")
        _check_token(session, token)
        return self._sessions.close(request, self._entrance.home)

    def _check_head(self, request: Request) -> None:
        scope = request.scope
        size = len(scope.get("raw_path", b"")) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self._access.limits.head_bytes:
            raise HTTPException(431, "The address and headers of the request are too long.")
        if not scope["path"].startswith("/"):
            raise HTTPException(400, "The request asks for no path of this server.")

    def _spend(self, rate: RateLimit, key: str) -> None:
        wait = rate.take(key)
        if wait:
            raise too_many("Too many requests.", wait)


def _is_open(request: Request) -> bool:
    """Whether the request reads a file that anyone may see. A path that climbs out of /static is none."""
    path = request.scope["path"]
    inside = path.startswith("/static/") and not {"..", "."} & set(path.replace("\\", "/").split("/"))
    return request.method in READS and (inside or path in {"/favicon.ico", STYLE})


def _style(request: Request) -> Response | None:
    if request.scope["path"] != STYLE or request.method not in READS:
        return None
    return Response(_STYLE_FILE.read_bytes(), media_type="text/css")


def _check_token(session: Session, given: str) -> None:
    if not same_secret(given, session.csrf_token):
        raise HTTPException(403, "The request lacks this session's token. Reload the page and try again.")
