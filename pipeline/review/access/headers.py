"""Headers that every response of the review page carries."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class SecuredSend:
    """An ASGI `send` that sets the security headers, whatever the application set, and knows how far a response got.

    `caching` holds unless the response sets another `Cache-Control` that is private or forbids storing: shared caches
    never keep anything.
    """

    def __init__(self, send: Send, caching: str) -> None:
        self._send = send
        self._caching = caching
        self.started = False
        self.finished = False

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.started = True
            self._secure(MutableHeaders(raw=message.setdefault("headers", [])), message)
        elif message["type"] == "http.response.body":
            self.finished = not message.get("more_body", False)
        await self._send(message)

    def _secure(self, headers: MutableHeaders, message: Message) -> None:
        caching = headers.getlist("cache-control")
        own = len(caching) == 1 and {"private", "no-store"} & {part.strip().lower() for part in caching[0].split(",")}
        for name in [*SECURITY_HEADERS, "Cache-Control", "Server", "X-Powered-By"]:
            del headers[name]
        for name, value in SECURITY_HEADERS.items():
            headers[name] = value
        headers["Cache-Control"] = caching[0] if own and message["status"] < 400 else self._caching
        message["headers"] = headers.raw
