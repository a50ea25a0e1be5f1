"""How a browser without a session gets one: by a link with a token, or by a name and a password."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline.review.access.allowed_hosts import READS
from pipeline.review.access.browser_sessions import BrowserSessions
from pipeline.review.access.client import client_address, request_target
from pipeline.review.access.failed_attempts import FailedAttempts
from pipeline.review.access.local_target import local_target
from pipeline.review.access.password import Password
from pipeline.review.access.rate_limit import RateLimit, too_many
from pipeline.review.access.refusal import TEMPLATES, wants_page
from pipeline.review.access.request_body import form_fields, read_body
from pipeline.review.access.reviewer_name import reviewer_name
from pipeline.review.access.sessions import csrf_token, same_secret
from pipeline.review.access.terms import Access
from pipeline.runtime.logs import log

_FORM_SECONDS = 3600.0
_CHECKS_AT_A_TIME = 2
"""Each check of a password takes 16 MiB and a processor."""


class Entrance(Protocol):
    """A way in."""

    home: str
    """Where a browser goes when it has signed out."""

    async def admit(self, request: Request) -> Response | None:
        """The response to a request that is about getting in, or None if it isn't one."""

    def turn_away(self, request: Request) -> Response:
        """The response to a request without session. Raises HTTPException (401) where a page would not help."""


class LinkEntrance:
    """Any address with `?token=...`: it redirects to the same address without the token, so no history keeps it."""

    home = "/"

    def __init__(self, access: Access, sessions: BrowserSessions) -> None:
        self._access = access
        self._sessions = sessions

    async def admit(self, request: Request) -> Response | None:
        """A redirect with a new session if the URL has a token. Refuses a wrong one (401)."""
        given = request.query_params.get("token")
        if given is None or request.method not in READS:
            return None
        if not same_secret(given, self._access.token):
            raise HTTPException(401, "The link is of another server or an earlier one. Open the one printed last.")
        return self._sessions.open(request, self._access.reviewer, request_target(request, without="token"))

    def turn_away(self, request: Request) -> Response:
        """Says which link to open (401)."""
        # A cookie that allows no other site's request is missing where a link of another site led here.
        raise HTTPException(
            401,
            "Open the link that rlip review printed when it started. If you have just followed it from another "
            "site's page, reload this page.",
        )


class PasswordEntrance:
    """The page /login with a form for the reviewer's name and the password."""

    home = "/login"

    def __init__(self, access: Access, password: Password, sessions: BrowserSessions, key: bytes) -> None:
        self._access = access
        self._password = password
        self._sessions = sessions
        self._key = key
        limits = access.limits
        self._failed = FailedAttempts(access.clock)
        self._all = RateLimit(limits.sign_ins_per_second, limits.sign_in_burst, access.clock)
        self._checks = asyncio.Semaphore(_CHECKS_AT_A_TIME)

    async def admit(self, request: Request) -> Response | None:
        """The form, or what came of sending it."""
        if request.scope["path"] != "/login":
            return None
        if request.method in READS:
            return self._form(request, target=request.query_params.get("next", "/"))
        if request.method != "POST":
            raise HTTPException(405, "Send the form with POST.", {"Allow": "GET, HEAD, POST"})
        body = await read_body(request.receive, request.headers, self._access.limits)
        return await self._enter(request, form_fields(body, request.headers))

    def turn_away(self, request: Request) -> Response:
        """A redirect to the form for a browser that opens a page. Refuses others (401)."""
        if request.method not in READS or not wants_page(request.headers):
            raise HTTPException(401, "You are not signed in, or your session has expired. Sign in at /login.")
        return RedirectResponse("/login?" + urlencode({"next": local_target(request_target(request))}), 303)

    async def _enter(self, request: Request, form: dict[str, str]) -> Response:
        self._check_token(request, form.get("csrf_token", ""))
        target = form.get("next", "/")
        try:
            reviewer = reviewer_name(form.get("reviewer", ""))
        except ValueError as error:
            return self._form(request, target=target, fault=f"No such name: {error}.", status=422)
        address = client_address(request)
        wait = self._failed.wait(address) or self._all.take("every address")
        if wait:
            raise too_many("Too many attempts to sign in.", wait)
        self._failed.begin(address)
        async with self._checks:
            right = await asyncio.to_thread(self._password.matches, form.get("password", ""))
        if not right:
            log.warning("wrong password for the review page", extra={"fields": {"address": address}})
            return self._form(request, target=target, reviewer=reviewer, fault="That is not the password.", status=401)
        self._failed.succeeded(address)
        log.info("reviewer signed in", extra={"fields": {"reviewer": reviewer, "address": address}})
        return self._sessions.open(request, reviewer, target)

    def _form(
        self, request: Request, *, target: str, reviewer: str = "", fault: str = "", status: int = 200
    ) -> Response:
        # There is no session yet, so the form's token is bound to a cookie of its own that expires.
        nonce = f"{int(self._access.clock() + _FORM_SECONDS)}.{secrets.token_urlsafe(16)}"
        page = TEMPLATES.get_template("login.html").render(
            csrf_token=csrf_token(self._key, nonce), target=local_target(target), reviewer=reviewer, fault=fault
        )
        response = HTMLResponse(page, status)
        self._sessions.set_cookie(response, self._form_cookie(request), nonce, _FORM_SECONDS)
        return response

    def _check_token(self, request: Request, given: str) -> None:
        nonce = request.cookies.get(self._form_cookie(request), "")
        if same_secret(given, csrf_token(self._key, nonce)):
            expires = int(nonce.partition(".")[0])
            if self._access.clock() < expires:
                return
        raise HTTPException(403, "The sign-in page is too old, or it was not opened here. Open /login again.")

    def _form_cookie(self, request: Request) -> str:
        return self._sessions.cookie(request) + "_login"
