from __future__ import annotations

import html
import logging

import pytest
from review_server import SECRET, ReviewServer
from warm_process import wait_for

from pipeline.review.access import Access
from pipeline.review.entrance import SECURITY_HEADERS
from storage.errors import FatalError

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def test_every_response_has_the_security_headers(by_link: ReviewServer) -> None:
    with by_link.browser() as stranger, by_link.reviewer() as browser:
        answers = [
            stranger.get("/"),
            stranger.get("/static/review.js"),
            stranger.get("/static/absent.js"),
            stranger.get(by_link.origin),
            stranger.get("/", headers={"Host": "evil.example"}),
            stranger.get(by_link.access.url),
            browser.get("/"),
            browser.get("/images/1"),
            browser.get("/absent"),
            browser.post("/verdicts", headers={"Origin": "null"}),
            browser.get("/fails"),
        ]
    assert [answer.status_code for answer in answers] == [401, 200, 404, 404, 400, 303, 200, 200, 404, 403, 500]
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers.get_list(name) == [value]
        assert answer.headers["content-security-policy"] == CSP
        assert "server" not in answer.headers


def test_pages_are_never_stored_and_images_only_privately(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        caching = [browser.get(path).headers["cache-control"] for path in ("/", "/images/1", "/static/icon.svg")]
    assert caching == ["no-store", "private, max-age=600, immutable", "no-cache"]


def test_static_files_are_open_and_nothing_beside_them(by_link: ReviewServer) -> None:
    root = by_link.access.path
    host = f"Host: 127.0.0.1:{by_link.port}\r\nConnection: close"
    assert by_link.raw(f"GET {root}/static/icon.svg HTTP/1.1\r\n{host}\r\n\r\n".encode()).startswith(b"HTTP/1.1 200")
    for path in [
        "/static/",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
    ]:
        answer = by_link.raw(f"GET {root}{path} HTTP/1.1\r\n{host}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404")


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
        Access(names=["127.0.0.1"], secret=SECRET, reviewer=name)


def test_names_are_text_never_markup(by_password: ReviewServer) -> None:
    name = '"><script>alert(1)</script>'
    with by_password.browser() as browser:
        page = by_password.sign_in(browser, name, password="wrong one", next='"><script>').text
        assert "<script>" not in page
        assert html.escape("<script>alert") in page
        by_password.sign_in(browser, "  zoe@lab ")
        assert browser.get("/").text == "zoe@lab"


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "https://evil.example/", "\r\nSet-Cookie: a=b", ""]
)
def test_nothing_redirects_to_another_site(by_password: ReviewServer, target: str) -> None:
    with by_password.browser() as browser:
        answer = by_password.sign_in(browser, next=target)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith(f"{by_password.access.path}/")
        (cookie,) = answer.headers.get_list("set-cookie")
        assert cookie.startswith("rlip_review=")


def test_an_error_tells_browsers_a_page_and_scripts_json(
    by_link: ReviewServer, caplog: pytest.LogCaptureFixture
) -> None:
    with by_link.reviewer() as browser, caplog.at_level(logging.ERROR):
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
