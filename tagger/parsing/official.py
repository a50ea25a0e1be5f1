"""Keeps the relations that the authors' parser finds, as it words them (docs/labels.md, Other ways to candidates)."""

from tagger.english.closed_words import FUNCTION_WORDS, tokens_of
from tagger.triplet import Triplet

# The authors' rules: subject, verb and object; prepositions of nouns and verbs; passives with their ends swapped.
_RULES = frozenset({"verb-object", "verb-preposition", "preposition", "noun-preposition", "passive"})


def authors_predicate(triplet: Triplet) -> str:
    """Returns the predicate in their wording: surface words, and of a verb with a preposition only the preposition.

    "A woman playing in a room" gives "in". Empty for relations that their rules do not find.
    """
    if triplet.rule not in _RULES:
        return ""
    words = tokens_of(triplet.predicate)
    if triplet.rule == "verb-preposition":
        words = words[next((at for at, word in enumerate(words) if at and word in FUNCTION_WORDS), 0) :]
    elif triplet.rule == "passive":
        words = words[:1]
    return " ".join(words)
