from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from review_server import ReviewServer, serving
from warm_process import wait_for

from pipeline.review.access.headers import SECURITY_HEADERS
from pipeline.review.access.local_target import local_target
from pipeline.review.access.terms import Access
from storage.errors import FatalError

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def test_every_response_has_the_security_headers(by_link: ReviewServer, tmp_path: Path) -> None:
    (tmp_path / "review.js").write_text("1")
    with serving("link", static=tmp_path) as server, server.browser() as stranger, server.reviewer() as browser:
        answers = [
            stranger.get("/"),
            stranger.get("/static/review.js"),
            stranger.get("/static/absent.js"),
            stranger.get("/access.css"),
            stranger.get("/", headers={"Host": "evil.example"}),
            stranger.get(server.access.url),
            browser.get("/"),
            browser.get("/images/1"),
            browser.get("/careless"),
            browser.get("/absent"),
            browser.get("/fails"),
            browser.post("/verdicts"),
        ]
    assert [answer.status_code for answer in answers] == [401, 200, 404, 200, 403, 303, 200, 200, 200, 404, 500, 403]
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers.get_list(name) == [value]
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


def test_pages_are_never_stored_and_pictures_only_privately(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        caching = {
            path: browser.get(path).headers.get_list("cache-control") for path in ["/", "/images/1", "/careless"]
        }
    assert caching == {"/": ["no-store"], "/images/1": ["private, max-age=600, immutable"], "/careless": ["no-store"]}


def test_static_files_are_open_and_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "review.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    with serving("link", static=tmp_path / "static") as server, server.browser() as browser:
        assert browser.get("/static/review.js").text == "1"
        assert browser.get("/favicon.ico").status_code == 404
        for path in [
            "/static",
            "/static/../",
            "/static/..%2fsecret.txt",
            "/static/%2e%2e/images/1",
            "/static/..%5csecret.txt",
        ]:
            answer = server.get_raw(path)
            assert answer.startswith(b"HTTP/1.1 401")
        assert browser.post("/static/review.js").status_code == 401


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "x" * 65,
        "Ada\r\nSet-Cookie: a=b",
        "Ada\nroot signed in",
        "Ada\x00",
        "Ada\x1b[2J",
        "\u202eadA",
        "Ada\u2028",
    ],
)
def test_names_that_forge_headers_or_lines_are_refused(by_password: ReviewServer, name: str) -> None:
    with by_password.browser() as browser:
        answer = by_password.sign_in(browser, name)
        assert answer.status_code == 422
        assert browser.get("/").status_code == 303
    with pytest.raises(FatalError, match="reviewer"):
        Access.local(1, name, False)


def test_names_are_text_never_markup(by_password: ReviewServer) -> None:
    name = '"><script>alert(1)</script>'
    with by_password.browser() as browser:
        page = by_password.sign_in(browser, name, password="wrong one", next='/"><script>').text
        assert "<script>" not in page
        assert html.escape("<script>alert") in page
        by_password.sign_in(browser, "  zoe@lab ")
        assert browser.get("/").text.endswith(">zoe@lab")


def became_true(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.02)
    return condition()


EVIL = [
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\r\nSet-Cookie: a=b",
    "javascript:alert(1)",
    "evil.example",
    "",
]


@pytest.mark.parametrize("target", EVIL)
def test_nothing_redirects_to_another_site(by_password: ReviewServer, target: str) -> None:
    with by_password.browser() as browser:
        answer = by_password.sign_in(browser, next=target)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert answer.headers.get_list("set-cookie")[0].startswith(by_password.cookie)


def test_the_link_redirects_to_no_other_site(by_link: ReviewServer) -> None:
    for path, location in [
        ("//evil.example/", "/"),
        ("/\\evil.example/", "/"),
        ("/%2fevil.example", "/%2fevil.example"),
    ]:
        answer = by_link.get_raw(f"{path}?token={by_link.access.token}").decode().lower()
        assert f"\r\nlocation: {location}\r\n" in answer


def test_a_target_on_this_site_is_kept() -> None:
    assert local_target("/images/1?name=a%20b&page=2") == "/images/1?name=a%20b&page=2"
    assert local_target('/é"<') == "/%C3%A9%22%3C"


def test_an_error_tells_browsers_a_page_and_scripts_json(
    by_link: ReviewServer, caplog: pytest.LogCaptureFixture
) -> None:
    with by_link.reviewer() as browser, caplog.at_level(logging.ERROR, "rlip"):
        page, data = browser.get("/absent"), browser.get("/absent", headers={"Accept": "*/*"})
        assert "No image &lt;b&gt;17&lt;/b&gt;." in page.text
        assert data.json() == {"status": 404, "error": "No image <b>17</b>."}
        failed = browser.get("/fails")
        assert failed.status_code == 500
        assert not any(word in failed.text for word in ["Traceback", "RuntimeError", "/data", ".py"])
        wait_for(lambda: "no such file: /data/private/images" in caplog.text or None, 20, "the error is not in the log")
        wrong = browser.get("/images/<script>", headers={"Accept": "*/*"})
        assert wrong.status_code == 422
        assert "script" not in wrong.text
        assert "path.number" in wrong.json()["error"]
