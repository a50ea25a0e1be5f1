"""A small application behind the gate, served by uvicorn on a free port of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from pipeline.review.access.limits import Limits
from pipeline.review.access.protect import protect, session_of
from pipeline.review.access.server import server_settings
from pipeline.review.access.terms import Access

PASSWORD = "correct horse battery"
PROXIED = "review.example.org"
_ending: list[threading.Thread] = []


class Clock:
    """A clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class ReviewServer:
    """A running server, and what a test needs to know of it."""

    port: int
    access: Access
    clock: Clock
    verdicts: list[tuple[str, str]]
    """Reviewer and body of each verdict that reached the application."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        return f"rlip_review_{self.port}"

    def browser(self) -> httpx.Client:
        """A client without session that follows no redirects and asks for pages."""
        return httpx.Client(base_url=self.origin, headers={"Accept": "text/html"}, trust_env=False)

    @contextmanager
    def reviewer(self) -> Iterator[httpx.Client]:
        """A browser that came by the link."""
        with self.browser() as browser:
            assert browser.get(self.access.url).status_code == 303
            yield browser

    def sign_in(
        self, browser: httpx.Client, name: str = "Ada", password: str = PASSWORD, **fields: str
    ) -> httpx.Response:
        """Open the sign-in page in `browser` and send its form."""
        form = {"csrf_token": form_token(browser), "reviewer": name, "password": password, **fields}
        return browser.post("/login", data=form)

    def get_raw(self, target: str) -> bytes:
        """The answer to a stranger's GET of a target that clients would tidy up first."""
        return self.raw(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n".encode())

    def raw(self, request: bytes) -> bytes:
        """What the server answers to these bytes until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def csrf_token(browser: httpx.Client) -> str:
    """The token of the browser's session, as the page shows it."""
    return browser.get("/").text.partition('content="')[2].partition('"')[0]


def form_token(browser: httpx.Client) -> str:
    """The token of a fresh sign-in form."""
    return browser.get("/login").text.partition('name="csrf_token" value="')[2].partition('"')[0]


@contextmanager
def serving(
    access: str, *, read_only: bool = False, static: Path | None = None, **limits: Any
) -> Iterator[ReviewServer]:
    """Serve the application with access by "link", by "password" or behind a TLS "proxy" while the context lasts.

    The server then ends while the next tests go on, since uvicorn sleeps over it. `all_ended` waits for it.
    """
    # asyncio answers at once, without Nagle's algorithm, on sockets that are known to be TCP's.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    clock = Clock()
    made = {
        "link": lambda: Access.local(port, "Grace", read_only),
        "password": lambda: Access.with_password([f"127.0.0.1:{port}"], PASSWORD, read_only),
        "proxy": lambda: Access.with_password([f"https://{PROXIED}"], PASSWORD, read_only),
    }[access]()
    made = replace(made, clock=clock, limits=Limits(**limits))
    verdicts: list[tuple[str, str]] = []
    gate = protect(_application(verdicts, static), made)
    server = uvicorn.Server(server_settings(gate, made, "127.0.0.1", port))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield ReviewServer(port, made, clock, verdicts)
    finally:
        server.should_exit = True
        _ending.append(thread)


def all_ended() -> bool:
    """Whether all servers end that `serving` has left."""
    for thread in _ending:
        thread.join(20)
    return not any(thread.is_alive() for thread in _ending)


def _application(verdicts: list[tuple[str, str]], static: Path | None) -> FastAPI:
    app = FastAPI(debug=True)
    if static is not None:
        app.mount("/static", StaticFiles(directory=static))

    @app.get("/")
    async def home(request: Request) -> HTMLResponse:
        session = session_of(request)
        return HTMLResponse(f'<meta name="csrf-token" content="{session.csrf_token}">{session.reviewer}')

    @app.post("/verdicts")
    @app.put("/verdicts")
    @app.delete("/verdicts")
    async def verdict(request: Request) -> dict[str, str]:
        verdicts.append((session_of(request).reviewer, (await request.body()).decode()))
        return {"reviewer": session_of(request).reviewer}

    @app.get("/images/{number}")
    async def image(number: int) -> Response:
        return Response(b"JPEG", media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600, immutable"})

    @app.get("/careless")
    async def careless() -> Response:
        headers = {"Cache-Control": "public", "Server": "x/1.2", "Content-Security-Policy": "default-src *"}
        return Response("", headers=headers)

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("no such file: /data/private/images")

    @app.get("/absent")
    async def absent() -> None:
        raise HTTPException(404, "No image <b>17</b>.")

    return app
