from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner
from review_server import PASSWORD, SECRET, ReviewServer, serving

from pipeline.review.access import VARIABLE, Access, kept_secret, read_password
from pipeline.review.entrance import SESSION_SECONDS, protected, server_settings
from storage.errors import FatalError


def with_password(*names: str, password: str = PASSWORD) -> Access:
    return Access(names=names, secret=SECRET, password=password)


def test_the_link_opens_a_session_and_its_token_leaves_the_address(by_link: ReviewServer) -> None:
    with by_link.browser() as browser:
        arrival = browser.get(by_link.access.url)
        assert (arrival.status_code, arrival.headers["location"]) == (303, by_link.access.path + "/")
        assert browser.get("/").text == "Grace"


def test_without_the_link_nothing_is_served(by_link: ReviewServer) -> None:
    with by_link.browser() as browser:
        for path, status in {"/": 401, "/images/1": 401, "/docs": 404, "/openapi.json": 404, "/logout": 404}.items():
            assert browser.get(path).status_code == status
        assert "Open the link" in browser.get("/").text
        for path in ["/", "/login", "/static/review.js", by_link.access.path[:-1] + "/"]:
            assert httpx.get(by_link.origin + path, trust_env=False).status_code == 404, "nothing tells the path"


@pytest.mark.parametrize("token", ["", "x", "é", "%ff", "' OR 1=1 --"])
def test_a_wrong_token_opens_nothing(by_link: ReviewServer, token: str) -> None:
    with by_link.browser() as browser:
        answer = browser.get(f"/login?token={token}")
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


