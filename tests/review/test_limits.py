from __future__ import annotations

import pytest
from review_server import ReviewServer

from pipeline.review.entrance import MAX_BODY


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(MAX_BODY, 200), (MAX_BODY + 1, 413), (1 << 20, 413)])
def test_large_bodies_are_refused_announced_or_in_chunks(
    by_link: ReviewServer, chunked: bool, size: int, status: int
) -> None:
    body = b"x" * size
    pieces = (body[start : start + 5000] for start in range(0, size, 5000))
    with by_link.reviewer() as browser:
        answer = browser.post("/verdicts", content=pieces if chunked else body)
        assert answer.status_code == status
        assert [len(text) for _, text in by_link.verdicts] == [size] * (status == 200)


def test_a_large_sign_in_form_is_refused(by_password: ReviewServer) -> None:
    with by_password.browser() as browser:
        assert by_password.sign_in(browser, password="x" * 70000).status_code == 413
        assert browser.post("/login", content=b"reviewer=\xff%ff&&=").status_code == 422


def test_long_heads_are_refused(by_link: ReviewServer) -> None:
    unfinished = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{by_link.port}\r\nX: ".encode() + b"x" * 80000
    assert by_link.raw(unfinished).startswith(b"HTTP/1.1 400")
