"""What the authors' parser keeps of a caption's relations, for comparison (spec pseudo_labels 2.1)."""

from collections.abc import Iterable
from dataclasses import replace

from tagger.closed_words import FUNCTION_WORDS, tokens_of
from tagger.triplet import Triplet

# Their rules: subject, verb and object; prepositions of nouns and verbs; passives turned around.
_RULES = frozenset({"verb-object", "verb-preposition", "preposition", "noun-preposition", "passive"})


def as_authors_keep(triplets: Iterable[Triplet]) -> list[Triplet]:
    """Triplets of their rules, surface words as predicates, and of a verb with its preposition the preposition alone.

    "A woman playing in a room" gives (woman, in, room). `predicate_lemma` holds the surface; offsets stay those of the
    whole predicate.
    """
    return [replace(triplet, predicate_lemma=_kept(triplet)) for triplet in triplets if triplet.rule in _RULES]


def _kept(triplet: Triplet) -> str:
    words = tokens_of(triplet.predicate)
    if triplet.rule == "verb-preposition":
        words = words[next((at for at, word in enumerate(words) if at and word in FUNCTION_WORDS), 0) :]
    elif triplet.rule == "passive":
        words = words[:1]
    return " ".join(words)
