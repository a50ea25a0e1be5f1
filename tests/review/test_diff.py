"""`rlip diff`: relations that came, went or were scored anew between two runs, with the change that caused it."""

from __future__ import annotations

import json

import pytest
from review.hand_made import Book, relations

from pipeline.commands.diff import difference, print_diff
from storage.errors import Terminal
from storage.runs import Run

BEFORE = [
    relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.3), (0, "near", 1, 0.5)),
    relations(2, (0, "ride", 1, 0.4)),
]
AFTER = [
    relations(1, (0, "ride", 2, 0.9), (1, "ride", 2, 0.7), (2, "near", 1, 0.6)),
    relations(2, (0, "ride", 1, 0.401)),
]


@pytest.fixture
def runs(book: Book) -> tuple[Run, Run]:
    """The same store, labels of two settings; partition 1 is the same artifact in both."""
    both = []
    for name, rows, floor in (("before", BEFORE, 0.05), ("after", AFTER, 0.1)):
        run = Run(book.run.store, name)
        one = Book(run, book.pictures)
        one.add("tag", "toys/0000", rows, settings={"floor": floor})
        one.add("tag", "toys/0001", [relations(3, (0, "on", 1, 0.8))], settings={"partition": 1})
        both.append(run)
    return both[0], both[1]


def test_relations_are_told_apart_by_kind_cause_and_predicate(runs: tuple[Run, Run]) -> None:
    found = difference(*runs)
    assert found.same == 3, "one the same, one scored the same to a hundredth, one of an equal partition"
    assert found.causes == {"tag: floor: 0.05 → 0.1": {"added": 1, "lost": 1, "re-scored": 1}}
    assert found.predicates == {"near": {"added": 1, "lost": 1}, "ride": {"re-scored": 1}}
    (example,) = found.examples["re-scored"]
    assert str(example) == "image 1: #1 ride #2, 0.300 → 0.700"
    assert str(found.examples["lost"][0]) == "image 1: #0 near #1, 0.500 → none"


def test_a_run_is_the_same_as_itself(runs: tuple[Run, Run]) -> None:
    found = difference(runs[0], runs[0])
    assert (found.same, found.causes) == (5, {})


def test_it_prints_and_has_json(runs: tuple[Run, Run], capsys: pytest.CaptureFixture[str]) -> None:
    root = runs[0].store.root
    print_diff(root, "before", "after", as_json=False)
    assert "added image 1: #2 near #1, none → 0.600" in capsys.readouterr().out
    print_diff(root, "before", "after", as_json=True)
    assert json.loads(capsys.readouterr().out)["predicates"]["ride"] == {"re-scored": 1}


def test_a_run_without_relations_is_told(book: Book, runs: tuple[Run, Run]) -> None:
    book.metrics("train_tagger", (0, "loss", 1.0))
    with pytest.raises(Terminal, match="run 'toy' has no artifacts of step 'tag'"):
        difference(runs[0], book.run)
