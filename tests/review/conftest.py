from __future__ import annotations

from collections.abc import Iterator

import pytest
from review_browser import Browser, browser
from review_server import PASSWORD, ReviewServer, all_ended, serving


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left() -> Iterator[None]:
    """Waits for the servers of all tests at once."""
    yield
    assert all_ended()


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
def opened() -> Iterator[Browser]:
    """A browser."""
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def window(opened: Browser) -> Browser:
    """The browser as each file of tests finds it: without sessions, on an empty page of a desktop."""
    opened.reset()
    return opened


@pytest.fixture(autouse=True)
def quiet_console(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test after which the browser's console holds anything: a broken script, a blocked request, a missing file."""
    yield
    if "window" in request.fixturenames:
        errors = request.getfixturevalue("window").errors()
        # The test's server has ended by now, perhaps before the page had its last image.
        assert [error for error in errors if "ERR_CONNECTION_REFUSED" not in error] == []
