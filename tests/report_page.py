"""Writes a report and parses its page, for tests of what it shows."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from run_builder import RunBuilder

from pipeline.report.static_report import write_report
from pipeline.run.context import run_view


class Page(HTMLParser):
    """Parses the elements and the text of a page."""

    def __init__(self, page: Path | str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page if isinstance(page, str) else page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(recipe: Any, book: RunBuilder, folder: Path, **options: Any) -> Page:
    """The page of a run's report, written to `folder`."""
    return Page(write_report(run_view(recipe, book.run), None, folder, **options))
