"""Evaluates parsed captions against graphs that people checked: `python -m benchmarks.parsing CSV`.

The file has FACTUAL's columns `caption` and `scene_graph`, e.g. "( man , ride , horse ) , ( horse , is , brown )".
Attributes ("is") are left out. A triplet is right if the lemmas of its subject, predicate and object match the graph's.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tagger.english.lemmas import phrase_lemma, verb_lemma
from tagger.english.words import DETERMINERS, FUNCTION_WORDS, tokens_of
from tagger.parsing.parser import DEFAULT_PARSER, load_parser, parse_captions
from tagger.parsing.wordings import full_predicate

Stated = tuple[str, str, str]
_TRIPLET = re.compile(r"\( (.*?) \)")


@dataclass
class Score:
    """Counts of found, wanted, and right (found and wanted) items, summed over captions."""

    found: int = 0
    wanted: int = 0
    right: int = 0

    def add(self, found: set[tuple[str, ...]], wanted: set[tuple[str, ...]]) -> None:
        self.found += len(found)
        self.wanted += len(wanted)
        self.right += len(found & wanted)

    def figures(self) -> dict[str, float]:
        precision, recall = self.right / max(self.found, 1), self.right / max(self.wanted, 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        return {
            "precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4),
            "found": self.found, "wanted": self.wanted,
        }  # fmt: skip


@dataclass
class Reading:
    """Scores of triplets, of subject-object pairs, of predicates given a right pair, and by rule; frequent errors."""

    triplets: Score = field(default_factory=Score)
    pairs: Score = field(default_factory=Score)
    predicates: Score = field(default_factory=Score)
    missed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    rules: dict[str, Score] = field(default_factory=dict)

    def add(self, found: set[Stated], wanted: set[Stated]) -> None:
        self.triplets.add(set(found), set(wanted))
        found_pairs, wanted_pairs = pairs_of(found), pairs_of(wanted)
        self.pairs.add(found_pairs, wanted_pairs)
        shared = found_pairs & wanted_pairs
        self.predicates.add(
            {triplet for triplet in found if (triplet[0], triplet[2]) in shared},
            {triplet for triplet in wanted if (triplet[0], triplet[2]) in shared},
        )
        self.missed.update(predicate for _, predicate, _ in wanted - found)
        self.wrong.update(predicate for _, predicate, _ in found - wanted)


def pairs_of(stated: set[Stated]) -> set[tuple[str, ...]]:
    return {(subject, object_) for subject, _, object_ in stated}


def graph(text: str) -> set[Stated]:
    """Parses the relations of a graph as lemmas."""
    parts = [part.split(" , ") for part in _TRIPLET.findall(text)]
    return {
        (phrase_lemma(part[0]), predicate_lemma(part[1]), phrase_lemma(part[2]))
        for part in parts
        if len(part) == 3 and part[1].strip() != "is"
    }


def predicate_lemma(text: str) -> str:
    words = [word for word in tokens_of(text) if word not in DETERMINERS]
    return " ".join(word if word in FUNCTION_WORDS else verb_lemma(word) for word in words)


def rows_of(path: Path) -> tuple[list[str], list[set[Stated]]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["caption"] for row in rows], [graph(row["scene_graph"]) for row in rows]


def measure(captions: Sequence[str], graphs: Iterable[set[Stated]], model: str) -> tuple[Reading, float]:
    """Parses and scores all captions. Returns the scores and the CPU-seconds of parsing without loading the model."""
    parser = load_parser(model)
    parse_captions(captions[:64], parser)
    began = time.process_time()
    parsed = parse_captions(captions, parser)
    seconds = time.process_time() - began
    reading = Reading()
    for triplets, wanted in zip(parsed, graphs, strict=True):
        reading.add({(t.subject_lemma, full_predicate(t), t.object_lemma) for t in triplets}, wanted)
        for t in triplets:
            stated = (t.subject_lemma, full_predicate(t), t.object_lemma)
            reading.rules.setdefault(t.rule, Score()).add({stated}, {stated} & wanted)
    return reading, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, nargs="?", help="a file with columns caption and scene_graph")
    parser.add_argument("--model", default=DEFAULT_PARSER)
    parser.add_argument("--limit", type=int, help="maximum number of captions")
    given = parser.parse_args()
    if given.csv is None:
        print("benchmarks.parsing: nothing measured; name a CSV file of captions and graphs")
        return
    captions, graphs = rows_of(given.csv)
    captions, graphs = captions[: given.limit], graphs[: given.limit]
    reading, seconds = measure(captions, graphs, given.model)
    scores = {
        "triplets": reading.triplets.figures(),
        "subject-object pairs": reading.pairs.figures(),
        "predicates given the pair": reading.predicates.figures(),
    }
    print(f"{len(captions)} captions, {len(captions) / seconds:.0f} per CPU-second\n")
    print(f"{'':28}{'precision':>10}{'recall':>8}{'F1':>8}{'found':>8}{'wanted':>8}")
    for name, figures in scores.items():
        print(f"{name:28}{figures['precision']:10.3f}{figures['recall']:8.3f}{figures['f1']:8.3f}"
              f"{figures['found']:8}{figures['wanted']:8}")  # fmt: skip
    rules = {rule: round(score.right / score.found, 3) for rule, score in sorted(reading.rules.items())}
    print(
        "\n" + "\n".join(f"rule {rule:24}{share:6.3f} of {reading.rules[rule].found}" for rule, share in rules.items())
    )
    print("\nmost missed:", ", ".join(f"{predicate} {count}" for predicate, count in reading.missed.most_common(20)))
    print("most wrong: ", ", ".join(f"{predicate} {count}" for predicate, count in reading.wrong.most_common(20)))
    print(
        json.dumps(
            {
                "machine": platform.processor() or platform.machine(), "file": given.csv.name,
                "captions": len(captions), "captions_per_cpu_second": round(len(captions) / seconds, 1),
                **scores, "rules": rules, "missed": reading.missed.most_common(50), "wrong": reading.wrong.most_common(50),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
