"""Long passes by keys: each verdict is in the log once, also when the server dies at its answer."""

from collections import Counter
from urllib.request import HTTPCookieProcessor, build_opener

import numpy as np
import pytest
from review_browser import Served, served
from review_runs import many_images
from run_builder import RunBuilder

from review_keyboard import KEYS, keyboard_pass

KINDS = {"a": "accept", "r": "reject", "u": "unsure"}
LABELS = 80


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> RunBuilder:
    return many_images(tmp_path_factory.mktemp("keyboard"), images=LABELS + 40)


def judged(server: Served, reviewer: str = "ada") -> list[tuple[int, str]]:
    """Image and kind of each verdict in the log. Each image of the run has one label."""
    return [(row["image_id"], row["kind"]) for row in server.log(reviewer)]


def test_a_long_pass_is_logged_exactly_once(window, book, tmp_path):
    with served(book.run.store.root, "many", "--verdicts", str(tmp_path)) as server:
        with build_opener(HTTPCookieProcessor()).open(server.url) as answer:
            assert answer.status == 200, "the printed link can be followed at once"
        window.visit(server)
        times = keyboard_pass(window, LABELS, ahead=20)
        assert [one["key"] for one in times] == [KEYS[place % len(KEYS)] for place in range(LABELS)]
        assert judged(server) == [(place + 1, KINDS[KEYS[place % len(KEYS)]]) for place in range(LABELS)]
        window.open("/labels?order=image&reviewed=yes")
        assert window.text("h1") == f"{LABELS} labels"
        alone = keyboard_pass(window, 20)
        share = [one["shown"] - one["request"] for one in alone]
        print(
            f"\nthe page's own share of a verdict: p50 {np.percentile(share, 50):.0f} ms, p95 {np.percentile(share, 95):.0f} ms"
        )


def test_a_server_killed_at_its_answer_loses_no_verdict(window, book, tmp_path):
    shown: dict[int, str] = {}
    for kill_after in (1, 9):
        with served(book.run.store.root, "many", "--verdicts", str(tmp_path)) as server:
            window.visit(server, "/labels?order=image&reviewed=no")
            assert dict(judged(server)).items() >= shown.items()
            window.press(*KEYS * 2)
            window.until(lambda least=kill_after: window.count(".chip:not([data-kind=''])") >= least)
            server.kill()
            window.has("#message", "The server can't be reached. Not recorded yet")
            found = window.script(
                "return [...document.querySelectorAll('.chip:not([data-kind=\"\"])')]"
                ".map((c) => [Number(c.querySelector('svg').ariaLabel.split(' ').at(-1)), c.dataset.kind])"
            )
            shown |= dict(found)
            lines = judged(server)
            assert dict(lines).items() >= shown.items()
            assert set(Counter(image for image, _ in lines).values()) == {1}
        expected = (
            "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_SOCKET_NOT_CONNECTED",
            "ERR_CONTENT_LENGTH_MISMATCH",
        )  # fmt: skip
        assert [error for error in window.errors() if not any(part in error for part in expected)] == []
    with served(book.run.store.root, "many", "--verdicts", str(tmp_path)) as server:
        window.visit(server, "/labels?order=image&reviewed=yes")
        assert window.text("h1") == f"{len(dict(judged(server)))} labels"
