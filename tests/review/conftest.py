"""A small run, labelled, with figures that can be counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from review.hand_made import TWO_PEOPLE, Book, captions, pairs, relations, triplets

from pipeline.runtime.stage import Rejected
from storage.local_store import LocalStore
from storage.runs import Run


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """An empty run."""
    return Book(Run(LocalStore(tmp_path / "store"), "toy"), tmp_path / "pictures")


@pytest.fixture
def labelled(book: Book) -> Book:
    """Two images of a set with truth, labelled, with figures that can be counted by hand.

    Given: in image 1 person 0 rides horse 2 and stands next to person 1; in image 2 person 0 rides horse 2.
    """
    book.add(
        "ingest",
        "toys/0000",
        [
            book.image(1, TWO_PEOPLE, [(0, "riding", 2), (0, "next to", 1)]),
            book.image(2, TWO_PEOPLE, [(0, "riding", 2)]),
        ],
        rows_in=3,
        rejected=[Rejected(3, "truncated", "JPEG: <b>cut</b>")],
    )
    book.add(
        "caption",
        "toys/0000",
        [captions(1, "a man rides a horse", "a man holds a cup"), captions(2, "a horse <script>alert(1)</script>")],
    )
    book.add(
        "parse",
        "toys/0000",
        [
            triplets(1, (0, "man", "ride", "horse"), (1, "man", "hold", "cup")),
            triplets(2, (0, "horse", "next to", "man")),
        ],
    )
    book.add(
        "tag",
        "toys/0000",
        [
            relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.1), (1, "next to", 0, 0.8)),
            relations(2, (0, "ride", 2, 0.6), (2, "next to", 0, 0.7)),
        ],
        candidates=[
            pairs(1, (0, "ride", 2, 2), (1, "ride", 2, 2), (0, "next to", 1, 1)),
            pairs(2, (0, "ride", 2, 2), (1, "ride", 2, 2), (2, "next to", 0, 2), (2, "next to", 1, 2)),
        ],
        facts={"images/s": 2.0},
    )
    return book


@pytest.fixture
def recipe(book: Book) -> Any:
    """The recipe of the run in `book`: one set, `toys`, is labelled."""
    from pipeline.run.recipe import Recipe

    source = {"name": "toys", "format": "coco", "images": book.pictures / "toys", "annotations": "none.json"}
    data = {"sources": [source], "label": ["toys"], "tagger": ["toys"]}
    return Recipe.model_validate({"name": "toy", "data": data, "shard": {"threshold": 0.5}})