def test_a_token_opens_no_server_with_a_password(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        assert by_password.access.token not in by_password.access.url
        browser.get(f"/login?token={by_password.access.token}")
        assert browser.get("/").status_code == 303


def test_name_and_password_open_a_session(by_password: ReviewServer) -> None:
    root = by_password.access.path
    with by_password.browser() as browser:
        there = browser.get("/images/1?size=2")
        assert (there.status_code, there.headers["location"]) == (303, f"{root}/login?next=images%2F1%3Fsize%3D2")
        assert 'name="next" value="images/1?size=2"' in httpx.get(by_password.origin + there.headers["location"]).text
        arrival = by_password.sign_in(browser, next="images/1?size=2")
        assert (arrival.status_code, arrival.headers["location"]) == (303, f"{root}/images/1?size=2")
        assert browser.get("/").text == "Ada"


def test_scripts_and_images_are_refused_and_not_led_to_the_sign_in_page(by_password: ReviewServer) -> None:
    answer = httpx.get(f"{by_password.origin}{by_password.access.path}/images/1", trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["status"] == 401


def test_the_right_password_is_the_only_one(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        for wrong in ["", PASSWORD + " "]:
            answer = by_password.sign_in(browser, password=wrong)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
            assert browser.get("/").status_code == 303


def test_a_wrong_password_holds_up_all_attempts(caplog: pytest.LogCaptureFixture) -> None:
    access = Access(names=["127.0.0.1"], secret=SECRET, password=PASSWORD, wrong_password_seconds=3600.0)
    page = httpx.ASGITransport(protected(APIRouter(), access))

    async def attempts() -> list[str]:
        async with httpx.AsyncClient(transport=page, base_url=f"http://127.0.0.1{access.path}") as browser:
            sent = []
            for password in ("a guess", PASSWORD):
                form = {"reviewer": "Eve", "password": password}
                sent.append(asyncio.create_task(browser.post("/login", data=form), name=password))
                while "wrong password" not in caplog.text:
                    await asyncio.sleep(0.001)
            answered, waiting = await asyncio.wait(sent, timeout=0.3)
            for task in waiting:
                task.cancel()
            return [task.get_name() for task in answered]

    assert asyncio.run(attempts()) == []


def test_signing_out_takes_the_cookie_back(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        by_password.sign_in(browser)
        assert browser.get("/logout").status_code == 405
        answer = browser.post("/logout")
        assert (answer.status_code, answer.headers["location"]) == (303, by_password.access.path + "/login")
        assert not browser.cookies and browser.get("/").status_code == 303


def test_a_session_expires_and_nobody_else_can_make_one() -> None:
    access = Access(names=["127.0.0.1"], secret=SECRET, reviewer="Grace")
    client = TestClient(protected(APIRouter(), access), base_url="http://127.0.0.1", follow_redirects=False)
    content = client.get(access.url).cookies["rlip_review"].strip('"').partition(".")[0]

    class Earlier(TimestampSigner):
        def get_timestamp(self) -> int:
            return super().get_timestamp() - SESSION_SECONDS - 1

    router = APIRouter()
    router.add_api_route("/", lambda: "page")
    app = protected(router, access)
    statuses = []
    for signer in (
        TimestampSigner(access.session_key), Earlier(access.session_key), TimestampSigner("another key"),
    ):  # fmt: skip
        stranger = TestClient(app, base_url="http://127.0.0.1", cookies={"rlip_review": signer.sign(content).decode()})
        statuses.append(stranger.get(access.path + "/").status_code)
    assert statuses == [200, 401, 401]


def test_sessions_survive_a_restart_but_not_another_password(tmp_path: Path) -> None:
    secret = kept_secret(tmp_path / "indexes" / "toy.secret")
    with serving(PASSWORD, secret=secret) as server, server.browser() as browser:
        server.sign_in(browser)
        cookie = browser.cookies["rlip_review"]
    again = kept_secret(tmp_path / "indexes" / "toy.secret")
    for password, status in ((PASSWORD, 200), ("another password", 303), (None, 401)):
        with serving(password, secret=again) as server, server.browser() as browser:
            browser.cookies.set("rlip_review", cookie)
            assert browser.get("/").status_code == status


def test_the_secret_is_its_owners_alone_and_a_torn_one_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "toy.secret"
    secret = kept_secret(file)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(secret[:20])
    assert len(kept_secret(file)) == 64
    with pytest.raises(FatalError, match=r"toy\.secret/x: the secret of the review page can't be kept"):
        kept_secret(file / "x")


def test_the_cookie_goes_to_no_script_no_other_site_and_no_other_path(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        parts = {part.lower() for part in by_password.sign_in(browser).headers["set-cookie"].split("; ")[1:]}
    assert {"httponly", "samesite=strict", f"path={by_password.access.path}"} <= parts
    assert not any(part.startswith("domain") for part in parts)


def test_behind_tls_the_cookie_travels_over_tls_only() -> None:
    access = with_password("https://review.example.org")
    client = TestClient(protected(APIRouter(), access), base_url="https://review.example.org")
    form = {"reviewer": "Ada", "password": PASSWORD}
    answer = client.post(f"{access.path}/login", data=form, follow_redirects=False)
    assert "secure" in answer.headers["set-cookie"].split("; ")
    assert access.url.startswith("https://review.example.org/")


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.5", "gpu7.lab", ""])
def test_an_address_that_others_reach_needs_a_password(address: str) -> None:
    with pytest.raises(FatalError, match="needs a password"):
        Access(names=["gpu7.lab"], secret=SECRET, reviewer="Grace").require_password_beyond_loopback(address)
    with_password("gpu7.lab:8765").require_password_beyond_loopback(address)


def test_a_short_password_is_an_error() -> None:
    for password in ["", "1234567"]:
        with pytest.raises(FatalError, match="password"):
            with_password("gpu7.lab", password=password)


def test_the_password_is_read_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    assert read_password({VARIABLE: "another one"}, file) == PASSWORD
    assert read_password({VARIABLE: "another one"}, None) == "another one"
    assert read_password({}, None) is None
    with pytest.raises(FatalError, match="--password-file"):
        read_password({VARIABLE: "another one"}, tmp_path / "absent")


def test_secrets_are_in_no_text_of_the_settings() -> None:
    link = Access(names=["127.0.0.1:8765"], secret=SECRET, reviewer="Grace")
    assert link.token in link.url
    shown = repr(link) + repr(with_password("gpu7.lab"))
    assert not any(secret in shown for secret in (link.token, SECRET, PASSWORD))
    assert not server_settings(protected(APIRouter(), link), "127.0.0.1", 8765).access_log, "it would hold the token"
