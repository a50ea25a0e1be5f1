"""A small application behind the page's sign-in, served by uvicorn on a free port of this machine."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from pipeline.review.access import Access, protected, reviewer_of, server_settings

PASSWORD = "correct horse battery"
SECRET = "5" * 64
_ending: list[threading.Thread] = []
Reviewer = Annotated[str, Depends(reviewer_of)]


@dataclass
class ReviewServer:
    """A running server, and what a test needs to know of it."""

    port: int
    access: Access
    verdicts: list[tuple[str, str]]
    """Reviewer and body of each verdict that reached the application."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def browser(self) -> httpx.Client:
        """A client without session that follows no redirects and asks for pages. Its addresses begin at the page's."""
        return httpx.Client(base_url=self.origin + self.access.path, headers={"Accept": "text/html"}, trust_env=False)

    @contextmanager
    def reviewer(self) -> Iterator[httpx.Client]:
        """A browser that came by the link."""
        with self.browser() as browser:
            assert browser.get(self.access.url).status_code == 303
            yield browser

    def sign_in(
        self, browser: httpx.Client, name: str = "Ada", password: str = PASSWORD, **fields: str
    ) -> httpx.Response:
        """Send the sign-in form."""
        return browser.post("/login", data={"reviewer": name, "password": password, **fields})

    def raw(self, request: bytes) -> bytes:
        """What the server answers to these bytes until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def serving(password: str | None = None, **terms: Any) -> Iterator[ReviewServer]:
    """Serve the application by a link, or by a password, while the context lasts.

    The server then ends while the next tests go on, since uvicorn sleeps over it. `all_ended` waits for it.
    """
    # asyncio answers at once, without Nagle's algorithm, on sockets that are known to be TCP's.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    names = [f"127.0.0.1:{port}"]
    quick = {"secret": SECRET, "reviewer": "Grace", "wrong_password_seconds": 0.0}
    access = Access(**{"names": names, "password": password, **quick, **terms})
    verdicts: list[tuple[str, str]] = []
    server = uvicorn.Server(server_settings(protected(_pages(verdicts), access), "127.0.0.1", port))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield ReviewServer(port, access, verdicts)
    finally:
        server.should_exit = True
        _ending.append(thread)


def all_ended() -> bool:
    """Whether all servers end that `serving` has left."""
    for thread in _ending:
        thread.join(20)
    return not any(thread.is_alive() for thread in _ending)


def _pages(verdicts: list[tuple[str, str]]) -> APIRouter:
    pages = APIRouter()

    @pages.get("/")
    async def home(reviewer: Reviewer) -> HTMLResponse:
        return HTMLResponse(reviewer)

    @pages.post("/verdicts")
    @pages.put("/verdicts")
    @pages.delete("/verdicts")
    async def verdict(request: Request, reviewer: Reviewer) -> dict[str, str]:
        verdicts.append((reviewer, (await request.body()).decode()))
        return {"reviewer": reviewer}

    @pages.get("/images/{number}")
    async def image(number: int) -> Response:
        return Response(b"JPEG", media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600, immutable"})

    @pages.get("/fails")
    async def fails() -> None:
        raise RuntimeError("no such file: /data/private/images")

    @pages.get("/absent")
    async def absent() -> None:
        raise HTTPException(404, "No image <b>17</b>.")

    return pages
