"""What may be the name of a reviewer."""

from __future__ import annotations

import unicodedata

LONGEST = 64


def reviewer_name(text: str) -> str:
    """The name in Unicode's composed form, without spaces around it.

    Raises ValueError unless it has 1 to 64 printable characters. Line ends, other control characters and marks that
    turn the direction of text are not printable: a name can't forge a header, a line of a log or another name.
    """
    name = unicodedata.normalize("NFC", text).strip(" ")
    if not 1 <= len(name) <= LONGEST or not name.isprintable():
        raise ValueError(f"a reviewer's name has 1 to {LONGEST} printable characters")
    return name
