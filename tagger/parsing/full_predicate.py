"""Words the predicate as its caption does: lemmas with every preposition; `canonical` keeps only what labels need."""

from functools import lru_cache

from tagger.english.closed_words import ADVERBS, AUXILIARIES, DETERMINERS, FUNCTION_WORDS, tokens_of
from tagger.english.verbs import verb_lemma
from tagger.english.words import merged
from tagger.parsing.readings import READINGS
from tagger.triplet import Triplet

# Spellings of one preposition.
_VARIANTS = merged(
    {"under": "underneath, beneath, below", "on": "onto, upon", "beside": "besides", "toward": "towards"}
)


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
    return " ".join(_lemma(word) for word in kept) or "be"


def _lemma(word: str) -> str:
    if word in FUNCTION_WORDS:
        return _VARIANTS.get(word, word)
    return verb_lemma(word)
