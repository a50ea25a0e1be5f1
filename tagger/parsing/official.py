"""What the authors' parser keeps of a caption's relations, for comparison (spec pseudo_labels 2.1)."""

from collections.abc import Iterable
from dataclasses import replace

from tagger.english.closed_words import FUNCTION_WORDS, tokens_of
from tagger.triplet import Triplet

# Their rules: subject, verb and object; prepositions of nouns and verbs; passives turned around.
_RULES = frozenset({"verb-object", "verb-preposition", "preposition", "noun-preposition", "passive"})


def as_authors_keep(triplets: Iterable[Triplet]) -> list[Triplet]:
    """Triplets of their rules, with `authors_predicate` as `predicate_lemma`; offsets stay those of the whole predicate."""
    kept = ((triplet, authors_predicate(triplet)) for triplet in triplets)
    return [replace(triplet, predicate_lemma=predicate) for triplet, predicate in kept if predicate]


def authors_predicate(triplet: Triplet) -> str:
    """The predicate as their parser words it: surface words, and of a verb with its preposition the preposition alone.

    "A woman playing in a room" gives "in". Empty for relations that their rules don't find.
    """
    if triplet.rule not in _RULES:
        return ""
    words = tokens_of(triplet.predicate)
    if triplet.rule == "verb-preposition":
        words = words[next((at for at, word in enumerate(words) if at and word in FUNCTION_WORDS), 0) :]
    elif triplet.rule == "passive":
        words = words[:1]
    return " ".join(words)
