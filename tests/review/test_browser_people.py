"""Several reviewers, a page that takes no verdicts, another run beside this one, and a run that grows."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from review_browser import Browser, Served, served
from review_runs import add_partition, review_run
from run_builder import RunBuilder

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> RunBuilder:
    folder = tmp_path_factory.mktemp("people")
    review_run(folder, "other", lower=0.2)
    return review_run(folder)


@pytest.fixture(scope="module")
def shared_server(book: RunBuilder) -> Iterator[Served]:
    """A server that takes each reviewer's name and the password."""
    with served(book.run.store.root, "toy", env={"RLIP_REVIEW_PASSWORD": PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def reader(book: RunBuilder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without verdicts, of a run beside another one, in a store of its own: a store has one server for each run."""
    folder = tmp_path_factory.mktemp("reader")
    review_run(folder, "other", lower=0.2)
    own = review_run(folder)
    with served(own.run.store.root, "toy", "--read-only", "--against", "other") as running:
        yield running


def sign_in(window: Browser, server: Served, name: str, password: str = PASSWORD, path: str = "/") -> None:
    """Open a page as a stranger and fill in the form that comes instead."""
    window.clear_cookies()
    window.server = server
    window.driver.get(server.root + path)
    window.find("#reviewer").send_keys(name)
    window.find("#password").send_keys(password)
    window.find("button").click()


def test_two_reviewers_see_each_other_and_the_audit_states_their_agreement(
    window: Browser, shared_server: Served
) -> None:
    address = "/labels?predicate=ride&order=image"
    for name, keys in (("ada", "aarru"), ("Zoë", "aaraa")):
        sign_in(window, shared_server, name, path=address)
        window.until(lambda: window.query() == address)
        window.ready()
        assert window.text(".reviewer") == f"as {name}"
        # Nobody sees what others said before they have judged themselves.
        assert not any(window.texts(".chip .others"))
        window.press(*keys)
        window.until(lambda: window.count(".chip:not([data-kind=''])") == 5)
    assert shared_server.kinds("ride", "ada") == ["accept", "accept", "reject", "reject", "unsure"]
    assert shared_server.kinds("ride", "Zoë") == ["accept", "accept", "reject", "accept", "accept"]
    window.open(address)
    assert window.texts(".chip .others")[:5] == [
        f"ada: {k}" for k in ("accept", "accept", "reject", "reject", "unsure")
    ]
    assert window.text("#reviewed") == "5"
    window.open("/audit")
    assert window.texts("tbody td:first-child")[-2:] == ["Zoë", "ada"]
    # Observed agreement 3/5; by chance 2/5 · 4/5 + 2/5 · 1/5 = 2/5. Kappa is (3/5 - 2/5) / (1 - 2/5) = 1/3.
    assert "Zoë and ada: 0.333 (Cohen) on 5" in window.text("main")
    assert "(Fleiss) on 5 labels" in window.text("main")


def test_a_wrong_password_opens_nothing(window: Browser, shared_server: Served) -> None:
    sign_in(window, shared_server, "eve", "guess", "/labels")
    window.has("main", "That is not the password")
    assert all("401" in error for error in window.errors())
    assert window.violations() == []
    window.driver.get(shared_server.root + "/labels")
    assert window.text("h1") == "Sign in"
    sign_in(window, shared_server, "../eve")
    window.has("main", "No such name")
    assert all("422" in error for error in window.errors())
    assert not list(shared_server.verdicts.glob("*eve*"))


def test_a_reviewer_signs_out(window: Browser, shared_server: Served) -> None:
    sign_in(window, shared_server, "ada")
    window.until(lambda: window.text("h1") == "Overview")
    window.find("form[action='logout'] button").click()
    window.until(lambda: window.text("h1") == "Sign in")
    window.driver.get(shared_server.root + "/labels")
    assert window.text("h1") == "Sign in"


def test_a_read_only_page_shows_all_and_takes_nothing(window: Browser, reader: Served) -> None:
    window.visit(reader, "/labels?predicate=ride")
    assert window.text(".reviewer") == "read only" and window.count("[data-action]") == 0
    window.press(*"aruzpw")
    window.press_shift("A")
    assert window.query() == "/labels?predicate=ride" and not window.find("#predicate").is_displayed()
    window.find(".chip a.crop").click()
    window.until(lambda: window.count("#image") == 1)
    window.ready()
    window.press(*"arup")
    window.press("w")
    assert window.count("#picking") == 0
    assert window.text("#message") == "" and not reader.verdicts.exists()


def test_another_run_is_counted_and_its_differences_are_found(window: Browser, reader: Served) -> None:
    window.visit(reader)
    rows = dict(window.script(
        "return [...document.querySelectorAll('[aria-labelledby=against-title] table:first-of-type tr')]"
        ".filter((tr) => tr.cells.length === 2).map((tr) => [tr.cells[0].textContent, tr.cells[1].textContent])"
    ))  # fmt: skip
    assert rows["scored in both"] == "288" and rows["kept there only, scored here"] == "0"
    window.find("a[href='labels?disagree=kept+here']").click()
    window.until(lambda: "disagree" in window.query())
    window.ready()
    assert window.text("h1") == f"{rows['kept here only']} labels"
    scores = [float(text) for text in window.texts(".chip .score")]
    assert scores and all(0.5 <= score < 0.71 for score in scores)


def test_a_run_that_grows_is_followed_while_its_page_is_open(
    window: Browser, shared_server: Served, book: RunBuilder
) -> None:
    sign_in(window, shared_server, "ada")
    window.until(lambda: window.text("h1") == "Overview")
    window.open("/labels?predicate=wash")
    assert window.text("h1") == "24 labels"
    first = window.judge("a", "accept")
    add_partition(book, "toys/0001", range(101, 113))

    def grown() -> bool:
        window.driver.refresh()
        window.ready()
        return window.text("h1") == "36 labels"

    window.until(grown, "the new partition never came")
    assert window.state(first) == "accept"
    window.open("/images?image_id=112")
    assert window.text("h1") == "1 image"


def test_a_second_server_of_a_run_says_where_the_first_is(shared_server: Served, book: RunBuilder) -> None:
    said = pytest.raises(AssertionError, match=r"ended with 1: [^\0]*another process shows this run already")
    with said, served(Path(book.run.store.root), "toy"):
        pass


def test_the_browser_sends_the_cookie_to_no_other_port(window: Browser, reader: Served) -> None:
    seen: list[str | None] = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Cookie"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        window.visit(reader)
        assert window.driver.get_cookie("rlip_review")
        window.driver.get(f"http://127.0.0.1:{other.server_port}/labels")
        window.server = None
    assert seen == [None]
