"""The way in to the review page: sessions, the sign-in form, and what every request and response must have.

The page lives under a path that nobody can guess, and its cookie is sent to that path alone: browsers share the cookies of
a host among all of its ports, so another server of this machine would get them otherwise.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import unicodedata
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import uvicorn
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
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
from pipeline.review.access import Access
from pipeline.runtime.logs import log
from storage.errors import FatalError

SESSION_SECONDS = 12 * 3600
MAX_BODY = 64 * 1024
"""Bytes. The largest request that the page sends, 200 verdicts, has about half."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Other sites don't learn the path. Forms need an Origin, which "no-referrer" would take from them.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HERE = Path(__file__).parent
_TEMPLATES = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined)


def protected(pages: APIRouter, access: Access) -> Starlette:
    """The application to serve: `pages` for reviewers, static files and the way in for anyone, under the path of `access`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(require_same_origin)])
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(
        SessionMiddleware, secret_key=access.session_key, session_cookie="rlip_review", max_age=SESSION_SECONDS,
        path=access.path, same_site="strict", https_only=all(name.startswith("https://") for name in access.names),
    )  # fmt: skip
    entrance = Entrance(access)
    app.mount("/static", StaticFiles(directory=_HERE / "static"))
    app.include_router(entrance.routes())
    app.include_router(pages, dependencies=[Depends(entrance.require_session)])
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=access.hosts, www_redirect=False)
    return Starlette(routes=[Mount(access.path, app)], middleware=[Middleware(_Guarded), trusted])


def server_settings(app: ASGIApp, address: str, port: int) -> uvicorn.Config:
    """Settings for `uvicorn.Server`."""
    return uvicorn.Config(
        app,
        host=address,
        port=port,
        # The parser that limits how much a request's head may take.
        http="h11",
        ws="none",
        limit_concurrency=256,
        proxy_headers=False,
        server_header=False,
        # The access log would keep the token of the link.
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


def reviewer_of(request: Request) -> str:
    """The name of a request's reviewer; for `fastapi.Depends`. Raises KeyError without a session."""
    return str(request.session["reviewer"])


def require_same_origin(request: Request) -> None:
    """Refuse (403) a write that a page of another site sent, or one of another port of this host.

    Browsers send one of the two headers with every write. A client that sends neither is no browser.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_own = (
        site in ("same-origin", "none")
        if site
        else origin is None or origin.partition("://")[2] == request.headers["host"]
    )
    if request.method != "GET" and not is_own:
        raise HTTPException(403, "The request came from another site. Open the page itself and try again.")


class Entrance:
    """How a browser gets a session, and what needs one."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._checking = asyncio.Lock()

    def routes(self) -> APIRouter:
        """`login` with the link's token; or, where there is a password, `login` with a form, and `logout`."""
        routes = APIRouter()
        if self._access.password is None:
            routes.add_api_route("/login", self._open_link)
        else:
            routes.add_api_route("/login", self._show_form)
            routes.add_api_route("/login", self._sign_in, methods=["POST"])
            routes.add_api_route("/logout", self._sign_out, methods=["POST"])
        return routes

    def require_session(self, request: Request) -> None:
        """Refuse a request without a session (401; a browser that opens a page is led to the form) and forbidden writes."""
        if "reviewer" not in request.session:
            if self._access.password is None:
                raise HTTPException(401, "Open the link that rlip review printed when it started.")
            if request.method != "GET" or not _wants_page(request):
                raise HTTPException(401, "You are not signed in, or your session has expired. Load the page again.")
            page = f"{request.url.path}?{request.url.query}".removeprefix(f"{self._access.path}/").rstrip("?")
            location = f"{self._access.path}/login?{urlencode({'next': page})}"
            raise HTTPException(303, headers={"Location": location})
        if request.method != "GET" and self._access.read_only:
            raise HTTPException(403, "This server was started read-only: it takes no verdicts.")

    async def _open_link(self, request: Request, token: str = "") -> Response:
        if not hmac.compare_digest(token.encode(), self._access.token.encode()):
            raise HTTPException(401, "The link is of another server or an earlier one. Open the one printed last.")
        return self._enter(request, self._access.reviewer)

    async def _show_form(self, request: Request, next: str = "") -> Response:
        return _page("login.html", request, target=next, reviewer="", fault="")

    async def _sign_in(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("latin-1")))
        target, reviewer = form.get("next", ""), form.get("reviewer", "").strip(" ")
        try:
            reviewer = require_reviewer(reviewer)
        except FatalError as error:
            fault = f"No such name: {error}."
            return _page("login.html", request, 422, target=target, reviewer=reviewer, fault=fault)
        # One attempt at a time: guesses that are sent together wait for each other.
        async with self._checking:
            if not hmac.compare_digest(_encoded(form.get("password", "")), _encoded(self._access.password or "")):
                address = request.client.host if request.client else ""
                log.warning("wrong password for the review page", extra={"fields": {"address": address}})
                await asyncio.sleep(self._access.wrong_password_seconds)
                fault = "That is not the password."
                return _page("login.html", request, 401, target=target, reviewer=reviewer, fault=fault)
        return self._enter(request, reviewer, target)

    async def _sign_out(self, request: Request) -> Response:
        request.session.clear()
        return RedirectResponse(f"{self._access.path}/login", 303)

    def _enter(self, request: Request, reviewer: str, target: str = "") -> Response:
        request.session["reviewer"] = reviewer
        return RedirectResponse(f"{self._access.path}/{target}", 303)


class _Guarded:
    """Adds the security headers to every response, and refuses (413) requests with a larger body than the page sends."""

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
    """An error as a small page for browsers and as JSON for scripts, without what was sent and without a traceback."""
    status, reason, headers = 500, "The server failed. Its log says why.", None
    if isinstance(error, RequestValidationError):
        status, reason = 422, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    elif isinstance(error, HTTPException):
        status, reason, headers = error.status_code, str(error.detail), error.headers
    if _wants_page(request):
        title = http.HTTPStatus(status).phrase
        response = _page("refusal.html", request, status, title=f"{status} {title}", reason=reason)
    else:
        response = JSONResponse({"status": status, "error": reason}, status)
    response.headers.update(headers or {})
    return response


def _page(template: str, request: Request, status: int = 200, **values: str) -> Response:
    root = request.scope["root_path"]
    return HTMLResponse(_TEMPLATES.get_template(template).render(root=root, **values), status)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _encoded(password: str) -> bytes:
    # Keyboards differ in how they compose accents.
    return unicodedata.normalize("NFC", password).encode(errors="surrogateescape")
