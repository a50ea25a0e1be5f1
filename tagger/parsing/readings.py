"""Reads what captions imply beyond their words: in "the leg of a man" the man has a leg, "a man in a suit" wears it."""

from dataclasses import dataclass

from tagger.categories.coco import ANIMATE
from tagger.english.closed_words import AUXILIARIES
from tagger.english.lexicon import BODY_PARTS, CARRIERS, CONTAINERS, GARMENTS

READINGS = frozenset({"possessive", "contents", "attire", "covering", "implied"})
"""The rules that state a relation for which the caption has other words."""

_IN_GARMENTS = frozenset({"in", "dressed in", "clothed in", "dressed up in"})
_COVERED = frozenset({"covered in", "covered with", "covered by"})


@dataclass(frozen=True, slots=True)
class Reading:
    """The implied relation: canonical predicate, whether subject and object are swapped, and the rule's name."""

    predicate: str
    turned: bool
    rule: str


def reading(predicate: str, subject: str, object_: str) -> Reading | None:
    """Returns how to read `predicate`, as written, between two noun lemmas; None when it is meant literally."""
    words = [word for word in predicate.lower().split() if word not in AUXILIARIES]
    phrase = " ".join(words)
    if phrase == "of":
        return _of(_head(subject))
    if phrase in ("'s", "’s", "'", "’", "s"):
        return Reading("have", False, "possessive")
    if phrase in _IN_GARMENTS and _head(object_) in GARMENTS and _head(subject) in ANIMATE:
        return Reading("wear", False, "attire")
    if phrase == "with" and _head(object_) in BODY_PARTS:
        return Reading("have", False, "possessive")
    if phrase in _COVERED:
        return Reading("cover", True, "covering")
    return None


def _of(subject: str) -> Reading:
    if subject in CONTAINERS:
        return Reading("in", True, "contents")
    if subject in CARRIERS:
        return Reading("on", True, "contents")
    return Reading("have", True, "possessive")


def _head(noun: str) -> str:
    return noun.rpartition(" ")[2]
