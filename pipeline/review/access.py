"""Access to the review page: its address, and entry by link, by password or through a proxy."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.labels.verdicts import require_reviewer
from storage.errors import FatalError

SHORTEST_PASSWORD = 8
VARIABLE = "RLIP_REVIEW_PASSWORD"
_NAME = re.compile(r"(https?://)?([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How reviewers reach one server: by a link, as `reviewer`; with a password, under any name; or by a proxy's word.

    Raises `FatalError` for an invalid name and for a password of fewer than 8 characters.
    """

    names: Sequence[str]
    """Names by which browsers reach the server: `gpu7.lab:8765`, or `https://review.example.org` behind a TLS proxy."""
    secret: str = field(repr=False)
    """Signs sessions and derives the path. Sessions by password stay valid as long as it and the password stay the same."""
    reviewer: str = ""
    """Whose verdicts those are who come by the link; "" where everyone has a name."""
    password: str | None = field(default=None, repr=False)
    user_header: str = ""
    """Header in which an authenticating proxy names the reviewer of every request, e.g. X-Forwarded-User."""
    signed_out: Path | None = None
    """File of the sessions that ended before their time."""
    read_only: bool = False
    wrong_password_seconds: float = 1.0
    """How long a wrong password delays all further sign-in attempts."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """The token in the link; a new one each time the server starts."""

    def __post_init__(self) -> None:
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise FatalError(f"--name {name!r}: not a host name; write name, name:port or https://name")
        by_link = self.password is None and not self.user_header
        object.__setattr__(self, "reviewer", require_reviewer(self.reviewer) if by_link else "")
        if self.password is not None and len(self.password) < SHORTEST_PASSWORD:
            raise FatalError(
                f"the password of the review page needs {SHORTEST_PASSWORD} characters or more; choose another one in "
                f"{VARIABLE} or in the file that --password-file names"
            )

    @property
    def path(self) -> str:
        """The path under which the page lives."""
        return f"/{self._derived('path')[:32]}"

    @property
    def url(self) -> str:
        """The address to open; it contains the token if there is no password."""
        name = self.names[0].rstrip("/")
        page = f"{name if '://' in name else f'http://{name}'}{self.path}/"
        return f"{page}login?token={self.token}" if self.reviewer else page

    def require_password_beyond_loopback(self, address: str) -> None:
        """Raise `FatalError` if other machines can reach `address` and need no password, or can write the header."""
        try:
            is_loopback = ipaddress.ip_address(address).is_loopback
        except ValueError:
            is_loopback = address == "localhost"
        if not is_loopback and (self.password is None or self.user_header):
            raise FatalError(
                f"other machines can reach {address}, so the review page needs a password there; set {VARIABLE} or "
                "--password-file, or listen on 127.0.0.1, as --user-header does behind a proxy"
            )

    @property
    def hosts(self) -> list[str]:
        """Hosts that requests may name: `names` without scheme and port, and loopback names for forwarded ports."""
        named = [match[2] for name in self.names if (match := _NAME.fullmatch(name))]
        return ["127.0.0.1", "localhost", "[::1]", *named]

    @property
    def session_key(self) -> str:
        """The key that signs sessions. A new password ends all of them, and the server's end those by its link."""
        return self._derived(f"sessions {self.password or self.token}")

    def _derived(self, use: str) -> str:
        return hmac.new(self.secret.encode(), use.encode(errors="surrogateescape"), "sha256").hexdigest()


def kept_secret(file: Path) -> str:
    """The secret in `file`, readable only by its owner; created if missing. Raises `FatalError` if that fails."""
    try:
        if file.exists() and len(secret := file.read_text()) == 64:
            return secret
        secret = secrets.token_hex(32)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as made:
            made.write(secret)
        return secret
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(
            f"{file}: the secret of the review page can't be read or written ({error}); free space and "
            "make the folder writable, or copy the run to another store with `rlip store pull`"
        ) from error
