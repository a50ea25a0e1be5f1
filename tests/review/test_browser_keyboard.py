"""Long passes by keys: each verdict is in the log once, also when the server dies at its answer."""

from collections import Counter
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from review_browser import Served, served
from review_runs import many_images
from run_builder import RunBuilder

from benchmarks.review_keyboard import KEYS, keyboard_pass

KINDS = {"a": "accept", "r": "reject", "u": "unsure"}
LABELS = 40


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> RunBuilder:
    return many_images(tmp_path_factory.mktemp("keyboard"), images=LABELS + 20)


def judged(server: Served, reviewer: str = "ada") -> list[tuple[int, str]]:
    """Image and kind of each verdict in the log. Each image of the run has one label."""
    return [(row["image_id"], row["kind"]) for row in server.log(reviewer)]


def test_a_long_pass_is_logged_exactly_once(window, book, tmp_path):
    with served(book.run.store.root, "many", "--verdicts", str(tmp_path)) as server:
        with build_opener(HTTPCookieProcessor()).open(server.url) as answer:
            assert answer.status == 200, "the printed link can be followed at once"
        window.visit(server)
        assert len(keyboard_pass(window, LABELS, ahead=20)) == LABELS
        assert judged(server) == [(place + 1, KINDS[KEYS[place % len(KEYS)]]) for place in range(LABELS)]
        window.open("/labels?order=image&reviewed=yes")
        assert window.text("h1") == f"{LABELS} labels"


def test_a_server_killed_at_its_answer_loses_no_verdict(window, book, tmp_path):
    with served(book.run.store.root, "many", "--verdicts", str(tmp_path)) as server:
        window.visit(server, "/labels?order=image&reviewed=no")
        window.press(*KEYS * 2)
        window.until(lambda: window.count(".chip:not([data-kind=''])") >= 5)
        server.kill()
        window.has("#message", "The server can't be reached. Not recorded yet")
        shown = window.script(
            "return [...document.querySelectorAll('.chip:not([data-kind=\"\"])')]"
            ".map((c) => [Number(c.querySelector('svg').ariaLabel.split(' ').at(-1)), c.dataset.kind])"
        )
        lines = judged(server)
        assert dict(lines).items() >= dict(shown).items()
        assert set(Counter(image for image, _ in lines).values()) == {1}
    expected = (
        "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_SOCKET_NOT_CONNECTED",
        "ERR_CONTENT_LENGTH_MISMATCH",
    )  # fmt: skip
    assert [error for error in window.errors() if not any(part in error for part in expected)] == []
    with served(book.run.store.root, "many", "--verdicts", str(tmp_path)) as server:
        window.visit(server, "/labels?order=image&reviewed=yes")
        assert window.text("h1") == f"{len(dict(lines))} labels"
