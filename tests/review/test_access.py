"""Who may open the review page, what no other site can make a browser do, and what each answer tells."""

import asyncio
import html
import logging
import socket

import httpx
import pytest
from fastapi import APIRouter, Request
from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner
from review_server import PASSWORD, SECRET, serving
from warm_process import wait_for

from pipeline.cli.review import _listen, read_password
from pipeline.review.access import (
    MAX_BODY,
    SECURITY_HEADERS,
    SESSION_SECONDS,
    VARIABLE,
    Access,
    kept_secret,
    protected,
    reviewer_of,
    server_settings,
)
from storage.errors import FatalError


def with_password(*names: str, password: str = PASSWORD) -> Access:
    return Access(names=names, secret=SECRET, password=password)


def test_the_link_opens_a_session_and_its_token_leaves_the_address(by_link):
    with by_link.browser() as browser:
        arrival = browser.get(by_link.access.url)
        assert (arrival.status_code, arrival.headers["location"]) == (303, by_link.access.path + "/")
        assert browser.get("/").text == "Grace"


def test_without_the_link_or_with_a_wrong_token_nothing_is_served(by_link):
    with by_link.browser() as browser:
        for path, status in {"/": 401, "/images/1": 401, "/docs": 404, "/openapi.json": 404, "/logout": 404}.items():
            assert browser.get(path).status_code == status
        assert "Open the link" in browser.get("/").text
        for path in ["/", "/login", "/static/review.js", by_link.access.path[:-1] + "/"]:
            assert httpx.get(by_link.origin + path, trust_env=False).status_code == 404, "nothing tells the path"
        for token in ("", "x", "%ff"):
            answer = browser.get(f"/login?token={token}")
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers


def test_name_and_password_open_a_session_and_scripts_are_not_led_to_the_form(by_password):
    root = by_password.access.path
    with by_password.browser() as browser:
        there = browser.get("/images/1?size=2")
        assert (there.status_code, there.headers["location"]) == (303, f"{root}/login?next=images%2F1%3Fsize%3D2")
        assert 'name="next" value="images/1?size=2"' in httpx.get(by_password.origin + there.headers["location"]).text
        arrival = by_password.sign_in(browser, next="images/1?size=2")
        assert (arrival.status_code, arrival.headers["location"]) == (303, f"{root}/images/1?size=2")
        assert browser.get("/").text == "Ada"
    answer = httpx.get(f"{by_password.origin}{by_password.access.path}/images/1", trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["status"] == 401


def test_no_other_password_and_no_token_open_a_session(by_password):
    with by_password.browser() as browser:
        for wrong in ["", PASSWORD + " "]:
            answer = by_password.sign_in(browser, password=wrong)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
            assert browser.get("/").status_code == 303
        assert by_password.access.token not in by_password.access.url
        browser.get(f"/login?token={by_password.access.token}")
        assert browser.get("/").status_code == 303


def test_a_wrong_password_holds_up_all_attempts(caplog):
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


def test_signing_out_takes_the_cookie_back_also_after_a_restart(tmp_path):
    with serving(PASSWORD, signed_out=tmp_path / "toy.ended") as server, server.browser() as browser:
        server.sign_in(browser)
        cookie = browser.cookies["rlip_review"]
        assert browser.get("/logout").status_code == 405
        answer = browser.post("/logout")
        assert (answer.status_code, answer.headers["location"]) == (303, server.access.path + "/login")
        assert not browser.cookies and browser.get("/").status_code == 303
        browser.cookies.set("rlip_review", cookie)
        assert browser.get("/").status_code == 303
    with serving(PASSWORD, signed_out=tmp_path / "toy.ended") as server, server.browser() as browser:
        browser.cookies.set("rlip_review", cookie)
        assert browser.get("/").status_code == 303


def test_a_proxy_names_the_reviewer_of_every_request():
    access = Access(names=["review.lab"], secret=SECRET, user_header="X-Forwarded-User")
    pages = APIRouter()

    @pages.get("/")
    def home(request: Request) -> str:
        return reviewer_of(request)

    client = TestClient(protected(pages, access), base_url="http://review.lab")
    page = f"{access.path}/"
    assert client.get(page).status_code == 401
    for name in ("Zoë", "bob"):
        assert client.get(page, headers={"X-Forwarded-User": name.encode()}).json() == name
    assert client.get(page, headers={"X-Forwarded-User": "../eve"}).status_code == 401
    assert client.get(page).status_code == 401, "no cookie takes the proxy's place"
    assert access.url == f"http://review.lab{access.path}/"
    with pytest.raises(FatalError, match="behind a proxy"):
        access.require_password_beyond_loopback("0.0.0.0")


def test_a_session_expires_and_nobody_else_can_make_one():
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


def test_sessions_survive_a_restart_but_not_another_password(tmp_path):
    secret = kept_secret(tmp_path / "indexes" / "toy.secret")
    with serving(PASSWORD, secret=secret) as server, server.browser() as browser:
        server.sign_in(browser)
        cookie = browser.cookies["rlip_review"]
    again = kept_secret(tmp_path / "indexes" / "toy.secret")
    for password, status in ((PASSWORD, 200), ("another password", 303), (None, 401)):
        with serving(password, secret=again) as server, server.browser() as browser:
            browser.cookies.set("rlip_review", cookie)
            assert browser.get("/").status_code == status


def test_a_session_by_link_ends_with_its_server():
    router = APIRouter()
    router.add_api_route("/", lambda: "page")
    before, after = (Access(names=["127.0.0.1"], secret=SECRET, reviewer=name) for name in ("ada", "bob"))
    client = TestClient(protected(router, before), base_url="http://127.0.0.1")
    client.get(before.url)
    other = TestClient(protected(router, after), base_url="http://127.0.0.1", cookies=client.cookies)
    assert [each.get(f"{before.path}/").status_code for each in (client, other)] == [200, 401]


def test_the_secret_is_its_owners_alone_and_a_torn_one_is_made_anew(tmp_path):
    file = tmp_path / "toy.secret"
    secret = kept_secret(file)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(secret[:20])
    assert len(kept_secret(file)) == 64
    with pytest.raises(FatalError, match=r"toy\.secret/x: the secret of the review page can't be read or written"):
        kept_secret(file / "x")


@pytest.mark.parametrize("origin", ["http://gpu7.lab", "https://review.example.org"])
def test_the_cookie_goes_to_no_script_no_other_site_or_path_and_behind_tls_over_tls_alone(origin):
    access = with_password(origin)
    client = TestClient(protected(APIRouter(), access), base_url=origin)
    form = {"reviewer": "Ada", "password": PASSWORD}
    answer = client.post(f"{access.path}/login", data=form, follow_redirects=False)
    parts = {part.lower() for part in answer.headers["set-cookie"].split("; ")[1:]}
    assert {"httponly", "samesite=strict", f"path={access.path}"} <= parts
    assert ("secure" in parts) == origin.startswith("https:")
    assert not any(part.startswith("domain") for part in parts) and access.url.startswith(f"{origin}/")


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "gpu7.lab", ""])
def test_an_address_that_others_reach_needs_a_password(address):
    with pytest.raises(FatalError, match="needs a password"):
        Access(names=["gpu7.lab"], secret=SECRET, reviewer="Grace").require_password_beyond_loopback(address)
    with_password("gpu7.lab:8765").require_password_beyond_loopback(address)


