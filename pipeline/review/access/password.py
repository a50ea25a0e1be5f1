"""The password of the review page, kept as a salted scrypt hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from storage.errors import FatalError

VARIABLE = "RLIP_REVIEW_PASSWORD"
SHORTEST = 8
LONGEST_BYTES = 1024


class Password:
    """A password that can be checked, not read. One check takes 16 MiB of memory (scrypt, N = 2^14, r = 8, p = 1)."""

    def __init__(self, password: str) -> None:
        """Raises FatalError if the password has fewer than 8 characters or more than 1024 bytes."""
        if len(password) < SHORTEST or len(_encoded(password)) > LONGEST_BYTES:
            raise FatalError(
                f"the password of the review page needs {SHORTEST} characters or more, and at most {LONGEST_BYTES} bytes; "
                f"choose another one in {VARIABLE} or in the file that --password-file names"
            )
        self._salt = secrets.token_bytes(16)
        self._hash = self._scrypt(password)

    def matches(self, given: str) -> bool:
        """Whether `given` is the password. Takes the same time for every wrong one."""
        return len(_encoded(given)) <= LONGEST_BYTES and hmac.compare_digest(self._scrypt(given), self._hash)

    def _scrypt(self, password: str) -> bytes:
        return hashlib.scrypt(_encoded(password), salt=self._salt, n=2**14, r=8, p=1, maxmem=2**26)


def read_password(environment: Mapping[str, str], file: Path | None) -> str | None:
    """The password of `file` (its first line) if one is named, else of RLIP_REVIEW_PASSWORD, else None.

    Raises FatalError if the file can't be read.
    """
    if file is None:
        return environment.get(VARIABLE)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(
            f"--password-file {file}: {error}; name a UTF-8 file whose first line is the password"
        ) from error
    return lines[0] if lines else ""


def _encoded(password: str) -> bytes:
    # Keyboards differ in how they compose accents.
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogateescape")
