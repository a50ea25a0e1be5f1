"""Further pages in a report's folder, which the report links: the place to add a kind of page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.report.view import RunView


class LinkedPage(NamedTuple):
    """A page that the report links."""

    file: str
    """Its path relative to the report's folder, with forward slashes."""
    title: str
    about: str
    """One line on what the page shows."""


PageWriter = Callable[[RunView, Path], Iterable[LinkedPage]]
"""Writes pages of a run into its report's folder, which is not complete yet, and returns those to link."""

PAGE_WRITERS: tuple[PageWriter, ...] = ()
"""Every report has the pages of these writers, in this order."""
