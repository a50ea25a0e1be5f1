"""Several reviewers, a page that takes no verdicts, and a run that grows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from review_browser import Browser, Served, served
from review_runs import add_partition, review_run
from run_builder import RunBuilder

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> RunBuilder:
    return review_run(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def shared_server(book: RunBuilder) -> Iterator[Served]:
    """A server that takes each reviewer's name and the password."""
    with served(book.run.store.root, "toy", env={"RLIP_REVIEW_PASSWORD": PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without verdicts, in a store of its own: a store has one server for each run."""
    with served(review_run(tmp_path_factory.mktemp("reader")).run.store.root, "toy", "--read-only") as running:
        yield running


def sign_in(window: Browser, server: Served, name: str, path: str = "/") -> None:
    """Open a page as a stranger and fill in the form that comes instead."""
    window.clear_cookies()
    window.server = server
    window.driver.get(server.root + path)
    window.find("#reviewer").send_keys(name)
    window.find("#password").send_keys(PASSWORD)
    window.find("button").click()


def test_two_reviewers_see_each_other_and_the_audit_their_agreement(window, shared_server):
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
    # Observed agreement 3/5; by chance (6² + 3² + 1²) / 10² = .46, without replacement (6 · 5 + 3 · 2) / (10 · 9) = .4.
    assert "On 5 labels" in window.text("main")
    assert "alpha is 0.333 and Fleiss' kappa 0.259" in window.text("main")
    # These keys came faster than anybody reacts. The number of hasty verdicts leads to them.
    hasty = window.find("a[href='labels?reviewer=ada&within=0.3']")
    number = int(hasty.text)
    hasty.click()
    window.has("h1", f"{number} labels")
    assert number in (4, 5)


def test_a_read_only_page_shows_all_and_takes_nothing(window, reader):
    window.visit(reader, "/labels?predicate=ride")
    assert window.text(".reviewer") == "read only" and window.count("[data-action]") == 0
    window.press(*"aruzpw")
    window.press_shift("A")
    assert window.query() == "/labels?predicate=ride" and not window.find("#predicate").is_displayed()
    window.reach_image(window.find(".chip a.crop").click)
    window.press(*"arup")
    window.press("w")
    assert window.count("#picking") == 0
    assert window.text("#message") == "" and not reader.verdicts.exists()


def test_a_run_that_grows_is_followed_by_its_open_page(window, shared_server, book):
    sign_in(window, shared_server, "ada")
    window.until(lambda: window.text("h1").startswith("Judge "))
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


def test_a_second_server_of_a_run_says_where_the_first_is(shared_server, book):
    said = pytest.raises(AssertionError, match=r"ended with 1: [^\0]*another process already serves this run")
    with said, served(Path(book.run.store.root), "toy"):
        pass
