"""Words the predicate of a triplet: in canonical form, in full, or as the authors' parser does."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from tagger.english.lemmas import verb_lemma
from tagger.english.predicates import canonical
from tagger.english.words import ADVERBS, AUXILIARIES, DETERMINERS, FUNCTION_WORDS, merged, tokens_of
from tagger.parsing.implied import READINGS
from tagger.triplet import Triplet

Wording = Callable[[Triplet], str]
"""Maps a triplet to the predicate of its candidates; empty for a triplet that gets none."""

# Spellings of one preposition.
_VARIANTS = merged(
    {"under": "underneath, beneath, below", "on": "onto, upon", "beside": "besides", "toward": "towards"}
)
# The authors' rules: subject, verb and object; prepositions of nouns and verbs; passives with their ends swapped.
_AUTHORS_RULES = frozenset({"verb-object", "verb-preposition", "preposition", "noun-preposition", "passive"})


def canonical_predicate(triplet: Triplet) -> str:
    """Returns the canonical predicate: "in front of" for "is standing in front of"."""
    return canonical(triplet.predicate_lemma)


def full_predicate(triplet: Triplet) -> str:
    """Returns the whole predicate: "stand in front of" (canonical: "in front of"); for a passive, the verb itself.

    A relation that the words only imply ("man in a suit", rule "attire") keeps its canonical form.
    """
    if triplet.rule in READINGS:
        return triplet.predicate_lemma
    form = full_form(triplet.predicate)
    return form.removesuffix(" by") if triplet.rule == "passive" else form


@lru_cache(maxsize=1 << 16)
def full_form(text: str) -> str:
    """Returns any predicate as lemmas, without articles, auxiliaries and adverbs of degree; "be" for a bare copula."""
    tokens = [word for word in tokens_of(text) if word not in DETERMINERS]
    while tokens and tokens[0] in AUXILIARIES:
        tokens = tokens[1:]
    kept = [word for word in tokens if word not in ADVERBS] or tokens
    lemmas = (_VARIANTS.get(word, word) if word in FUNCTION_WORDS else verb_lemma(word) for word in kept)
    return " ".join(lemmas) or "be"


def authors_predicate(triplet: Triplet) -> str:
    """Returns the predicate as the authors' parser words it; empty for a relation that its rules do not find.

    These are surface words, and of a verb with a preposition only the preposition: "a woman playing in a room" gives
    "in" (docs/labels.md, Other ways to candidates).
    """
    if triplet.rule not in _AUTHORS_RULES:
        return ""
    words = tokens_of(triplet.predicate)
    if triplet.rule == "verb-preposition":
        words = words[next((at for at, word in enumerate(words) if at and word in FUNCTION_WORDS), 0) :]
    elif triplet.rule == "passive":
        words = words[:1]
    return " ".join(words)


WORDINGS: Mapping[str, Wording] = {
    "canonical": canonical_predicate,
    "full": full_predicate,
    "official": authors_predicate,
}
"""Wordings by their name in the settings."""
