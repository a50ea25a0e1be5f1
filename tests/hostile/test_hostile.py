"""Hostile input: every case ends as it must, in bounded time and memory, with no file touched outside its folder."""

import json
import os
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from warm_process import WarmProcess

from tests.hostile.worker import Told, corpus, feed_corpus

CASES = corpus()
SHOWN = 110
"""Characters of an outcome in the table."""


@pytest.fixture(scope="module")
def told(root: Path) -> dict[tuple[str, str], Told]:
    """What came of each case. `-s` prints it as a table."""
    environment = {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]), "PYTHONDONTWRITEBYTECODE": "1"}
    worker = WarmProcess(feed_corpus, cwd=root, environment=environment)
    told, errors = worker.communicate()
    assert worker.returncode == 0, errors[-3000:]
    found = [Told(**json.loads(line)) for line in told.splitlines()]
    table = Table("kind", "case", "outcome", box=None)
    for each in found:
        table.add_row(each.kind, Text(each.name), Text(_plain(each.outcome)[:SHOWN]))
    Console(width=200).print(table)
    return {(each.kind, each.name): each for each in found}


def _plain(outcome: str) -> str:
    """An outcome without the folders of its case, on one line."""
    return " ".join(re.sub(r"\S*/a/b/given/", "", outcome).split())


def test_the_corpus_is_large_and_its_names_are_distinct():
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_a_case_ends_as_it_must(told, case):
    found = told[case.kind, case.name]  # type: ignore[attr-defined]
    assert found.escapes == []
    assert not found.outcome.startswith(("traceback", "hangs", "takes more", "crash"))
    assert re.search(case.outcome, found.outcome, re.DOTALL), found.outcome[:2000]  # type: ignore[attr-defined]
    assert all(character.isprintable() or character == "\n" for character in _message(found.outcome))


def _message(outcome: str) -> str:
    """The message of a refusal, which a terminal shows; "" for any other outcome."""
    kind, _, message = outcome.partition(": ")
    return message if kind == "refused" and message.startswith("Error: ") else ""
