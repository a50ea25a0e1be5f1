"""Proposes Visual Genome's predicates of two categories without captions (docs/labels.md, Other ways to candidates)."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path

from tagger.box import Box
from tagger.candidates.source import Candidates, Dropped, DropReason, box_pairs
from tagger.categories.names import without_case
from tagger.matching import NounReader, Texts, read_authors_file
from tagger.pair import NO_MENTION, Pair
from tagger.triplet import Triplet

Table = dict[str, dict[str, Texts]]
"""Subject category → object category → predicates, as in the authors' `vg_rel_texts_for_hico_objects_*.json`. Look
categories up without case (`without_case`)."""


def cooccurrence_candidates(
    triplets: Sequence[Triplet],
    boxes: Sequence[Box],
    captions: Sequence[int] = (),
    known: Collection[str] = (),
    regions: Sequence[Collection[int]] = (),
    *,
    table: Table,
    overlapping: bool = False,
) -> Candidates:
    """Returns each ordered pair of boxes with each predicate of its categories; no caption states it: prior 0.

    `overlapping`: a pair's two boxes must intersect. Captions are not read; the result accounts for their triplets.
    """
    usable = [index for index, box in enumerate(boxes) if not box.crowd]
    count = Counter(boxes[index].category for index in usable)
    pairs = []
    for i, j in box_pairs(usable, usable, boxes, overlapping):
        subject, object_ = boxes[i].category, boxes[j].category
        ambiguity = count[subject] * (count[object_] - (subject == object_))
        predicates = table.get(without_case(subject), {}).get(without_case(object_), ())
        pairs += [Pair(i, j, predicate, NO_MENTION, ambiguity, support=0) for predicate in predicates]
    return Candidates(pairs, [Dropped(number, DropReason.CAPTIONS_UNUSED, "") for number in range(len(triplets))])


def cooccurrence_table(
    relations: Iterable[tuple[str, str, str]], categories: Collection[str], nouns: NounReader
) -> Table:
    """Groups the predicates of (subject name, predicate, object name) by the categories that both names mean.

    Predicates are sorted by falling frequency.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    meant = cache(lambda name: nouns(name, name, categories))
    for subject, predicate, object_ in relations:
        for pair in product(meant(subject), meant(object_)):
            counts.setdefault(pair, Counter())[predicate] += 1
    table: Table = {}
    for (one, other), of_pair in sorted(counts.items()):
        table.setdefault(one, {})[other] = sorted(of_pair, key=lambda predicate: (-of_pair[predicate], predicate))
    return table


def read_cooccurrence(path: Path) -> Table:
    """Reads a table in the authors' JSON format, with its categories without case.

    Raises `AuthorsFileError` when the file is missing or malformed.
    """
    table = read_authors_file(path, Table, "{subject: {object: [predicate, ...]}}")
    found: Table = {}
    for subject, own in table.items():
        for object_, predicates in own.items():
            of_pair = found.setdefault(without_case(subject), {}).setdefault(without_case(object_), [])
            of_pair += [predicate for predicate in predicates if predicate not in of_pair]
    return found
