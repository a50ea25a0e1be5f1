from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from review_server import PASSWORD, ReviewServer, csrf_token, serving
from starlette.requests import Request

from pipeline.review.access.password import VARIABLE, read_password
from pipeline.review.access.protect import protect, session_of
from pipeline.review.access.server import server_settings
from pipeline.review.access.terms import Access
from storage.errors import FatalError


def test_the_link_opens_a_session_and_its_token_leaves_the_address(by_link: ReviewServer) -> None:
    with by_link.browser() as browser:
        arrival = browser.get(by_link.access.url + "&page=3")
        assert (arrival.status_code, arrival.headers["location"]) == (303, "/?page=3")
        assert browser.get("/").text.endswith("Grace")


def test_without_the_link_nothing_is_served(by_link: ReviewServer) -> None:
    with by_link.browser() as browser:
        for path in ["/", "/images/1", "/openapi.json", "/docs", "/nowhere", "/login"]:
            answer = browser.get(path)
            assert answer.status_code == 401
            assert "Open the link" in answer.text


@pytest.mark.parametrize("token", ["", "x", "é", "%ff", "' OR 1=1 --"])
def test_a_wrong_token_opens_nothing(by_link: ReviewServer, token: str) -> None:
    with by_link.browser() as browser:
        answer = browser.get(f"/?token={token}")
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


def test_a_server_with_a_password_has_no_token(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        assert by_password.access.url == by_password.access.token == ""
        answer = browser.get("/?token=")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2F%3Ftoken%3D")
        assert "set-cookie" not in answer.headers


def test_name_and_password_open_a_session(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        there = browser.get("/images/1?size=2")
        assert (there.status_code, there.headers["location"]) == (303, "/login?next=%2Fimages%2F1%3Fsize%3D2")
        page = browser.get(there.headers["location"])
        assert 'name="next" value="/images/1?size=2"' in page.text
        arrival = by_password.sign_in(browser, next="/images/1?size=2")
        assert (arrival.status_code, arrival.headers["location"]) == (303, "/images/1?size=2")
        assert browser.get("/").text.endswith("Ada")


def test_scripts_and_pictures_are_refused_and_not_led_to_the_sign_in_page(by_password: ReviewServer) -> None:
    answer = httpx.get(f"{by_password.origin}/images/1", trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["status"] == 401


def test_the_right_password_is_the_only_one(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        for wrong in ["", PASSWORD + " "]:
            answer = by_password.sign_in(browser, password=wrong)
            assert answer.status_code == 401
            assert by_password.cookie + "=" not in answer.headers.get("set-cookie", "")
            assert browser.get("/").status_code == 303


def test_signing_out_ends_the_session_everywhere(by_password: ReviewServer) -> None:
    with by_password.browser() as browser, by_password.browser() as copy:
        by_password.sign_in(browser)
        copy.cookies.set(by_password.cookie, browser.cookies[by_password.cookie])
        assert browser.post("/logout", data={"csrf_token": "x"}).status_code == 403
        assert browser.get("/logout").status_code == 405
        answer = browser.post("/logout", data={"csrf_token": csrf_token(browser)})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert browser.get("/").status_code == copy.get("/").status_code == 303


def test_scripts_sign_out_with_the_header(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        assert browser.post("/logout", headers={"X-CSRF-Token": csrf_token(browser)}).status_code == 303
        assert browser.get("/").status_code == 401


def test_a_session_expires(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        token = csrf_token(browser)
        by_link.clock.now += 12 * 3600 - 1
        assert browser.get("/").status_code == 200
        by_link.clock.now += 1
        assert browser.get("/").status_code == 401
        assert browser.post("/verdicts", headers={"X-CSRF-Token": token}).status_code == 401
    assert by_link.verdicts == []


def test_signing_in_starts_a_session_with_a_new_id_and_ends_the_old_one(by_password: ReviewServer) -> None:
    with by_password.browser() as browser, by_password.browser() as planted:
        planted.cookies.set(by_password.cookie, "planted")
        by_password.sign_in(planted)
        assert planted.cookies.get(by_password.cookie, path="/", domain="127.0.0.1") != "planted"
        by_password.sign_in(browser)
        old = browser.cookies[by_password.cookie]
        by_password.sign_in(browser)
        assert browser.cookies[by_password.cookie] != old
        assert (
            httpx.get(f"{by_password.origin}/", cookies={by_password.cookie: old}, trust_env=False).status_code == 401
        )


def test_too_many_sessions_end_the_oldest() -> None:
    with (
        serving("link", sessions=2) as server,
        server.reviewer() as first,
        server.reviewer(),
        server.reviewer() as last,
    ):
        assert (first.get("/").status_code, last.get("/").status_code) == (401, 200)


def test_no_script_and_no_other_site_gets_the_cookie(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        form = browser.get("/login").headers["set-cookie"]
        session = by_password.sign_in(browser).headers["set-cookie"]
    for name, cookie in [(by_password.cookie + "_login", form), (by_password.cookie, session)]:
        parts = cookie.split("; ")
        assert parts[0].startswith(name + "=")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(parts)
        assert not any(part.startswith("Domain") for part in parts)


def test_behind_tls_the_cookie_travels_over_tls_only() -> None:
    access = Access.with_password(["https://review.example.org"], PASSWORD, False)
    client = TestClient(protect(FastAPI(), access), base_url="https://review.example.org")
    cookie = client.get("/login").headers["set-cookie"]
    assert cookie.startswith("__Host-rlip_review_")
    assert "Secure" in cookie.split("; ")


def test_servers_on_two_ports_have_two_sessions(by_link: ReviewServer) -> None:
    with serving("link") as other, by_link.reviewer() as browser:
        browser.get(other.access.url)
        assert {by_link.cookie, other.cookie} <= set(browser.cookies)
        assert browser.get("/").status_code == browser.get(other.origin + "/").status_code == 200


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.5", "gpu7.lab", ""])
def test_an_address_that_others_reach_needs_a_password(address: str) -> None:
    link = Access.local(8765, "Grace", False)
    with pytest.raises(FatalError, match="needs a password"):
        server_settings(protect(FastAPI(), link), link, address, 8765)
    shared = Access.with_password(["gpu7.lab:8765"], PASSWORD, False)
    assert server_settings(protect(FastAPI(), shared), shared, address, 8765).host == address


def test_a_short_password_is_an_error() -> None:
    for password in ["", "1234567", "x" * 1025]:
        with pytest.raises(FatalError, match="password"):
            Access.with_password(["gpu7.lab"], password, False)


def test_the_password_is_read_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    assert read_password({VARIABLE: "another one"}, file) == PASSWORD
    assert read_password({VARIABLE: "another one"}, None) == "another one"
    assert read_password({}, None) is None
    with pytest.raises(FatalError, match="--password-file"):
        read_password({VARIABLE: "another one"}, tmp_path / "absent")


def test_secrets_are_in_no_text_of_the_settings() -> None:
    link = Access.local(8765, "Grace", False)
    assert link.token in link.url
    assert link.token not in repr(link)
    assert not server_settings(protect(FastAPI(), link), link, "127.0.0.1", 8765).access_log, "it would hold the token"
    assert PASSWORD not in repr(vars(Access.with_password(["gpu7.lab"], PASSWORD, False).password))


def test_an_application_without_the_gate_knows_no_reviewer() -> None:
    with pytest.raises(LookupError, match="without a session"):
        session_of(Request({"type": "http", "path": "/", "headers": []}))
