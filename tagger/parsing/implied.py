"""What captions imply beyond their words.

* Readings: in "the leg of a man" the man has a leg, "a man in a suit" wears it.
* Means: a skier has skis and a surfer a surfboard, even if the caption does not name them.
* Consequences: who rides a horse sits on it, and a reader holds the book. Only plain ones are listed. Where V-COCO
  annotates both actions, at least seven in ten pairs with the first have the second too: `python -m
  benchmarks.parsing implied` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from tagger.categories.names import ANIMATE, COCO, PEOPLE
from tagger.english.lemmas import noun_lemma, phrase_lemma, verb_lemma
from tagger.english.words import AUXILIARIES, BODY_PARTS, CARRIERS, CONTAINERS, GARMENTS, phrases
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from spacy.tokens import Token

IMPLIED = "implied"
REWORDED = "reworded"
READINGS = frozenset({"possessive", "contents", "attire", "covering", IMPLIED, REWORDED})
"""The rules that state a relation for which the caption has other words."""

_IN_GARMENTS = frozenset({"in", "dressed in", "clothed in", "dressed up in"})
_COVERED = frozenset({"covered in", "covered with", "covered by"})


@dataclass(frozen=True, slots=True)
class ImpliedRelation:
    """The implied relation: canonical predicate, whether subject and object are swapped, and the rule's name."""

    predicate: str
    swapped: bool
    rule: str


def reading(predicate: str, subject: str, object_: str) -> ImpliedRelation | None:
    """Returns how to read `predicate`, as written, between two noun lemmas; None when it is meant literally."""
    words = [word for word in predicate.lower().split() if word not in AUXILIARIES]
    phrase = " ".join(words)
    if phrase == "of":
        if _head(subject) in CONTAINERS:
            return ImpliedRelation("in", True, "contents")
        on = _head(subject) in CARRIERS
        return ImpliedRelation("on", True, "contents") if on else ImpliedRelation("have", True, "possessive")
    if phrase in ("'s", "’s", "'", "’", "s", "his", "her", "its", "their"):
        return ImpliedRelation("have", False, "possessive")
    if phrase in _IN_GARMENTS and _head(object_) in GARMENTS and _head(subject) in ANIMATE:
        return ImpliedRelation("wear", False, "attire")
    if phrase == "wearing" and _head(subject) in GARMENTS and _head(object_) in ANIMATE:
        return ImpliedRelation("wear", True, "attire")
    if phrase == "with" and _head(object_) in BODY_PARTS:
        return ImpliedRelation("have", False, "possessive")
    if phrase == "side by side":
        return ImpliedRelation("next to", False, "reciprocal")
    if phrase in _COVERED:
        return ImpliedRelation("cover", True, "covering")
    return None


def _head(noun: str) -> str:
    return noun.rpartition(" ")[2]


Means = tuple[str, str]
"""(canonical predicate, noun)"""

_VERBS: dict[str, Means] = {
    "ski": ("ski on", "skis"),
    "snowboard": ("snowboard on", "snowboard"),
    "skateboard": ("skateboard on", "skateboard"),
    "surf": ("surf on", "surfboard"),
    "cycle": ("ride", "bicycle"),
    "bicycle": ("ride", "bicycle"),
    "bike": ("ride", "bike"),
}
_VERBS_WITH: dict[tuple[str, str], Means] = {
    ("ride", "wave"): ("ride", "surfboard"),
    ("catch", "wave"): ("ride", "surfboard"),
    ("play", "tennis"): ("hold", "tennis racket"),
}
_PEOPLE: dict[str, Means] = {
    "skier": ("ski on", "skis"),
    "snowboarder": ("snowboard on", "snowboard"),
    "skateboarder": ("skateboard on", "skateboard"),
    "skate boarder": ("skateboard on", "skateboard"),
    "snow boarder": ("snowboard on", "snowboard"),
    "surf boarder": ("surf on", "surfboard"),
    "surfer": ("surf on", "surfboard"),
    "cyclist": ("ride", "bicycle"),
    "bicyclist": ("ride", "bicycle"),
    "biker": ("ride", "bike"),
    "equestrian": ("ride", "horse"),
    "horse rider": ("ride", "horse"),
    "motorcyclist": ("ride", "motorcycle"),
    "batter": ("hold", "baseball bat"),
    "tennis player": ("hold", "tennis racket"),
}


def means_of_verb(verb: Token) -> Iterator[Means]:
    """Yields what the activity of a verb is done with."""
    lemma = verb_lemma(verb.lower_)
    if lemma in _VERBS:
        yield _VERBS[lemma]
    for child in verb.rights:
        if child.dep_ == "dobj" and (lemma, noun_lemma(child.lower_)) in _VERBS_WITH:
            yield _VERBS_WITH[lemma, noun_lemma(child.lower_)]


def means_of_person(noun: Token) -> Means | None:
    """Returns what a person named after an activity does it with."""
    head = noun_lemma(noun.lower_)
    compounds = " ".join(child.lower_ for child in noun.lefts if child.dep_ == "compound")
    return _PEOPLE.get(f"{compounds} {head}".strip()) or _PEOPLE.get(head)


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
    added = []
    for triplet in triplets:
        if _head(triplet.subject_lemma) not in PEOPLE:
            continue
        for predicate, noun in following(triplet.predicate_lemma, triplet.object_lemma):
            is_elsewhere = noun != triplet.object_lemma
            meant = triplet.subject_start, predicate, noun
            if meant in stated or (is_elsewhere and meant[::2] in named):
                continue
            stated.add(meant)
            implied = replace(triplet, predicate_lemma=predicate, rule=IMPLIED)
            if is_elsewhere:
                implied = replace(implied, object_lemma=noun, object_count=triplet.subject_count, object_attributes=())
            added.append(implied)
    return added


@lru_cache(maxsize=1 << 14)
def following(predicate: str, noun: str) -> tuple[tuple[str, str], ...]:
    """Returns the predicates and nouns that follow from a canonical predicate and a noun lemma, in order."""
    reached = [(predicate, noun)]
    for pair in reached:
        reached += [new for new in dict.fromkeys(_direct(*pair)) if new not in reached]
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
    synonyms = (synonym for thing in named for synonym in COCO.get(thing, ()))
    return frozenset(map(phrase_lemma, (*named, *synonyms))) - _UNCLEAR