def test_a_short_password_and_an_invalid_name_of_the_host_are_errors():
    for password in ["", "1234567"]:
        with pytest.raises(FatalError, match="password"):
            with_password("gpu7.lab", password=password)
    for host in ["", "a/b", "ftp://a", "http://u@a", "a\r\nb", "[::1"]:
        with pytest.raises(FatalError, match="not a host name"):
            with_password(host)


def test_the_password_is_read_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    assert read_password({VARIABLE: "another one"}, file) == PASSWORD
    assert read_password({VARIABLE: "another one"}, None) == "another one"
    assert read_password({}, None) is None
    with pytest.raises(FatalError, match="--password-file"):
        read_password({VARIABLE: "another one"}, tmp_path / "absent")


def test_secrets_are_in_no_text_of_the_settings():
    link = Access(names=["127.0.0.1:8765"], secret=SECRET, reviewer="Grace")
    assert link.token in link.url
    shown = repr(link) + repr(with_password("gpu7.lab"))
    assert not any(secret in shown for secret in (link.token, SECRET, PASSWORD))
    assert not server_settings(protected(APIRouter(), link), "127.0.0.1", 8765).access_log, "it would hold the token"


def test_other_host_names_are_refused_even_with_a_session(by_link):
    with by_link.reviewer() as browser:
        for host in ("evil.example", f"127.0.0.1.evil.example:{by_link.port}", ""):
            assert browser.get("/", headers={"Host": host}).status_code == 400
        assert browser.get("/", headers={"Host": f"LOCALHOST:{by_link.port}"}).status_code == 200


