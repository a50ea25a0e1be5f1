from __future__ import annotations

import httpx
import pytest
from review_server import PASSWORD, SECRET, ReviewServer, serving

from pipeline.review.access import Access
from storage.errors import FatalError


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:{port}", "localhost.evil.example", ""])
def test_other_host_names_are_refused_even_with_a_session(by_link: ReviewServer, host: str) -> None:
    with by_link.reviewer() as browser:
        assert browser.get("/", headers={"Host": host.format(port=by_link.port)}).status_code == 400
        assert browser.get("/", headers={"Host": f"LOCALHOST:{by_link.port}"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_writes_from_other_sites_are_refused(by_link: ReviewServer, headers: dict[str, str], status: int) -> None:
    headers = {name: value.format(port=by_link.port) for name, value in headers.items()}
    with by_link.reviewer() as browser:
        for method in ("POST", "PUT", "DELETE"):
            assert browser.request(method, "/verdicts", content="right", headers=headers).status_code == status
    assert by_link.verdicts == [("Grace", "right")] * (3 if status == 200 else 0)


def test_nobody_signs_another_browser_in_or_out(by_password: ReviewServer) -> None:
    with by_password.browser() as victim:
        victim.headers["Sec-Fetch-Site"] = "same-site"
        assert by_password.sign_in(victim, "Eve").status_code == 403
        victim.headers["Sec-Fetch-Site"] = "same-origin"
        assert by_password.sign_in(victim).status_code == 303
        assert victim.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert victim.get("/").text == "Ada"


@pytest.mark.parametrize("host", ["", "a/b", "*", "a b", "ftp://a", "http://u@a", "a?b", "a\r\nb", "[::1"])
def test_an_invalid_name_of_the_host_is_an_error(host: str) -> None:
    with pytest.raises(FatalError, match="not a host name"):
        Access(names=[host], secret=SECRET, password=PASSWORD)


def test_no_write_passes_without_a_session(by_link: ReviewServer) -> None:
    address = f"{by_link.origin}{by_link.access.path}/verdicts"
    for method in ["POST", "PUT", "DELETE"]:
        assert httpx.request(method, address, trust_env=False).status_code == 401
    for method in ["PATCH", "OPTIONS", "TRACE", "ANY"]:
        assert httpx.request(method, address, trust_env=False).status_code == 405
    assert by_link.verdicts == []


def test_read_only_takes_no_writes_and_says_so() -> None:
    with serving(read_only=True) as server, server.reviewer() as browser:
        answer = browser.post("/verdicts")
        assert (answer.status_code, "read-only" in answer.text) == (403, True)
        assert server.verdicts == []
        assert browser.get("/images/1").status_code == 200
