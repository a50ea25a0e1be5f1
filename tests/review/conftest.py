from __future__ import annotations

from collections.abc import Iterator

import pytest
from review_server import ReviewServer, serving


@pytest.fixture
def by_link() -> Iterator[ReviewServer]:
    """A server on this machine that a link opens."""
    with serving("link") as server:
        yield server


@pytest.fixture
def by_password() -> Iterator[ReviewServer]:
    """A server that a name and a password open."""
    with serving("password") as server:
        yield server
