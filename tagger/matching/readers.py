"""How the words of triplets become categories and predicates: our ways, and the authors' for comparison."""

from collections.abc import Callable, Collection, Mapping

from tagger.english.nouns import phrase_lemma
from tagger.english.predicates import canonical
from tagger.matching.matcher import match
from tagger.matching.official import Paraphrases, match_officially
from tagger.parsing.full_predicate import full_predicate
from tagger.parsing.official import authors_predicate
from tagger.triplet import Triplet

NounReader = Callable[[str, str, Collection[str]], list[str]]
"""From a noun as written, its lemma and the image's categories to those it means."""

Wording = Callable[[Triplet], str]
"""From a triplet to the predicate of its candidates; empty for triplets that are left out."""


def by_whole_words(surface: str, lemma: str, categories: Collection[str]) -> list[str]:
    """Our matching: `tagger.matching.matcher`."""
    return match(lemma, categories)


def by_whole_words_and(paraphrases: Paraphrases) -> NounReader:
    """Our matching, with phrases of an external dictionary beside our own synonyms."""
    more: Mapping[str, Collection[str]] = {
        category: frozenset(map(phrase_lemma, phrases)) for category, phrases in paraphrases.items()
    }
    return lambda surface, lemma, categories: match(lemma, categories, more)


def by_substrings(paraphrases: Paraphrases) -> NounReader:
    """The authors' matching: any phrase inside the noun as written, the last category wins."""
    remembered: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    def read(surface: str, lemma: str, categories: Collection[str]) -> list[str]:
        asked = surface, tuple(categories)
        if asked not in remembered:
            remembered[asked] = match_officially(surface, asked[1], paraphrases)
        return remembered[asked]

    return read


def canonical_predicate(triplet: Triplet) -> str:
    """ "in front of" of "is standing in front of"."""
    return canonical(triplet.predicate_lemma)


WORDINGS: Mapping[str, Wording] = {
    "canonical": canonical_predicate,
    "full": full_predicate,
    "official": authors_predicate,
}
"""Wordings by the name that settings give them."""
