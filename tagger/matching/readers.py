"""Maps the words of triplets to categories and predicates: our methods, and the authors' for comparison."""

from collections.abc import Callable, Collection, Mapping

from tagger.english.nouns import phrase_lemma
from tagger.english.predicates import canonical
from tagger.matching.matcher import match
from tagger.matching.official import Paraphrases, match_officially
from tagger.parsing.full_predicate import full_predicate
from tagger.parsing.official import authors_predicate
from tagger.triplet import Triplet

NounReader = Callable[[str, str, Collection[str]], list[str]]
"""Maps a noun as written, its lemma and the image's categories to the categories that it means."""

Wording = Callable[[Triplet], str]
"""Maps a triplet to the predicate of its candidates; empty for triplets that are left out."""


def by_whole_words(surface: str, lemma: str, categories: Collection[str]) -> list[str]:
    """Matches by our rules: `tagger.matching.matcher`."""
    return match(lemma, categories)


def by_whole_words_and(paraphrases: Paraphrases) -> NounReader:
    """Returns our matching, with the phrases of an external dictionary added to our own synonyms."""
    more: Mapping[str, Collection[str]] = {
        category: frozenset(map(phrase_lemma, phrases)) for category, phrases in paraphrases.items()
    }
    return lambda surface, lemma, categories: match(lemma, categories, more)


def by_substrings(paraphrases: Paraphrases) -> NounReader:
    """Returns the authors' matching: any phrase inside the noun as written counts, and the last category wins."""
    remembered: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    def read(surface: str, lemma: str, categories: Collection[str]) -> list[str]:
        asked = surface, tuple(categories)
        if asked not in remembered:
            remembered[asked] = match_officially(surface, asked[1], paraphrases)
        return remembered[asked]

    return read


def canonical_predicate(triplet: Triplet) -> str:
    """Returns the canonical predicate: "in front of" for "is standing in front of"."""
    return canonical(triplet.predicate_lemma)


WORDINGS: Mapping[str, Wording] = {
    "canonical": canonical_predicate,
    "full": full_predicate,
    "official": authors_predicate,
}
"""Wordings by their name in the settings."""
