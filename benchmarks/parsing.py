"""Evaluates parsed captions against graphs that people checked: `python -m benchmarks.parsing CSV`.

The file has FACTUAL's columns `caption` and `scene_graph`, e.g. "( man , ride , horse ) , ( horse , is , brown )".
Attributes ("is") are left out. A triplet is right if the lemmas of its subject, predicate and object match the graph's.
"""

from __future__ import annotations

import csv
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness import Row, parser, run
from tagger.english.lemmas import phrase_lemma, verb_lemma
from tagger.english.words import DETERMINERS, FUNCTION_WORDS, tokens_of
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions
from tagger.parsing.wordings import full_predicate

Stated = tuple[str, str, str]
_TRIPLET = re.compile(r"\( (.*?) \)")


def graph(text: str) -> set[Stated]:
    """Parses the relations of a graph as lemmas of subject, predicate and object."""
    parts = [part.split(" , ") for part in _TRIPLET.findall(text)]
    return {
        (phrase_lemma(part[0]), predicate_lemma(part[1]), phrase_lemma(part[2]))
        for part in parts
        if len(part) == 3 and part[1].strip() != "is"
    }


def predicate_lemma(text: str) -> str:
    """Returns a predicate of a graph in the words of ours."""
    words = [word for word in tokens_of(text) if word not in DETERMINERS]
    return " ".join(word if word in FUNCTION_WORDS else verb_lemma(word) for word in words)


def rows_of(path: Path) -> tuple[list[str], list[set[Stated]]]:
    """Returns the captions of a file, and the graph of each."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["caption"] for row in rows], [graph(row["scene_graph"]) for row in rows]


def triplets_of(captions: Sequence[str], model: str) -> list[set[Stated]]:
    """Returns the lemmas of the triplets that our parser finds in each caption."""
    parsed = parse_captions(captions, load_parser(model))
    return [{(t.subject_lemma, full_predicate(t), t.object_lemma) for t in triplets} for triplets in parsed]


def score(found: Sequence[set[Stated]], wanted: Sequence[set[Stated]]) -> tuple[float, float]:
    """Returns precision and recall over all captions."""
    right = sum(len(here & there) for here, there in zip(found, wanted, strict=True))
    return right / max(sum(map(len, found)), 1), right / max(sum(map(len, wanted)), 1)


def measure(given: Namespace) -> Iterator[Row]:
    """Yields precision and recall, and the predicates that are most often missed and wrong."""
    if given.csv is None:
        yield Row("nothing measured", note="name a CSV file of captions and graphs")
        return
    captions, wanted = (column[: given.limit] for column in rows_of(given.csv))
    found = triplets_of(captions, given.model)
    precision, recall = score(found, wanted)
    yield Row("precision", "share", precision, note=f"of {sum(map(len, found)):,} triplets found")
    yield Row("recall", "share", recall, note=f"of {sum(map(len, wanted)):,} triplets wanted")
    for name, first, second in (("most missed", wanted, found), ("most wrong", found, wanted)):
        counts = Counter(t[1] for here, there in zip(first, second, strict=True) for t in here - there)
        yield Row(name, note=", ".join(f"{predicate} {count}" for predicate, count in counts.most_common(20)))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("csv", type=Path, nargs="?", help="a file with columns caption and scene_graph")
    options.add_argument("--model", default=DEFAULT_PARSER)
    options.add_argument("--limit", type=int, help="maximum number of captions")
    run(options, measure)
