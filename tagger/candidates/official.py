"""Enumerates candidates as the authors do: all ordered pairs (docs/labels.md, Other ways to candidates)."""

from collections import Counter
from collections.abc import Collection, Sequence

from tagger.box import Box
from tagger.candidates.source import Candidates, Dropped, box_pairs, dropped
from tagger.matching import NounReader, by_whole_words
from tagger.pair import Pair
from tagger.parsing.wordings import Wording, canonical_predicate
from tagger.triplet import Triplet

GROUP = 100
"""Number of pairs in a group: half of the tagger's queries."""

Group = tuple[list[tuple[int, int]], list[str]]
"""Pairs of box indices, and the texts that each of them is scored against."""


def official_candidates(
    triplets: Sequence[Triplet],
    boxes: Sequence[Box],
    captions: Sequence[int] = (),
    known: Collection[str] = (),
    regions: Sequence[Collection[int]] = (),
    nouns: NounReader = by_whole_words,
    wording: Wording = canonical_predicate,
    overlapping: bool = False,
) -> Candidates:
    """Returns one candidate per ordered pair (i, j), ascending, and distinct (category, text, category) stated.

    Categories are matched in the order of the boxes, including crowds, as in the authors' code. Each pair counts as a
    separate fact: its prior is 1. `mention` numbers the distinct statements, `ambiguity` counts the pairs of each.
    A triplet is dropped if none of its statements has a pair; parameters as in `ground`, but `regions` are not read.
    """
    categories = list(dict.fromkeys(box.category for box in boxes))
    usable = [index for index, box in enumerate(boxes) if not box.crowd]
    possible = box_pairs(usable, usable, boxes, overlapping)
    paired = {(boxes[i].category, boxes[j].category) for i, j in possible}
    lost: list[Dropped] = []
    stated: dict[tuple[str, str, str], list[int]] = {}
    for number, triplet in enumerate(triplets):
        predicate = wording(triplet)
        subjects = nouns(triplet.subject, triplet.subject_lemma, categories) if predicate else []
        objects = nouns(triplet.object, triplet.object_lemma, categories) if predicate else []
        for subject in subjects:
            for object_ in objects:
                stated.setdefault((subject, predicate, object_), []).append(number)
        if not any((subject, object_) in paired for subject in subjects for object_ in objects):
            first, second = ([i for i in usable if boxes[i].category in meant] for meant in (subjects, objects))
            lost.append(dropped(number, triplet, predicate, first, second, nouns, known))
    texts: dict[tuple[str, str], list[tuple[int, str, list[int]]]] = {}
    for mention, ((subject, predicate, object_), numbers) in enumerate(stated.items()):
        texts.setdefault((subject, object_), []).append((mention, predicate, numbers))
    stated_pairs = [
        (i, j, predicate, numbers, mention)
        for i, j in possible
        for mention, predicate, numbers in texts.get((boxes[i].category, boxes[j].category), ())
    ]
    sizes = Counter(mention for *_, mention in stated_pairs)
    pairs = [
        Pair(i, j, predicate, numbers[0], sizes[mention], mention, 1.0, len(numbers))
        for i, j, predicate, numbers, mention in stated_pairs
    ]
    return Candidates(pairs, lost)


def official_groups(pairs: Sequence[Pair]) -> list[Group]:
    """Splits candidates as in the authors' file: slices of 100 (a pair once per text) with the distinct texts of each.

    There are n // 100 + 1 groups, so an exact multiple of 100, including 0, ends with an empty group.
    """
    slices = [pairs[start : start + GROUP] for start in range(0, len(pairs) // GROUP * GROUP + 1, GROUP)]
    return [([(p.subject, p.object) for p in part], list(dict.fromkeys(p.predicate for p in part))) for part in slices]
