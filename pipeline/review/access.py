"""Access to the review page: its address, entry by link, password or proxy, and the checks of every request.

The page has an unguessable path, and its cookie is limited to that path, because browsers send a host's cookies to all
of its ports and thus to other servers on this machine.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import ipaddress
import os
import re
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

import uvicorn
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.labels.verdicts import require_reviewer
from pipeline.report.page import templates_in
from pipeline.runtime.logs import log
from storage.errors import FatalError

SHORTEST_PASSWORD = 8
VARIABLE = "RLIP_REVIEW_PASSWORD"
_NAME = re.compile(r"(https?://)?([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How reviewers reach one server: by a link, as `reviewer`; with a password, under any name; or by a proxy's word.

    Raises `FatalError` for an invalid name and for a password of fewer than 8 characters.
    """

    names: Sequence[str]
    """Names by which browsers reach the server: `gpu7.lab:8765`, or `https://review.example.org` behind a TLS proxy."""
    secret: str = field(repr=False)
    """Signs sessions and derives the path. Sessions by password stay valid while it and the password stay the same."""
    reviewer: str = ""
    """The reviewer to whom verdicts by the link belong; "" where everyone has a name."""
    password: str | None = field(default=None, repr=False)
    user_header: str = ""
    """Header in which an authenticating proxy names the reviewer of every request, e.g. X-Forwarded-User."""
    signed_out: Path | None = None
    """File of the sessions that ended before their time."""
    read_only: bool = False
    wrong_password_seconds: float = 1.0
    """How long a wrong password delays all further sign-in attempts."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """The token in the link; a new one each time the server starts."""

    def __post_init__(self) -> None:
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise FatalError(f"--name {name!r}: not a host name; write name, name:port or https://name")
        by_link = self.password is None and not self.user_header
        object.__setattr__(self, "reviewer", require_reviewer(self.reviewer) if by_link else "")
        if self.password is not None and len(self.password) < SHORTEST_PASSWORD:
            raise FatalError(
                f"the password of the review page needs {SHORTEST_PASSWORD} characters or more; choose another one in "
                f"{VARIABLE} or in the file that --password-file names"
            )

    @property
    def path(self) -> str:
        """The path under which the page lives."""
        return f"/{self._derived('path')[:32]}"

    @property
    def url(self) -> str:
        """The address to open; it contains the token if there is no password."""
        name = self.names[0].rstrip("/")
        page = f"{name if '://' in name else f'http://{name}'}{self.path}/"
        return f"{page}login?token={self.token}" if self.reviewer else page

    def require_password_beyond_loopback(self, address: str) -> None:
        """Raise `FatalError` if other machines can reach `address` and need no password, or can write the header."""
        try:
            is_loopback = ipaddress.ip_address(address).is_loopback
        except ValueError:
            is_loopback = address == "localhost"
        if not is_loopback and (self.password is None or self.user_header):
            raise FatalError(
                f"other machines can reach {address}, so the review page needs a password there; set {VARIABLE} or "
                "--password-file, or listen on 127.0.0.1, as --user-header does behind a proxy"
            )

    @property
    def hosts(self) -> list[str]:
        """Hosts that requests may name: `names` without scheme and port, and loopback names for forwarded ports."""
        named = [match[2] for name in self.names if (match := _NAME.fullmatch(name))]
        return ["127.0.0.1", "localhost", "[::1]", *named]

    @property
    def session_key(self) -> str:
        """The key that signs sessions. A new password ends all of them, and the server's end those by its link."""
        return self._derived(f"sessions {self.password or self.token}")

    def _derived(self, use: str) -> str:
        return hmac.new(self.secret.encode(), use.encode(errors="surrogateescape"), "sha256").hexdigest()


def kept_secret(file: Path) -> str:
    """The secret in `file`, readable only by its owner; created if missing. Raises `FatalError` if that fails."""
    try:
        if file.exists() and len(secret := file.read_text()) == 64:
            return secret
        secret = secrets.token_hex(32)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as made:
            made.write(secret)
        return secret
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(
            f"{file}: the secret of the review page can't be read or written ({error}); free space and "
            "make the folder writable, or copy the run to another store with `rlip store pull`"
        ) from error


