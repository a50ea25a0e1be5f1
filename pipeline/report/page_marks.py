"""Marks in the head of a page, by which a later report tells what the page shows."""

from __future__ import annotations

import html
from pathlib import Path

_HEAD = 2_000
"""Characters of a page in which its marks stand."""


def meta_of(page: Path, name: str) -> str | None:
    """The content of a meta element of a page; None when the file has no such element or can't be read."""
    try:
        with page.open(encoding="utf-8") as file:
            head = file.read(_HEAD)
    except (OSError, UnicodeDecodeError):
        return None
    _, found, rest = head.partition(f'<meta name="{name}" content="')
    return html.unescape(rest.partition('"')[0]) if found else None
