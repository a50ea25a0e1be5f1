from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from review_browser import Browser, Served, browser, served
from review_runs import review_run
from review_server import PASSWORD, ReviewServer, all_ended, serving
from run_builder import RunBuilder

from pipeline.review.review_state import ReviewState
from pipeline.run.context import run_view
from storage.runs import Run


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left() -> Iterator[None]:
    """Waits for the servers of all tests at once."""
    yield
    assert all_ended()


@pytest.fixture
def opened(tmp_path: Path, recipe: Any, book: RunBuilder) -> Iterator[Callable[..., ReviewState]]:
    """Opens the state of the run in `book`, perhaps beside another run, and closes the one before."""
    states: list[ReviewState] = []

    def open_state(against: Run | None = None, **options: Any) -> ReviewState:
        if states:
            states.pop().close()
        other = None if against is None else partial(run_view, recipe, against)
        view = partial(run_view, recipe, book.run)
        states.append(ReviewState(view, tmp_path / "index.duckdb", tmp_path / "verdicts", other, **options))
        return states[-1]

    yield open_state
    for state in states:
        state.close()


@pytest.fixture
def by_link() -> Iterator[ReviewServer]:
    """A server on this machine that a link opens."""
    with serving() as server:
        yield server


@pytest.fixture
def by_password() -> Iterator[ReviewServer]:
    """A server that a name and a password open."""
    with serving(PASSWORD) as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser."""
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def window(chromium: Browser) -> Browser:
    """The browser as each file of tests finds it: without sessions, on an empty page of a desktop."""
    chromium.reset()
    return chromium


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, window: Browser) -> Iterator[Served]:
    """A server of a run of 24 images, at which the browser has arrived."""
    with served(review_run(tmp_path_factory.mktemp("run")).run.store.root, "toy") as running:
        window.visit(running)
        yield running


@pytest.fixture(autouse=True)
def quiet_console(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails tests that leave anything in the browser's console: a broken script, a blocked request, a missing file."""
    yield
    if "window" in request.fixturenames:
        errors = request.getfixturevalue("window").errors()
        # The test's server has ended by now, perhaps before the page had its last image.
        assert [error for error in errors if "ERR_CONNECTION_REFUSED" not in error] == []
