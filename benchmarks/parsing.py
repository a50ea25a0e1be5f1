"""Evaluates parsed captions against graphs that people checked: `python -m benchmarks.parsing CSV`.

The file has FACTUAL's columns `caption` and `scene_graph`, e.g. "( man , ride , horse ) , ( horse , is , brown )".
Attributes ("is") are left out. A triplet is right if the lemmas of its subject, predicate and object match the graph's, and
a pair if those of its subject and object do. FACTUAL's own scorer, if it is installed, also gives Set Match and SPICE,
which count attributes. Our graphs lack nouns without relations, which costs both.
"""

from __future__ import annotations

import csv
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import Row, parser, run
from tagger.english.lemmas import phrase_lemma, verb_lemma
from tagger.english.words import DETERMINERS, FUNCTION_WORDS, tokens_of
from tagger.parsing.layer import load_layer
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions
from tagger.parsing.wordings import full_predicate
from tagger.triplet import Triplet

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


def rows_of(path: Path) -> tuple[list[str], list[str]]:
    """Returns the captions of a file, and the graph of each as written."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["caption"] for row in rows], [row["scene_graph"] for row in rows]


def parsed(captions: Sequence[str], model: str = DEFAULT_PARSER, layer: str = "rules") -> list[list[Triplet]]:
    """Returns the triplets that our parser finds in each caption."""
    return parse_captions(captions, load_parser(model), layer=load_layer() if layer == "learned" else None)


def lemmas_of(found: Sequence[Sequence[Triplet]]) -> list[set[Stated]]:
    """Returns the lemmas of triplets."""
    return [{(t.subject_lemma, full_predicate(t), t.object_lemma) for t in triplets} for triplets in found]


def score(found: Sequence[Set[Any]], wanted: Sequence[Set[Any]]) -> tuple[float, float]:
    """Returns precision and recall over all captions."""
    right = sum(len(here & there) for here, there in zip(found, wanted, strict=True))
    return right / max(sum(map(len, found)), 1), right / max(sum(map(len, wanted)), 1)


def pairs_of(stated: Sequence[set[Stated]]) -> list[set[tuple[str, str]]]:
    """Returns the subjects with their objects."""
    return [{(subject, object_) for subject, _, object_ in triplets} for triplets in stated]


def written(triplets: Sequence[Triplet]) -> str:
    """Returns triplets as a graph in FACTUAL's notation, with attributes and with nouns as written."""
    facts = dict[str, None]()
    for t in triplets:
        ends = []
        for text, lemma, attributes, count in (
            (t.subject, t.subject_lemma, t.subject_attributes, t.subject_count),
            (t.object, t.object_lemma, t.object_attributes, t.object_count),
        ):
            noun = " ".join(text.lower().split()[-len(lemma.split()) :])
            ends.append(noun)
            facts |= dict.fromkeys(
                f"( {noun} , is , {a} )" for a in (*attributes, *([str(count)] if count > 1 else ()))
            )
        facts[f"( {ends[0]} , {full_predicate(t)} , {ends[1]} )"] = None
    return " , ".join(facts)


def published_scores(found: Sequence[str], wanted: Sequence[str]) -> Iterator[Row]:
    """Yields Set Match and SPICE by FACTUAL's scorer."""
    if find_spec("factual_scene_graph") is None:
        yield Row(
            "Set Match, SPICE",
            note="FACTUAL's scorer is not installed (pip install --no-deps FactualSceneGraph tabulate nltk)",
        )
        return
    ways = {"Set Match": ("set_match", ()), "SPICE": ("spice", (False, True))}
    for name, (way, settings) in ways.items():
        scorer = getattr(import_module(f"factual_scene_graph.evaluation.{way}_evaluation"), f"eval_{way}")
        yield Row(
            name, "%", 100 * fmean(float(scorer(*graphs, *settings)) for graphs in zip(found, wanted, strict=True))
        )


def measure(given: Namespace) -> Iterator[Row]:
    """Yields precision and recall, and the predicates that are most often missed and wrong."""
    if given.csv is None:
        yield Row("nothing measured", note="name a CSV file of captions and graphs")
        return
    captions, graphs = (column[: given.limit] for column in rows_of(given.csv))
    triplets, wanted = parsed(captions, given.model, given.layer), [graph(text) for text in graphs]
    found = lemmas_of(triplets)
    for what, ours, theirs in (("triplets", found, wanted), ("pairs", pairs_of(found), pairs_of(wanted))):
        precision, recall = score(ours, theirs)
        yield Row(f"precision of {what}", "share", precision, note=f"of {sum(map(len, ours)):,} found")
        yield Row(f"recall of {what}", "share", recall, note=f"of {sum(map(len, theirs)):,} wanted")
    yield from published_scores([written(each) for each in triplets], graphs)
    for name, first, second in (("most missed", wanted, found), ("most wrong", found, wanted)):
        counts = Counter(t[1] for here, there in zip(first, second, strict=True) for t in here - there)
        yield Row(name, note=", ".join(f"{predicate} {count}" for predicate, count in counts.most_common(20)))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("csv", type=Path, nargs="?", help="a file with columns caption and scene_graph")
    options.add_argument("--model", default=DEFAULT_PARSER)
    options.add_argument("--layer", choices=("rules", "learned"), default="rules")
    options.add_argument("--limit", type=int, help="maximum number of captions")
    run(options, measure)
