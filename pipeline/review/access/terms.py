"""Who may open the review page, and from where."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.review.access.allowed_hosts import AllowedHosts
from pipeline.review.access.limits import Limits
from pipeline.review.access.password import Password
from pipeline.review.access.reviewer_name import reviewer_name
from storage.errors import FatalError


@dataclass(frozen=True, kw_only=True)
class Access:
    """The terms of one server: a link with a random token for this machine, or a password for any other address."""

    hosts: AllowedHosts
    read_only: bool
    url: str = field(default="", repr=False)
    """The link that opens the page on this machine, with its token. Empty if a password opens it."""
    token: str = field(default="", repr=False)
    reviewer: str = ""
    """The name that verdicts get which come through the link."""
    password: Password | None = None
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    """Seconds that never go back; limits and sessions are counted by it."""

    @classmethod
    def local(cls, port: int, reviewer: str, read_only: bool) -> Access:
        """For this machine alone: whoever has the link is `reviewer`. Raises FatalError if that is no name."""
        try:
            name = reviewer_name(reviewer)
        except ValueError as error:
            raise FatalError(f"reviewer {reviewer!r}: {error}; give another one") from None
        token = secrets.token_urlsafe(32)
        return cls(
            hosts=AllowedHosts([f"127.0.0.1:{port}", f"localhost:{port}"]),
            read_only=read_only,
            url=f"http://127.0.0.1:{port}/?token={token}",
            token=token,
            reviewer=name,
        )

    @classmethod
    def with_password(cls, hosts: Iterable[str], password: str, read_only: bool) -> Access:
        """For other machines: whoever knows the password signs in under a name of their choice.

        `hosts` are the names that browsers open, as `AllowedHosts` takes them. Raises FatalError for a bad host or a
        short password.
        """
        return cls(hosts=AllowedHosts(hosts), read_only=read_only, password=Password(password))

    def check_address(self, address: str) -> None:
        """Raise FatalError if a server that listens on `address` needs a password and has none."""
        if self.password is None and not _is_loopback(address):
            raise FatalError(
                f"other machines can reach {address}, so the review page needs a password there; "
                "set RLIP_REVIEW_PASSWORD or --password-file, or listen on 127.0.0.1"
            )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
