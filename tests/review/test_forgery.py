from __future__ import annotations

import html

import pytest
from review_server import PASSWORD, ReviewServer, csrf_token, form_token, serving

from pipeline.review.access.terms import Access
from storage.errors import FatalError


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "[::1]:{port}", ""]
)
def test_other_host_names_are_refused_even_with_a_session(by_link: ReviewServer, host: str) -> None:
    with by_link.reviewer() as browser:
        assert browser.get("/", headers={"Host": host.format(port=by_link.port)}).status_code == 403
        assert browser.get("/", headers={"Host": f"LOCALHOST:{by_link.port}"}).status_code == 200


def test_requests_without_host_or_for_another_server_are_refused(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        cookie = f"Cookie: {by_link.cookie}={browser.cookies[by_link.cookie]}\r\nConnection: close\r\n\r\n"
    host = f"Host: 127.0.0.1:{by_link.port}\r\n"
    assert by_link.raw(f"GET / HTTP/1.1\r\n{host}{cookie}".encode()).startswith(b"HTTP/1.1 200")
    assert by_link.raw(f"GET / HTTP/1.0\r\n{cookie}".encode()).startswith(b"HTTP/1.1 403")
    assert by_link.raw(f"GET / HTTP/1.1\r\n{host}{host}{cookie}".encode()).startswith(b"HTTP/1.1 400")
    assert by_link.raw(f"GET http://evil.example/ HTTP/1.1\r\n{host}{cookie}".encode()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_writes_from_other_sites_are_refused_even_with_the_token(
    by_link: ReviewServer, headers: dict[str, str], status: int
) -> None:
    headers = {name: value.format(port=by_link.port) for name, value in headers.items()}
    with by_link.reviewer() as browser:
        answer = browser.post("/verdicts", content="right", headers={"X-CSRF-Token": csrf_token(browser), **headers})
    assert answer.status_code == status
    assert by_link.verdicts == [("Grace", "right")] * (status == 200)


def test_other_sites_may_link_here_but_embed_nothing(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        for site in ["cross-site", "same-site"]:
            picture = browser.get("/images/1", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})
            link = browser.get("/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})
            assert (picture.status_code, link.status_code) == (403, 200)


def test_browsers_send_forms_without_origin_since_referrers_are_off(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        form = {"csrf_token": form_token(browser), "reviewer": "Ada", "password": PASSWORD}
        for site, status in [("cross-site", 403), ("same-origin", 303)]:
            headers = {"Origin": "null", "Sec-Fetch-Site": site}
            assert browser.post("/login", data=form, headers=headers).status_code == status


@pytest.mark.parametrize(
    "host", ["", "a/b", "*", "a b", "ftp://a", "http://u@a", "a:0", "a:99999", "a?b", "a\r\nb", "[::1"]
)
def test_a_host_that_is_none_is_an_error(host: str) -> None:
    with pytest.raises(FatalError, match="host of the review page"):
        Access.with_password([host], PASSWORD, False)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ANY"])
def test_no_method_but_get_and_head_passes_without_the_token(by_link: ReviewServer, method: str) -> None:
    with by_link.reviewer() as browser:
        answer = browser.request(method, "/verdicts")
        assert (answer.status_code, "lacks this session" in html.unescape(answer.text)) == (403, True)
    assert by_link.verdicts == []


def test_tokens_of_others_are_refused(by_password: ReviewServer) -> None:
    with by_password.browser() as ada, by_password.browser() as eve, by_password.browser() as form:
        by_password.sign_in(ada)
        by_password.sign_in(eve, "Eve")
        own, foreign = csrf_token(ada), csrf_token(eve)
        assert own != foreign
        for token in ["", "x", foreign, form_token(form), own.upper(), own[:-1]]:
            assert ada.post("/verdicts", headers={"X-CSRF-Token": token}).status_code == 403
        assert ada.post(f"/verdicts?csrf_token={own}", data={"csrf_token": own}).status_code == 403
        assert ada.post("/verdicts", content="right", headers={"X-CSRF-Token": own}).json() == {"reviewer": "Ada"}
    assert by_password.verdicts == [("Ada", "right")]


def test_a_token_of_an_earlier_session_is_refused(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        old = csrf_token(browser)
        browser.get(by_link.access.url)
        assert browser.post("/verdicts", headers={"X-CSRF-Token": old}).status_code == 403


def test_nobody_signs_another_browser_in(by_password: ReviewServer) -> None:
    with by_password.browser() as victim, by_password.browser() as attacker:
        victim.get("/login")
        form = {"csrf_token": form_token(attacker), "reviewer": "Eve", "password": PASSWORD}
        assert victim.post("/login", data=form).status_code == 403
        assert victim.post("/login", data={**form, "csrf_token": ""}).status_code == 403
        victim.cookies.clear()
        assert victim.post("/login", data=form).status_code == 403


def test_a_sign_in_form_expires(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        form = {"csrf_token": form_token(browser), "reviewer": "Ada", "password": PASSWORD}
        by_password.clock.now += 3600
        assert browser.post("/login", data=form).status_code == 403


def test_read_only_takes_no_writes_and_says_so() -> None:
    with serving("link", read_only=True) as server, server.reviewer() as browser:
        answer = browser.post("/verdicts", headers={"X-CSRF-Token": csrf_token(browser)})
        assert (answer.status_code, "read-only" in answer.text) == (403, True)
        assert server.verdicts == []
        assert browser.get("/images/1").status_code == 200
        assert browser.post("/logout", headers={"X-CSRF-Token": csrf_token(browser)}).status_code == 303
