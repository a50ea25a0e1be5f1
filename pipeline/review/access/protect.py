"""Put the gate in front of an application, and tell a request's reviewer."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipeline.review.access.gate import SESSION, Gate
from pipeline.review.access.refusal import refusal_response
from pipeline.review.access.sessions import Session
from pipeline.review.access.terms import Access


def protect(app: FastAPI, access: Access) -> Gate:
    """The application to serve instead of `app`. It owns /login, /logout and /access.css.

    Errors of `app` become small pages or JSON. Middleware of `app` stays behind the gate.
    """
    # A debugging application shows tracebacks.
    app.debug = False
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _refuse)
    return Gate(app, access)


def session_of(request: Request) -> Session:
    """The session of a request that passed the gate; also fit for `fastapi.Depends`.

    Raises LookupError on static files and on an application that isn't protected, so nothing is open by mistake.
    """
    session = request.scope.get(SESSION)
    if not isinstance(session, Session):
        raise LookupError(f"{request.scope['path']!r} was reached without a session; serve protect(app, access)")
    return session


async def _refuse(request: Request, error: Exception) -> Response:
    return refusal_response(request.headers, error)
