from __future__ import annotations

import threading
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from review_server import PASSWORD, PROXIED, Clock, ReviewServer, csrf_token, form_token, serving

from pipeline.review.access.failed_attempts import ADDRESSES, FREE, FailedAttempts
from pipeline.review.access.protect import protect
from pipeline.review.access.rate_limit import KEYS, RateLimit
from pipeline.review.access.terms import Access


def test_wrong_passwords_slow_an_address_down(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        for _ in range(3):
            assert by_password.sign_in(browser, password="guess").status_code == 401
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]:
            early = by_password.sign_in(browser)
            assert (early.status_code, early.headers["retry-after"]) == (429, str(wait))
            by_password.clock.now += wait
            assert by_password.sign_in(browser, password="guess").status_code == 401
        by_password.clock.now += 900
        assert by_password.sign_in(browser).status_code == 303
        assert by_password.sign_in(browser, password="guess").status_code == 401
        assert by_password.sign_in(browser).status_code == 303


def test_guesses_at_the_same_time_count_as_well(by_password: ReviewServer) -> None:
    statuses: list[int] = []
    browsers = [by_password.browser() for _ in range(12)]
    forms = [{"csrf_token": form_token(browser), "reviewer": "Eve", "password": "guess"} for browser in browsers]

    def guess(browser: httpx.Client, form: dict[str, str]) -> None:
        statuses.append(browser.post("/login", data=form, timeout=60).status_code)
        browser.close()

    threads = [threading.Thread(target=guess, args=pair) for pair in zip(browsers, forms, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [401] * 3 + [429] * 9


def test_clients_cannot_choose_the_address_by_which_they_are_counted(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        statuses = []
        for number in range(4):
            browser.headers["X-Forwarded-For"] = f"10.0.0.{number}"
            statuses.append(by_password.sign_in(browser, password="guess").status_code)
    assert statuses == [401, 401, 401, 429]


def test_a_tls_proxy_says_who_its_clients_are() -> None:
    with serving("proxy") as server, server.browser() as browser:
        browser.headers["Host"] = PROXIED

        def guess(address: str) -> int:
            browser.headers["X-Forwarded-For"] = address
            # A client without TLS keeps no cookie that TLS protects, so the proxy's part is played by hand.
            page = browser.get("/login")
            browser.headers["Cookie"] = page.headers["set-cookie"].partition(";")[0]
            token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
            form = {"csrf_token": token, "reviewer": "Eve", "password": "guess"}
            headers = {"Origin": f"https://{PROXIED}", "X-Forwarded-Proto": "https"}
            return browser.post("/login", data=form, headers=headers).status_code

        assert [guess("10.0.0.1") for _ in range(4)] == [401, 401, 401, 429]
        assert guess("10.0.0.2") == 401
        # What a client puts there itself, the proxy appends to.
        assert guess("10.0.0.3, 10.0.0.1") == 429


def test_all_addresses_together_get_few_guesses() -> None:
    access = replace(Access.with_password(["review.lab"], PASSWORD, False), clock=Clock())
    gate = protect(FastAPI(), access)
    statuses = []
    for number in range(access.limits.sign_in_burst + 5):
        client = TestClient(gate, base_url="http://review.lab", client=(f"10.0.0.{number}", 1), follow_redirects=False)
        form = {"csrf_token": form_token(client), "reviewer": "Eve", "password": "guess"}
        statuses.append(client.post("/login", data=form).status_code)
    assert statuses == [401] * access.limits.sign_in_burst + [429] * 5


def test_one_network_of_ipv6_is_one_address() -> None:
    gate = protect(FastAPI(), replace(Access.with_password(["review.lab"], PASSWORD, False), clock=Clock()))
    statuses = []
    for number in range(4):
        client = TestClient(
            gate, base_url="http://review.lab", client=(f"2001:db8::{number}", 1), follow_redirects=False
        )
        form = {"csrf_token": form_token(client), "reviewer": "Eve", "password": "guess"}
        statuses.append(client.post("/login", data=form).status_code)
    assert statuses == [401, 401, 401, 429]


def test_a_fast_reviewer_never_meets_the_rates(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        token = {"X-CSRF-Token": csrf_token(browser)}
        for _ in range(6):
            for _ in range(3):
                assert browser.get("/").status_code == 200
                for number in range(20):
                    assert browser.get(f"/images/{number}").status_code == 200
            for _ in range(10):
                assert browser.post("/verdicts", headers=token).status_code == 200
            by_link.clock.now += 1


def test_a_session_that_asks_too_fast_has_to_wait() -> None:
    with (
        serving("link", session_burst=5, session_per_second=0.5) as server,
        server.reviewer() as browser,
        server.reviewer() as other,
    ):
        assert [browser.get("/").status_code for _ in range(6)] == [200] * 5 + [429]
        assert browser.get("/").headers["retry-after"] == "2"
        assert other.get("/").status_code == 200
        server.clock.now += 2
        assert [browser.get("/").status_code for _ in range(2)] == [200, 429]


def test_an_address_without_session_that_asks_too_fast_has_to_wait() -> None:
    with serving("link", address_burst=4, address_per_second=1) as server, server.browser() as browser:
        assert [browser.get("/?token=x").status_code for _ in range(5)] == [401] * 4 + [429]


def test_an_address_that_comes_when_the_most_are_remembered_has_its_rate_as_well() -> None:
    rate = RateLimit(per_second=1, burst=2, clock=Clock())
    for number in range(KEYS):
        rate.take(f"crowd {number}")
    assert [rate.take("late") for _ in range(3)] == [0, 0, 1]


def test_an_address_that_guesses_when_the_most_are_remembered_has_to_wait_as_well() -> None:
    failed = FailedAttempts(Clock())
    failed.begin("early")
    for number in range(ADDRESSES - 1):
        failed.begin(f"crowd {number}")
    for address in ("early", "late"):
        for _ in range(FREE):
            failed.begin(address)
    assert failed.wait("late") == 1 and failed.wait("early") > 0, "the idlest are forgotten, not the newest"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(65536, 200), (65537, 413), (1 << 20, 413)])
def test_large_bodies_are_refused_announced_or_in_chunks(
    by_link: ReviewServer, chunked: bool, size: int, status: int
) -> None:
    body = b"x" * size
    pieces = (body[start : start + 5000] for start in range(0, size, 5000))
    with by_link.reviewer() as browser:
        headers = {"X-CSRF-Token": csrf_token(browser)}
        answer = browser.post("/verdicts", content=pieces if chunked else body, headers=headers)
        assert answer.status_code == status
        assert [len(text) for _, text in by_link.verdicts] == [size] * (status == 200)


def test_a_large_sign_in_form_is_refused(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        assert by_password.sign_in(browser, password="x" * 70000).status_code == 413
        assert by_password.sign_in(browser, **{f"f{n}": "x" for n in range(20)}).status_code == 422
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        assert browser.post("/login", content=b"--x--", headers=headers).status_code == 415
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert browser.post("/login", content=b"reviewer=\xff%ff", headers=headers).status_code == 422


def test_a_body_that_never_comes_is_not_waited_for() -> None:
    with serving("link", body_seconds=0.2) as server, server.reviewer() as browser:
        head = (
            f"POST /verdicts HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 10\r\nConnection: close\r\n"
            f"Cookie: {server.cookie}={browser.cookies[server.cookie]}\r\nX-CSRF-Token: {csrf_token(browser)}\r\n\r\nhalf"
        )
        assert server.raw(head.encode()).startswith(b"HTTP/1.1 408")
        assert server.verdicts == []


def test_long_heads_are_refused(by_link: ReviewServer) -> None:
    with by_link.reviewer() as browser:
        assert browser.get("/", headers={"X-Long": "x" * 15000}).status_code == 200
        assert browser.get("/", headers={"X-Long": "x" * 17000}).status_code in {400, 431}
        assert browser.get("/?" + "x" * 17000).status_code in {400, 431}
    unfinished = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{by_link.port}\r\nX: ".encode() + b"x" * 40000
    assert by_link.raw(unfinished).startswith(b"HTTP/1.1 400")
