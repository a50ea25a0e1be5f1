"""How much one browser, one address and one request may ask of the review page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Caps of the review page. Rates are token buckets: requests per second, and how many may come at once.

    A reviewer who judges ten images a second and turns two pages of twenty images in the same second sends 52
    requests; the session's rate is twice that, and an address may have several reviewers behind it.
    """

    body_bytes: int = 64 * 1024
    """The largest body of a request. A larger one is refused with 413."""
    body_seconds: float = 10.0
    """How long a request may take to send its body. A slower one is refused with 408."""
    head_bytes: int = 16 * 1024
    """The largest request line with headers. A larger one is refused with 431, or 400 where it came in pieces."""
    connections: int = 256
    """How many connections are served at a time. uvicorn answers one more with a bare 503."""
    session_per_second: float = 100.0
    session_burst: int = 1000
    address_per_second: float = 200.0
    address_burst: int = 2000
    sign_ins_per_second: float = 1.0
    """How many passwords are checked a second for all addresses together."""
    sign_in_burst: int = 30
    session_seconds: float = 12 * 3600.0
    """A session ends this long after it was opened."""
    sessions: int = 1000
    """The most sessions at a time. One more ends the oldest."""
