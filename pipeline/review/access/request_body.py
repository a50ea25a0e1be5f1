"""Reading a request's body up to a size, whether its length was announced or it comes in chunks."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from pipeline.review.access.limits import Limits

_FIELDS = 16


async def read_body(receive: Receive, headers: Headers, limits: Limits) -> bytes:
    """The whole body. Refuses a longer one with 413 as soon as that is known, and a slow one with 408."""
    # The server has checked that a length is a number.
    if int(headers.get("content-length", "0")) > limits.body_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise HTTPException(400, "The request ended before its body did.")
                body += message.get("body", b"")
                if len(body) > limits.body_bytes:
                    raise _too_large(limits)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise HTTPException(408, "The request took too long to send its body.") from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """An ASGI `receive` that gives `body` once and then whatever comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def form_fields(body: bytes, headers: Headers) -> dict[str, str]:
    """The fields of an urlencoded form. Refuses other content (415), too many fields or text that isn't UTF-8 (422)."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Send the form as application/x-www-form-urlencoded.")
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict"))
    except ValueError:
        raise HTTPException(422, "The form can't be read. Open the page again and fill it in.") from None


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"The request is larger than {limits.body_bytes} bytes.")
