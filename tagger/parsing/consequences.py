"""Infers what a stated relation of a person and a thing implies: who rides a horse sits on it, a reader holds the book.

Only plain consequences are listed. Where V-COCO annotates both actions, at least seven in ten pairs with the first
have the second too: `python -m benchmarks.implications` counts them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache

from tagger.categories.coco import PEOPLE, SYNONYMS
from tagger.english.nouns import phrase_lemma
from tagger.english.words import phrases
from tagger.parsing.implied import RULE
from tagger.triplet import Triplet

# (predicates, things, consequences for the same two). Things are COCO categories with their synonyms; "" is any thing.
CONSEQUENCES = (
    ("ride, on, stand on", "skateboard", "skateboard on"),
    ("ride, on, stand on", "surfboard", "surf on"),
    ("ride, on, stand on", "snowboard", "snowboard on"),
    ("ride, on", "skis", "ski on"),
    ("ride, on, sit on", "horse, elephant, motorcycle, bicycle", "ride, sit on"),
    ("sit in", "chair, couch", "sit on"),
    ("lie in, sleep in, sleep on", "bed", "lie on"),
    ("on, use, type on", "laptop", "work on"),
    ("on, speak on, talk on", "cell phone", "talk on, hold"),
    ("read", "book", "look at, hold"),
    ("catch, hit, kick", "sports ball, frisbee", "look at"),
    ("hit with, cut with, drink with, drink from", "", "hold"),
)
# (predicates, things, consequence, another thing that it is about and that the image may have).
CONSEQUENCES_ELSEWHERE = (
    ("sit at", "dining table, desk", "sit on", "chair"),
    ("drink", "wine", "drink with", "wine glass"),
    ("drink", "coffee, tea", "drink with", "cup"),
)

_UNCLEAR = frozenset({"board"})
"""Synonyms shared by several categories with different consequences."""


def consequences(triplets: Sequence[Triplet]) -> list[Triplet]:
    """Returns the direct and indirect consequences of one caption's triplets that are not among them; for people only.

    A consequence has its triplet's words and positions. One about another thing ("sit at a table": on a chair) is left
    out when the caption itself relates the person to such a thing.
    """
    named = {(t.subject_start, t.object_lemma) for t in triplets}
    stated = {(t.subject_start, t.predicate_lemma, t.object_lemma) for t in triplets}
    found = []
    for triplet in triplets:
        if triplet.subject_lemma.rpartition(" ")[2] not in PEOPLE:
            continue
        for predicate, noun in following(triplet.predicate_lemma, triplet.object_lemma):
            is_elsewhere = noun != triplet.object_lemma
            meant = triplet.subject_start, predicate, noun
            if meant in stated or (is_elsewhere and meant[::2] in named):
                continue
            stated.add(meant)
            implied = replace(triplet, predicate_lemma=predicate, rule=RULE)
            if is_elsewhere:
                implied = replace(implied, object_lemma=noun, object_count=triplet.subject_count, object_attributes=())
            found.append(implied)
    return found


@lru_cache(maxsize=1 << 14)
def following(predicate: str, noun: str) -> tuple[tuple[str, str], ...]:
    """Returns the predicates and nouns that follow from a canonical predicate and a noun lemma, in order."""
    reached = [(predicate, noun)]
    for pair in reached:
        reached += [found for found in dict.fromkeys(_direct(*pair)) if found not in reached]
    return tuple(reached[1:])


def _direct(predicate: str, noun: str) -> list[tuple[str, str]]:
    same = [
        (following, noun)
        for predicates, things, followings in CONSEQUENCES
        if predicate in phrases(predicates) and (not things or _names(things, noun))
        for following in phrases(followings)
    ]
    elsewhere = [
        (following, phrase_lemma(other))
        for predicates, things, following, other in CONSEQUENCES_ELSEWHERE
        if predicate in phrases(predicates) and _names(things, noun)
    ]
    return same + elsewhere


def _names(things: str, noun: str) -> bool:
    """Whether an ending of the noun phrase names one of the things ("brown horse", "laptop computer")."""
    words = noun.split()
    return not _nouns(things).isdisjoint(" ".join(words[start:]) for start in range(len(words)))


@cache
def _nouns(things: str) -> frozenset[str]:
    named = phrases(things)
    synonyms = (synonym for thing in named for synonym in SYNONYMS.get(thing, ()))
    return frozenset(map(phrase_lemma, (*named, *synonyms))) - _UNCLEAR
