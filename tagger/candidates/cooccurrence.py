"""Proposes Visual Genome's predicates of two categories, no captions (docs/labels.md, Other ways to candidates)."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tagger.box import Box, intersect
from tagger.candidates.source import Candidates, Dropped, Loss
from tagger.matching.readers import NounReader
from tagger.pair import NO_MENTION, Pair
from tagger.triplet import Triplet

Table = dict[str, dict[str, list[str]]]
"""Subject category → object category → predicates, as in the authors' `vg_rel_texts_for_hico_objects_*.json`."""


class CooccurrenceError(ValueError):
    """A table of predicates cannot be used; the message names the file, the position and the expected format."""


class Cooccurrence:
    """Proposes candidates without reading captions."""

    def __init__(self, table: Table, overlapping: bool = False) -> None:
        """`overlapping`: the two boxes of a pair must intersect."""
        self._table, self._overlapping = table, overlapping

    def __call__(
        self,
        triplets: Sequence[Triplet],
        boxes: Sequence[Box],
        captions: Sequence[int] = (),
        known: Collection[str] = (),
    ) -> Candidates:
        """Returns each ordered pair of boxes with each predicate of its categories; no caption states it: prior 0."""
        usable = [index for index, box in enumerate(boxes) if not box.crowd]
        numbers = Counter(boxes[index].category for index in usable)
        pairs = [
            Pair(i, j, predicate, NO_MENTION, _pairs(boxes[i].category, boxes[j].category, numbers), support=0)
            for i in usable
            for j in usable
            if i != j and (not self._overlapping or intersect(boxes[i], boxes[j]))
            for predicate in self._table.get(boxes[i].category, {}).get(boxes[j].category, ())
        ]
        return Candidates(pairs, [Dropped(number, Loss.CAPTIONS_UNUSED, "") for number in range(len(triplets))])


def cooccurrence_table(
    relations: Iterable[tuple[str, str, str]], categories: Collection[str], nouns: NounReader, least: int = 0
) -> Table:
    """Groups the predicates of (subject name, predicate, object name) by the categories that both names mean.

    Names and predicates that occur fewer than `least` times are left out; predicates are sorted by falling frequency.
    """
    relations = list(relations)
    predicates = Counter(predicate for _, predicate, _ in relations)
    names = Counter(name for subject, _, object_ in relations for name in (subject, object_))
    found: dict[tuple[str, str], Counter[str]] = {}
    meant = {name: nouns(name, name, categories) for name, count in names.items() if count >= least}
    for subject, predicate, object_ in relations:
        if predicates[predicate] < least:
            continue
        for one in meant.get(subject, ()):
            for other in meant.get(object_, ()):
                found.setdefault((one, other), Counter())[predicate] += 1
    table: Table = {}
    for (one, other), counts in sorted(found.items()):
        table.setdefault(one, {})[other] = sorted(counts, key=lambda predicate: (-counts[predicate], predicate))
    return table


def read_cooccurrence(path: Path) -> Table:
    """Reads a table in the authors' JSON format. Raises CooccurrenceError when the file is missing or malformed."""
    expected = "give a JSON file {subject: {object: [predicate, ...]}}"
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CooccurrenceError(f"{path}: {error}; {expected}") from error
    if not isinstance(table, dict):
        raise CooccurrenceError(f"{path}: holds a {type(table).__name__}; {expected}")
    for subject, by_object in table.items():
        if not isinstance(by_object, dict):
            raise CooccurrenceError(f"{path}: {subject!r} maps to a {type(by_object).__name__}; {expected}")
        for object_, listed in by_object.items():
            if not isinstance(listed, list) or not all(isinstance(text, str) and text for text in listed):
                raise CooccurrenceError(f"{path}: {subject!r}, {object_!r} map to {str(listed)[:80]}; {expected}")
    return table


def _pairs(subject: str, object_: str, numbers: Counter[str]) -> int:
    return numbers[subject] * (numbers[object_] - (subject == object_))