SESSION_SECONDS = 12 * 3600
MAX_BODY = 64 * 1024
"""Bytes. The largest request that the page sends, 200 verdicts, takes about half of it."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Other sites must not learn the path. Forms need an Origin, which "no-referrer" would remove.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HERE = Path(__file__).parent
_PAGE = templates_in(_HERE / "templates").get_template("sign_in.html")


def protected(pages: APIRouter, access: Access) -> Starlette:
    """The application to serve, under the path of `access`: `pages` for reviewers; sign-in and static files for all."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(require_same_origin)])
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(
        SessionMiddleware, secret_key=access.session_key, session_cookie="rlip_review", max_age=SESSION_SECONDS,
        path=access.path, same_site="strict", https_only=all(name.startswith("https://") for name in access.names),
    )  # fmt: skip
    sessions = Sessions(access)
    app.mount("/static", StaticFiles(directory=_HERE / "static"))
    app.include_router(sessions.routes())
    app.include_router(pages, dependencies=[Depends(sessions.require_session)])
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=access.hosts, www_redirect=False)
    return Starlette(routes=[Mount(access.path, app)], middleware=[Middleware(_Guarded), trusted])


def server_settings(app: ASGIApp, address: str, port: int) -> uvicorn.Config:
    """Settings for `uvicorn.Server`."""
    return uvicorn.Config(
        app,
        host=address,
        port=port,
        # This parser limits the size of a request's head.
        http="h11",
        ws="none",
        limit_concurrency=256,
        proxy_headers=False,
        server_header=False,
        # The access log would record the link's token.
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


def reviewer_of(request: Request) -> str:
    """The name of a request's reviewer. Raises KeyError without a session."""
    return str(request.session["reviewer"])


Reviewer = Annotated[str, Depends(reviewer_of)]


def require_same_origin(request: Request) -> None:
    """Refuse (403) a write from a page of another site or of another port of this host.

    Browsers send at least one of the two headers with every write. A client that sends neither is not a browser.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_own = (
        site in ("same-origin", "none")
        if site
        else origin is None or origin.partition("://")[2] == request.headers["host"]
    )
    if request.method != "GET" and not is_own:
        raise HTTPException(403, "The request came from another site. Open the page itself and try again.")


class Sessions:
    """Starts sessions, and refuses requests that need one and have none."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._checking = asyncio.Lock()
        file = access.signed_out
        self._ended = set(file.read_text().split()) if file is not None and file.exists() else set()
        """Sessions whose cookies would still be valid."""

    def routes(self) -> APIRouter:
        """`login` with the link's token; with a password, `login` with a form, and `logout`; none behind a proxy."""
        routes = APIRouter()
        if self._access.user_header:
            return routes
        if self._access.password is None:
            routes.add_api_route("/login", self._open_link)
        else:
            routes.add_api_route("/login", self._show_form)
            routes.add_api_route("/login", self._sign_in, methods=["POST"])
            routes.add_api_route("/logout", self._sign_out, methods=["POST"])
        return routes

    def require_session(self, request: Request) -> None:
        """Refuse forbidden writes, and requests without a session (401; a browser that opens a page gets the form)."""
        if self._access.user_header:
            self._take_named(request)
        elif "reviewer" not in request.session or request.session.get("id") in self._ended:
            if self._access.password is None:
                raise HTTPException(401, "Open the link that rlip review printed when it started.")
            if request.method != "GET" or not _wants_page(request):
                raise HTTPException(401, "You are not signed in, or your session has expired. Load the page again.")
            page = f"{request.url.path}?{request.url.query}".removeprefix(f"{self._access.path}/").rstrip("?")
            location = f"{self._access.path}/login?{urlencode({'next': page})}"
            raise HTTPException(303, headers={"Location": location})
        if request.method != "GET" and self._access.read_only:
            raise HTTPException(403, "This server was started read-only: it accepts no verdicts.")

    def _take_named(self, request: Request) -> None:
        """Believes the proxy, which names the reviewer in every request. Refuses (401) other names and none."""
        # Starlette reads headers as latin-1, but names are written in UTF-8.
        name = request.headers.get(self._access.user_header, "").encode("latin-1").decode(errors="replace")
        try:
            request.session["reviewer"] = require_reviewer(name)
        except FatalError as error:
            raise HTTPException(401, f"The proxy names you in {self._access.user_header}: {error}.") from error

    async def _open_link(self, request: Request, token: str = "") -> Response:
        # As bytes, because of texts it compares only ASCII.
        if not hmac.compare_digest(token.encode(), self._access.token.encode()):
            raise HTTPException(401, "This link belongs to a different or earlier server. Open the one printed last.")
        return self._enter(request, self._access.reviewer)

    async def _show_form(self, request: Request, next: str = "") -> Response:
        return _page(request, "Sign in", form=True, target=next)

    async def _sign_in(self, request: Request) -> Response:
        # Latin-1 takes any bytes. Text of a form is percent-encoded, and `parse_qsl` reads that as UTF-8.
        form = dict(parse_qsl((await request.body()).decode("latin-1")))
        target, reviewer = form.get("next", ""), form.get("reviewer", "").strip(" ")
        try:
            reviewer = require_reviewer(reviewer)
        except FatalError as error:
            fault = f"Invalid name: {error}."
            return _page(request, "Sign in", fault, 422, form=True, target=target, reviewer=reviewer)
        # One attempt at a time: concurrent guesses wait for each other.
        async with self._checking:
            if not hmac.compare_digest(_encoded(form.get("password", "")), _encoded(self._access.password or "")):
                address = request.client.host if request.client else ""
                log.warning("wrong password for the review page", extra={"fields": {"address": address}})
                await asyncio.sleep(self._access.wrong_password_seconds)
                return _page(request, "Sign in", "Wrong password.", 401, form=True, target=target, reviewer=reviewer)
        return self._enter(request, reviewer, target)

    async def _sign_out(self, request: Request) -> Response:
        if (ended := request.session.get("id")) is not None:
            self._ended.add(ended)
            if self._access.signed_out is not None:
                with self._access.signed_out.open("a") as file:
                    file.write(f"{ended}\n")
        request.session.clear()
        return RedirectResponse(f"{self._access.path}/login", 303)

    def _enter(self, request: Request, reviewer: str, target: str = "") -> Response:
        request.session.update(reviewer=reviewer, id=secrets.token_hex(8))
        return RedirectResponse(f"{self._access.path}/{target}", 303)


class _Guarded:
    """Adds the security headers to every response, and refuses (413) requests that exceed `MAX_BODY`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413, f"The request is larger than {MAX_BODY} bytes.")
            return message

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-cache" if "/static/" in scope["path"] else "no-store")
            await send(message)

        await self._app(scope, limited, secured)


async def _refuse(request: Request, error: Exception) -> Response:
    """Shows an error as a small page to browsers and as JSON to scripts, without request contents or a traceback."""
    status, reason, headers = 500, "The server failed. Its log says why.", None
    if isinstance(error, RequestValidationError):
        status, reason = 422, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    elif isinstance(error, HTTPException):
        status, reason, headers = error.status_code, str(error.detail), error.headers
    if _wants_page(request):
        response = _page(request, f"{status} {http.HTTPStatus(status).phrase}", reason, status)
    else:
        response = JSONResponse({"status": status, "error": reason}, status)
    response.headers.update(headers or {})
    return response


def _page(
    request: Request, title: str, reason: str = "", status: int = 200, form: bool = False, target: str = "",
    reviewer: str = "",
) -> Response:  # fmt: skip
    """The page for anyone who has not signed in: the sign-in form, or why there is nothing else."""
    values = {"title": title, "reason": reason, "form": form, "target": target, "reviewer": reviewer}
    return HTMLResponse(_PAGE.render(root=request.scope["root_path"], **values), status)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _encoded(password: str) -> bytes:
    # Keyboards differ in how they encode accents.
    return unicodedata.normalize("NFC", password).encode(errors="surrogateescape")