def test_writes_from_other_sites_are_refused(by_link):
    own = {"Origin": f"http://127.0.0.1:{by_link.port}"}
    strange = [{"Origin": f"http://{host}"} for host in ("evil.example", "127.0.0.1:1", f"localhost:{by_link.port}")]
    strange += [{"Origin": "null"}, {"Origin": ""}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
    with by_link.reviewer() as browser:

        def statuses(headers: dict[str, str]) -> set[int]:
            methods = ("POST", "PUT", "DELETE")
            return {
                browser.request(each, "/verdicts", content="right", headers=headers).status_code for each in methods
            }

        assert [statuses(headers) for headers in strange] == [{403}] * len(strange)
        assert by_link.verdicts == []
        assert [statuses(headers) for headers in ({}, own, own | {"Sec-Fetch-Site": "same-origin"})] == [{200}] * 3
    assert by_link.verdicts == [("Grace", "right")] * 9


def test_nobody_signs_another_browser_in_or_out(by_password):
    with by_password.browser() as victim:
        victim.headers["Sec-Fetch-Site"] = "same-site"
        assert by_password.sign_in(victim, "Eve").status_code == 403
        victim.headers["Sec-Fetch-Site"] = "same-origin"
        assert by_password.sign_in(victim).status_code == 303
        assert victim.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert victim.get("/").text == "Ada"


def test_no_write_passes_without_a_session(by_link):
    address = f"{by_link.origin}{by_link.access.path}/verdicts"
    for status, methods in {401: ["POST", "PUT", "DELETE"], 405: ["PATCH", "OPTIONS", "TRACE", "ANY"]}.items():
        assert {httpx.request(each, address, trust_env=False).status_code for each in methods} == {status}
    assert by_link.verdicts == []


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused_even_in_chunks(by_link, chunked):
    with by_link.reviewer() as browser:
        for size, status in ((MAX_BODY, 200), (MAX_BODY + 1, 413), (1 << 20, 413)):
            body = b"x" * size
            pieces = (body[start : start + 5000] for start in range(0, size, 5000))
            assert browser.post("/verdicts", content=pieces if chunked else body).status_code == status
    assert [len(text) for _, text in by_link.verdicts] == [MAX_BODY]


def test_large_forms_and_heads_are_refused(by_password):
    with by_password.browser() as browser:
        assert by_password.sign_in(browser, password="x" * 70000).status_code == 413
        assert browser.post("/login", content=b"reviewer=\xff%ff&&=").status_code == 422
    unfinished = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{by_password.port}\r\nX: ".encode() + b"x" * 80000
    assert by_password.raw(unfinished).startswith(b"HTTP/1.1 400")


CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def test_every_response_has_the_security_headers(by_link):
    with by_link.browser() as stranger, by_link.reviewer() as browser:
        answers = [
            stranger.get("/"), stranger.get("/static/review.js"), stranger.get("/static/absent.js"),
            stranger.get(by_link.origin), stranger.get("/", headers={"Host": "evil.example"}),
            stranger.get(by_link.access.url), browser.get("/"), browser.get("/images/1"), browser.get("/absent"),
            browser.post("/verdicts", headers={"Origin": "null"}), browser.get("/fails"),
        ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [401, 200, 404, 404, 400, 303, 200, 200, 404, 403, 500]
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers.get_list(name) == [value]
        assert answer.headers["content-security-policy"] == CSP
        assert "server" not in answer.headers


def test_read_only_takes_no_writes_and_says_so_and_only_images_are_stored_privately():
    with serving(read_only=True) as server, server.reviewer() as browser:
        answer = browser.post("/verdicts")
        assert (answer.status_code, "read-only" in answer.text) == (403, True)
        assert server.verdicts == []
        caching = [browser.get(path).headers["cache-control"] for path in ("/", "/images/1", "/static/icon.svg")]
    assert caching == ["no-store", "private, max-age=600, immutable", "no-cache"]


def test_names_that_forge_headers_or_lines_are_refused(by_password):
    for name in ("  ", "x" * 65, "Ada\r\nSet-Cookie: a=b", "Ada\x1b[2J", "\u202eadA", "Ada\u2028"):
        with by_password.browser() as browser:
            assert by_password.sign_in(browser, name).status_code == 422
            assert browser.get("/").status_code == 303
        with pytest.raises(FatalError, match="reviewer"):
            Access(names=["127.0.0.1"], secret=SECRET, reviewer=name)


def test_names_are_text_never_markup(by_password):
    name = '"><script>alert(1)</script>'
    with by_password.browser() as browser:
        page = by_password.sign_in(browser, name, password="wrong one", next='"><script>').text
        assert "<script>" not in page
        assert html.escape("<script>alert") in page
        by_password.sign_in(browser, "  zoe@lab ")
        assert browser.get("/").text == "zoe@lab"


def test_nothing_redirects_to_another_site(by_password):
    for target in ("//evil.example", "/\\evil.example", "https://evil.example/", "\r\nSet-Cookie: a=b", ""):
        with by_password.browser() as browser:
            answer = by_password.sign_in(browser, next=target)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith(f"{by_password.access.path}/")
        (cookie,) = answer.headers.get_list("set-cookie")
        assert cookie.startswith("rlip_review=")


def test_errors_give_browsers_a_page_and_scripts_json(by_link, caplog):
    with by_link.reviewer() as browser, caplog.at_level(logging.ERROR):
        page, data = browser.get("/absent"), browser.get("/absent", headers={"Accept": "*/*"})
        assert "No image &lt;b&gt;17&lt;/b&gt;." in page.text
        assert data.json() == {"status": 404, "error": "No image <b>17</b>."}
        # The server closes the connection behind an error, which the next request must not use.
        failed = browser.get("/fails", headers={"Connection": "close"})
        assert failed.status_code == 500
        assert not any(word in failed.text for word in ["Traceback", "RuntimeError", "/data", ".py"])
        wait_for(lambda: "no such file: /data/private/images" in caplog.text or None, "the error is not in the log")
        wrong = browser.get("/images/<script>", headers={"Accept": "*/*"})
        assert wrong.status_code == 422
        assert "script" not in wrong.text
        assert "path.number" in wrong.json()["error"]


def test_a_port_that_is_taken_is_refused_with_advice():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(FatalError, match=rf"--port {port}: .*; name an address of this machine and a free port"):
            _listen("127.0.0.1", port)
