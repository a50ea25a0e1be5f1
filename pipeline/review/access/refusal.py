"""Errors as a small page or as JSON, without tracebacks, paths or what was sent."""

from __future__ import annotations

import http
from pathlib import Path

from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)
_LONGEST_REASON = 500


def wants_page(headers: Headers) -> bool:
    """Whether the client is a browser that opens a page, by its Accept header; scripts and images get JSON."""
    return "text/html" in headers.get("accept", "")


def refusal_of(error: Exception) -> HTTPException:
    """The error as status, reason and headers that may be shown. Of an unexpected error, only that it happened."""
    if isinstance(error, RequestValidationError):
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        return HTTPException(422, "; ".join(faults))
    if isinstance(error, HTTPException) and error.status_code < 500:
        return error
    status = error.status_code if isinstance(error, HTTPException) else 500
    return HTTPException(status, "The server failed. Its log says why.")


def refusal_response(headers: Headers, error: Exception) -> Response:
    """The response to a request with these headers that ended with `error`."""
    refusal = refusal_of(error)
    status, reason = refusal.status_code, str(refusal.detail)[:_LONGEST_REASON]
    extra = dict(refusal.headers or {})
    if wants_page(headers):
        title = f"{status} {http.HTTPStatus(status).phrase}"
        if reason == http.HTTPStatus(status).phrase:
            reason = ""
        page = TEMPLATES.get_template("refusal.html").render(title=title, reason=reason)
        return HTMLResponse(page, status, extra)
    return JSONResponse({"status": status, "error": reason}, status, extra)
